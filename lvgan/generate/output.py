"""Float frames to picture and video files, written beside the networks' work."""

from __future__ import annotations

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


class _Line(Generic[_T]):
    """A queue in which `_DEPTH` items have room.

    ``queue.Queue`` takes its lock in Python, where the exception that a signal handler raises (Ctrl-C) can leave it
    taken: whoever uses the queue next then waits for ever. ``queue.SimpleQueue`` is C, which no handler interrupts.
    """

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_T] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_DEPTH):
            self._room.put(None)

    def offer(self, item: _T) -> bool:
        """Put an item, unless there is no room for 0.2 s; whether it was put."""
        try:
            self._room.get(timeout=0.2)
        except queue.Empty:
            return False
        self._items.put(item)
        return True

    def push(self, item: _T) -> None:
        """Put an item, room or not."""
        self._items.put(item)

    def get(self) -> _T:
        item = self._items.get()
        self._room.put(None)
        return item


class _Beside(Generic[_T]):
    """Does one thing with every item, in order, in a thread of its own; an error shows at the next item."""

    def __init__(self, work: Callable[[_T], object]) -> None:
        self._work = work
        self._items = _Line[_T | None]()
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
        while self._error is None:
            if self._items.offer(item):
                return
        raise self._error

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
        self._items.push(None)
        self._thread.join(2)  # not for ever: a reader of a stream may have stopped reading


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, fetched by a thread of its own a few ahead of their use."""
    fetched = _Line[tuple[_T | None, BaseException | None]]()
    stopped = False

    def fetch() -> None:
        try:
            for item in items:
                while not stopped and not fetched.offer((item, None)):
                    pass
                if stopped:
                    return
            fetched.push((None, StopIteration()))
        except BaseException as error:
            fetched.push((None, error))

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
        stopped = True
        thread.join()
