"""Work that several processes share, with the same result as one: jobs that answer piece by piece."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lvgan.errors import LvganError, MachineError

if TYPE_CHECKING:
    import torch

WAIT = 0.2  # seconds between looks at the processes


class Job(Protocol):
    """What one process does; picklable."""

    @property
    def device(self) -> str:
        """Where its networks run."""

    def __call__(self, tell: Callable[[Any], None]) -> None:
        """Do it, and tell what is found, which is picklable."""


def device_of(device: torch.device, worker: int) -> str:
    """The device of a process: on ``cuda`` they take the GPUs in turn."""
    import torch

    if device.type != "cuda" or device.index is not None:
        return str(device)
    return f"cuda:{worker % torch.cuda.device_count()}"


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Float32 that is float32, and the same order of summation everywhere: one thread on a CPU, fixed kernels on a GPU.

    More processes make up for the threads.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32, torch.get_num_threads()
    try:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = False, True, False, False
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before[:4]
        torch.set_num_threads(before[4])


def together(jobs: Sequence[Job], take: Callable[[Any], None]) -> None:
    """Run each job in a process of its own, and hand every answer to `take` as it comes.

    Raises:
        LvganError: that of the first job that fails.
        MachineError: a process was ended from outside.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
    answers: Any = context.Queue()
    processes = [
        context.Process(target=_work, args=(job, number, os.getpid(), answers), daemon=True)
        for number, job in enumerate(jobs)
    ]
    try:
        for process in processes:
            process.start()
        working, ended = set(range(len(jobs))), set[int]()
        while working:
            try:
                number, kind, answer = answers.get(timeout=WAIT)
            except queue.Empty:
                before, ended = ended, {i for i in working if processes[i].exitcode is not None}
                if before & ended:  # seen twice, as its last words may have come in between
                    raise _ended_silently(processes[min(before & ended)].exitcode) from None
                continue
            if kind == "done":
                working.discard(number)
            elif kind == "failed":
                raise answer
            else:
                take(answer)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join(5)
        answers.close()
        answers.cancel_join_thread()


def _ended_silently(code: int | None) -> MachineError:
    return MachineError(
        f"a process that looks at clips ended without a word (exit code {code}; too little memory?): run it again "
        "with fewer --workers, or with --workers 1 to see what stopped it"
    )


def _work(job: Job, number: int, parent: int, answers: Any) -> None:
    """One process: its answers, then that it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if number > 0:
        logging.getLogger("lvgan").setLevel(logging.ERROR)  # one process warns for all
    import torch

    try:
        device = torch.device(job.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        elif device.type == "cpu":
            torch.set_num_threads(1)
        job(lambda answer: answers.put((number, "answer", answer)))
        answers.put((number, "done", None))
    except LvganError as error:
        answers.put((number, "failed", error))
    except Exception:
        failed = RuntimeError(f"a process that looks at clips failed:\n{traceback.format_exc()}")
        answers.put((number, "failed", failed))


def _leave_with(parent: int) -> None:
    """End when the parent is gone without a word."""
    while os.getppid() == parent:
        time.sleep(WAIT)
    os._exit(1)
