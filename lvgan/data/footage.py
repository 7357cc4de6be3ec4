"""Footage of the procedural world (:mod:`lvgan.data.world`) as video files, for trials and tests."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from lvgan.data.encoding import open_writer
from lvgan.data.world import World
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.sizes import LARGEST_SIDE, Size

SETTINGS = "footage.json"
SMALLEST_SIDE = 8
WORLD_VERSION = 1  # raised whenever the same seed would give other pictures

_written: Synchronized[int] | None = None  # frames written by all workers; set in workers only


def write_footage(
    folder: Path,
    *,
    videos: int = 12,
    seconds: float = 20.0,
    fps: float = 30,
    size: Size = Size(256, 256),
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Render ``world_0000.mp4`` ... into `folder`, each a different place, time of day and weather.

    Videos that are there already are kept, so the same call goes on where an earlier one stopped, and
    a larger `videos` adds to them. ``footage.json`` records the other settings.

    Args:
        seconds: length of each video; `fps` frames each second, the camera moves the same way a frame.
        size: height and width in pixels, 8 or more; H.264 repeats the last row or column of odd sizes.
        workers: processes; None takes one for each processor. 1 renders in this process.
        overwrite: replace footage of other settings, and videos that are there.

    Raises:
        ConfigError: a number outside its range.
        DataError: `folder` holds footage of other settings, or is a file.
        MachineError: the place cannot be written, or there is no ffmpeg.
    """
    _check(videos, seconds, fps, size, workers)
    frames = max(1, round(seconds * fps))
    settings = {"world": WORLD_VERSION, "seed": seed, "frames": frames, "fps": fps, "size": str(size)}
    _claim(folder, settings, overwrite)
    paths = [folder / f"world_{video:04d}.mp4" for video in range(videos)]
    jobs = [(seed, video, frames, fps, size, path) for video, path in enumerate(paths) if not path.exists()]
    if not jobs:
        return paths
    workers = min(workers or _processors(), len(jobs))
    with _bar(len(jobs) * frames, progress) as advance:
        if workers == 1:
            for job in jobs:
                for _ in _render(*job):
                    advance(1)
        else:
            _share(jobs, workers, advance)
    return paths


def _render(seed: int, video: int, frames: int, fps: float, size: Size, path: Path) -> Iterator[None]:
    """Write one video; yields after every frame."""
    world = World(seed, video)
    with open_writer(path, fps, size) as writer:
        for index in range(frames):
            writer.write(world.frame(index, size.height, size.width))
            yield


def _share(jobs: list[Any], workers: int, advance: Any) -> None:
    """Render in processes. They are started afresh: a fork of a program with threads may hang."""
    context = multiprocessing.get_context("spawn")
    written: Synchronized[int] = context.Value("q", 0)
    seen = 0
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(written,))
    try:
        waiting: set[Future[None]] = {pool.submit(_work, job) for job in jobs}
        while waiting:
            done, waiting = wait(waiting, timeout=0.2)
            advance(written.value - seen)
            seen = written.value
            for future in done:
                future.result()
    except BrokenProcessPool as error:
        raise MachineError(
            "a rendering process was ended from outside (too little memory, or a script without "
            '`if __name__ == "__main__"`); run it again, it goes on, or with workers=1'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(written: Synchronized[int]) -> None:
    global _written
    _written = written


def _work(job: Any) -> None:
    assert _written is not None
    for _ in _render(*job):
        with _written.get_lock():
            _written.value += 1


@contextmanager
def _bar(frames: int, show: bool) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=frames, unit="frame", dynamic_ncols=True, disable=not show) as bar:
        yield bar.update


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _check(videos: int, seconds: float, fps: float, size: Size, workers: int | None) -> None:
    if not 1 <= videos <= 9999:
        raise ConfigError(f"videos is {videos}, expected 1 to 9999")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds is {seconds:g}, expected a length above 0, as in 20")
    if not (math.isfinite(fps) and 1 <= fps <= 240):
        raise ConfigError(f"fps is {fps:g}, expected 1 to 240 frames a second, as in 30")
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise ConfigError(
            f"size is {size}, expected height x width from {SMALLEST_SIDE} to {LARGEST_SIDE}, as in 256x256"
        )
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}, expected 1 or more processes")


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder ours: record the settings, refuse those of other footage, or remove that footage."""
    from lvgan.files import writing

    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, but a folder was expected; name another")
    record = folder / SETTINGS
    there = sorted(folder.glob("world_*.mp4"))
    if there and not overwrite:
        found = _read(record)
        other = [f"{k} {found.get(k)} instead of {v}" for k, v in settings.items() if found.get(k) != v]
        if other:
            raise DataError(
                f"{folder} holds footage of other settings ({', '.join(other)}); "
                "name another folder, or replace it with --overwrite"
            )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in there:
                path.unlink()
        partial = record.with_name(record.name + ".partial")
        partial.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, record)


def _read(record: Path) -> dict[str, Any]:
    """Recorded settings; empty where there are none that can be read."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
