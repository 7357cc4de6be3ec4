"""Float frames to picture and video files, written beside the networks' work."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from lvgan.data.encoding import open_writer
from lvgan.data.writers import VideoWriter
from lvgan.files import write_whole
from lvgan.pixels import to_bytes

_T = TypeVar("_T")
_DEPTH = 8  # frames that may wait between two stages


def frame_array(frame: Tensor) -> np.ndarray:
    """A float picture ``[C, H, W]`` as uint8 ``[H, W, 1 or 3]``; of 2 or 4 channels the first is shown."""
    picture = to_bytes(frame)
    if picture.shape[0] not in (1, 3):
        picture = picture[:1]
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def write_picture(frame: Tensor, path: Path) -> None:
    """Write a float picture ``[C, H, W]`` as PNG."""
    array = frame_array(frame)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    write_whole(path, lambda file: image.save(file, format="png"))


def write_video(frames: Iterable[Tensor], path: Path, fps: float = 30) -> int:
    """Write float frames ``[C, H, W]`` as they come; the format is the path's (see ``open_writer``).

    Returns how many were written.
    """
    with open_writer(path, fps) as writer:
        return feed(frames, writer)


def feed(frames: Iterable[Tensor], writer: VideoWriter) -> int:
    """Give float frames ``[C, H, W]`` to a writer, which works in a thread of its own. Returns how many."""
    count = 0
    with _Beside[Tensor](lambda frame: writer.write(frame_array(frame))) as worker:
        for frame in frames:
            worker.put(frame)
            count += 1
    return count


class _Beside(Generic[_T]):
    """Does one thing with every item, in order, in a thread of its own; an error shows at the next item."""

    def __init__(self, work: Callable[[_T], object]) -> None:
        self._work = work
        self._items: queue.Queue[_T | None] = queue.Queue(_DEPTH)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._items.get()) is not None and not self._stopped:
            try:
                self._work(item)
            except BaseException as error:
                self._error = error
                return

    def put(self, item: _T | None) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                return self._items.put(item, timeout=0.2)
            except queue.Full:
                continue

    def __enter__(self) -> _Beside[_T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.put(None)
            while self._thread.is_alive():  # in steps, so that a signal gets through
                self._thread.join(0.5)
            if self._error is not None:
                raise self._error
            return
        self._stopped = True
        with contextlib.suppress(queue.Full):  # then it sees `_stopped` next
            self._items.put_nowait(None)
        self._thread.join(2)  # not for ever: a reader of a stream may have stopped reading


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, fetched by a thread of its own a few ahead of their use."""
    fetched: queue.Queue[tuple[_T | None, BaseException | None]] = queue.Queue(_DEPTH)
    stopped = threading.Event()

    def give(entry: tuple[_T | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return fetched.put(entry, timeout=0.2)
            except queue.Full:
                continue

    def fetch() -> None:
        try:
            for item in items:
                give((item, None))
                if stopped.is_set():
                    return
            give((None, StopIteration()))
        except BaseException as error:
            give((None, error))

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            item, error = fetched.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
