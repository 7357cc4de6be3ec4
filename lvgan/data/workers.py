"""Units made by several processes: of this machine, or of a Dask cluster."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from lvgan.data.convert import WORK, StoppedError, Task, Watch, make_unit
from lvgan.data.manifest import ShardRecord
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.files import writing

Advance = Callable[[int], None]
Made = tuple[Task, list[ShardRecord]]

PATIENCE = 10.0  # seconds for a scheduler to answer


def run_here(tasks: Sequence[Task], advance: Advance) -> Iterator[Made]:
    """One after the other, in this process."""
    for task in tasks:
        yield task, make_unit(task, Watch(advance))


# --- processes of this machine --------------------------------------------------------------------


def run_processes(tasks: Sequence[Task], workers: int, advance: Advance) -> Iterator[Made]:
    """Several at a time. If one fails, or the caller stops, the others leave what they do.

    Raises:
        MachineError: a process was ended from outside.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
    frames: Synchronized[int] = context.Value("q", 0)
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(frames, stop, os.getpid()))
    seen = 0
    try:
        with _without_main():  # processes are started as work is handed in
            futures: dict[Future[list[ShardRecord]], Task] = {pool.submit(_work, task): task for task in tasks}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            now = frames.value
            advance(now - seen)
            seen = now
            for future in done:
                yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise MachineError(
            "a process that converts was ended from outside (too little memory?); "
            "run it again, it goes on, or with fewer workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes started here do not import the program that called us: a script need not guard against that."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: main.__dict__[name] for name in ("__file__", "__spec__") if name in main.__dict__}
    try:
        main.__dict__.update(dict.fromkeys(hidden))
        yield
    finally:
        main.__dict__.update(hidden)


_frames: Synchronized[int] | None = None  # in workers only
_watches: list[Watch] = []


def _start(frames: Synchronized[int], stop: Event, parent: int) -> None:
    global _frames
    _frames = frames
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_wait_for_end, args=(stop, parent), daemon=True).start()


def _wait_for_end(stop: Event, parent: int) -> None:
    """Leave when the parent says so, or when it is gone without a word."""
    while not stop.is_set():
        if os.getppid() != parent:
            os._exit(1)
        time.sleep(0.2)
    for watch in list(_watches):
        watch.stop()


def _work(task: Task) -> list[ShardRecord]:
    watch = Watch(_advance)
    _watches.append(watch)
    try:
        return make_unit(task, watch)
    finally:
        _watches.remove(watch)


def _advance(frames: int) -> None:
    assert _frames is not None
    with _frames.get_lock():
        _frames.value += frames


# --- a Dask cluster -------------------------------------------------------------------------------


def run_dask(address: str, tasks: Sequence[Task], advance: Advance) -> Iterator[Made]:
    """On the workers of a Dask cluster, which must see the same folders. A unit whose worker dies goes to another.

    Raises:
        ConfigError: Dask is not installed, or there is no scheduler at `address`.
        DataError: the workers do not see the folders.
        MachineError: workers died again and again over one unit.
    """
    try:
        import distributed
    except ImportError:
        raise ConfigError("--dask needs the package distributed: pip install 'lvgan[dask]'") from None
    with _client(distributed, address) as client:
        _check_folders(client, tasks[0].out)
        futures = {client.submit(make_unit, task, pure=False, key=_key(task)): task for task in tasks}
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                task = futures[future]
                try:
                    records = future.result()
                except distributed.KilledWorker as error:
                    raise MachineError(
                        f"the Dask workers died over {task.unit.jobs[0].source.relative} again and again "
                        "(too little memory?); run it again, it goes on"
                    ) from error
                advance(task.unit.frames)
                yield task, records
        finally:
            client.cancel(list(futures))


def _key(task: Task) -> str:
    # Of this run: a failure of an earlier one must not be remembered.
    return f"lvgan-prepare-{task.unit.key[:16]}-{uuid.uuid4().hex[:8]}"


@contextmanager
def _client(distributed: Any, address: str) -> Iterator[Any]:
    async def answer() -> None:
        arguments = distributed.Security().get_connection_args("client")
        comm = await distributed.core.connect(address, timeout=PATIENCE, **arguments)
        await comm.close()

    try:
        # First without a Client: one that never connected complains when Python takes it away.
        distributed.utils.LoopRunner(asynchronous=False).run_sync(answer)
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address!r}; give its address, as in tcp://10.0.0.1:8786"
        ) from error
    try:
        if not client.scheduler_info().get("workers"):
            client.wait_for_workers(1, timeout=60)
        yield client
    except TimeoutError as error:
        raise ConfigError(f"the Dask cluster at {address} has no workers; start some") from error
    finally:
        client.close()


def _check_folders(client: Any, out: Path) -> None:
    token = out / WORK / f"seen-{uuid.uuid4().hex}"
    with writing(token):
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    try:
        answers = client.run(functools.partial(os.path.exists, str(token)))
    finally:
        token.unlink(missing_ok=True)
    blind = [worker for worker, seen in answers.items() if seen is not True]
    if blind:
        raise DataError(
            f"{len(blind)} of {len(answers)} Dask workers do not see {out} ({blind[0]}); "
            "use a folder that all machines share, under the same path"
        )


__all__ = ["StoppedError", "run_dask", "run_here", "run_processes"]
