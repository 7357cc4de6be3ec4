"""What every output of frames has in common, and those that need no encoder: ``.npy``, folders of PNGs."""

from __future__ import annotations

import contextlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lvgan.errors import ConfigError, MachineError, MediaError
from lvgan.files import writing
from lvgan.sizes import Size

Frame = NDArray[np.uint8]


def sync_and_close(file: BinaryIO) -> None:
    """Put everything on the disk, so that a rename afterwards never shows a half-written file."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def partial_name(path: Path) -> Path:
    """What a file is called until it is complete; it keeps its suffix, so that it can be played."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class VideoWriter(ABC):
    """Takes frames one by one; a file appears under its name once, complete, or not at all.

    A context manager: leaving it normally finishes the file; leaving it by an error removes what was
    written; leaving it by a signal, or because the disk is full, keeps what can be used (:attr:`kept`).
    Memory does not grow with the number of frames.

    Args:
        path: the finished file or folder; its folder is made if need be.
        fps: frames a second.
        size: of the frames; None takes that of the first one.

    Raises:
        MachineError: the place cannot be written or the disk is full.
    """

    is_stream = False  # what is written cannot be taken back

    def __init__(self, path: Path, fps: float, size: Size | None = None) -> None:
        self.path = path
        self.fps = fps
        self.size = size
        self.frames = 0
        self.partial = partial_name(path)
        self.kept: Path | None = None  # what an interruption left
        self._open = True
        with writing(path):
            self._start()

    def write(self, frame: Frame) -> None:
        """Append one frame: uint8, [H, W, 3], or [H, W, 1] or [H, W] shown grey.

        Raises:
            ValueError: another shape or type, or another size than the first frame's.
            MachineError: the disk is full.
            MediaError: the encoder failed.
            BrokenPipeError: the reader of a stream has left.
        """
        if not self._open:
            raise ValueError(f"frame written to {self.path} after it was closed")
        rgb = _as_rgb(frame)
        if self.size is None:
            self.size = Size(*rgb.shape[:2])
        if rgb.shape[:2] != self.size:
            raise ValueError(f"frame is {rgb.shape[0]}x{rgb.shape[1]}, expected {self.size}")
        with writing(self.path):
            self._append(rgb)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. Closing twice does nothing."""
        if not self._open:
            return
        try:
            if not self.frames:
                raise MediaError(f"{self.path}: no frame was made for it, so there is no file")
            with writing(self.path):
                self._finish()
        except BaseException as error:
            if _is_defect(error):
                self.abort()
            else:
                self.suspend()
            raise
        self._open = False

    def abort(self) -> None:
        """Stop, and remove what was written."""
        if self._open:
            self._open = False
            self._discard()

    def suspend(self) -> None:
        """Stop, and keep what was written, as far as it can be used."""
        if not self.frames:
            self.abort()
        if self._open:
            self._open = False
            self.kept = self._keep()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif error is not None and _is_defect(error):
            self.abort()
        else:
            self.suspend()

    @abstractmethod
    def _start(self) -> None:
        """Make the partial file, so that an unwritable place is known before any work."""

    @abstractmethod
    def _append(self, rgb: Frame) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _discard(self) -> None: ...

    def _keep(self) -> Path | None:
        """Leave what can be used and say where; by default nothing can."""
        self._discard()
        return None


def _is_defect(error: BaseException) -> bool:
    """Whether what was written is worth nothing; after a signal or on a full disk it is."""
    return isinstance(error, Exception) and not isinstance(error, MachineError)


def _as_rgb(frame: Frame) -> Frame:
    if frame.dtype != np.uint8:
        raise ValueError(f"frame must be uint8, found {frame.dtype}")
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.ndim != 3 or frame.shape[2] not in (1, 3) or not frame.size:
        raise ValueError(f"frame must be [H, W, 3] or [H, W, 1], found {list(frame.shape)}")
    if frame.shape[2] == 1:
        frame = np.repeat(frame, 3, axis=2)
    return np.ascontiguousarray(frame)


class NpyWriter(VideoWriter):
    """``.npy``: uint8 [T, H, W, 3]. The header is written again when T is known."""

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(self.partial, "wb")  # noqa: SIM115  (closed by _finish or _discard)

    def _append(self, rgb: Frame) -> None:
        if not self.frames:
            self._file.write(self._header(0))
        self._file.write(rgb.data)

    def _finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header(self.frames))
        sync_and_close(self._file)
        os.replace(self.partial, self.path)

    def _keep(self) -> Path:
        with writing(self.path):
            self._file.seek(0)
            self._file.write(self._header(self.frames))
            self._file.truncate(len(self._header(0)) + self.frames * self._frame_bytes())
            sync_and_close(self._file)
        return self.partial

    def _discard(self) -> None:
        _close_quietly(self._file)
        self.partial.unlink(missing_ok=True)

    def _frame_bytes(self) -> int:
        assert self.size is not None
        return self.size.height * self.size.width * 3

    def _header(self, frames: int) -> bytes:
        # Version 1.0 of the format: magic, version, length, a literal padded with spaces to 128 bytes.
        assert self.size is not None
        shape = (frames, self.size.height, self.size.width, 3)
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode("latin-1") + b"\n"


class PngFolderWriter(VideoWriter):
    """A folder of ``frame_000000.png`` …; every one appears complete or not at all.

    Args:
        record: what the frames are made from. A folder with the same record is continued: `frames` says
            how many are there already. None: nothing can be continued.
        overwrite: remove the frames of another video that are there.

    Raises:
        ConfigError: the folder holds frames of another video, or anything else.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        size: Size | None = None,
        *,
        record: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self._record = record
        self._overwrite = overwrite
        self._made_folder = False
        super().__init__(path, fps, size)

    def _start(self) -> None:
        check_png_folder(self.path)
        self._made_folder = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        found = sorted(p for p in self.path.iterdir() if _is_frame(p))
        if found and not self._overwrite:
            self._check_same(len(found))
            self.frames = self._intact()
        else:
            for frame in found:
                frame.unlink()
        if self._record is not None:
            self._replace(RECORD, lambda file: file.write(json.dumps(self._record, indent=1).encode()))

    def _check_same(self, count: int) -> None:
        try:
            there = json.loads((self.path / RECORD).read_bytes())
        except (OSError, ValueError):
            there = None
        if there is not None and there == self._record:
            return
        what = f"{count} frames of another video"
        if self._record and isinstance(there, dict):
            differing = [key for key, value in self._record.items() if there.get(key) != value]
            what += f" (another {', another '.join(differing)})"
        raise ConfigError(f"{self.path} holds {what}; choose a new or an empty folder, or --overwrite")

    def _intact(self) -> int:
        """How many frames from the first on are there and complete."""
        count = 0
        while _is_complete(self._frame(count)):
            count += 1
        return count

    def _frame(self, index: int) -> Path:
        return self.path / f"frame_{index:06d}.png"

    def _append(self, rgb: Frame) -> None:
        from PIL import Image

        image = Image.fromarray(rgb)
        self._replace(self._frame(self.frames).name, lambda file: image.save(file, format="png", compress_level=3))

    def _replace(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        partial = self.path / f".{name}.partial"
        try:
            with partial.open("wb") as file:
                write(file)
            os.replace(partial, self.path / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _finish(self) -> None:
        pass

    def _discard(self) -> None:
        if self._record is None or not self.frames:
            for index in range(self.frames):
                self._frame(index).unlink(missing_ok=True)
            (self.path / RECORD).unlink(missing_ok=True)
            if self._made_folder:
                self.path.rmdir()

    def _keep(self) -> Path | None:
        self._discard()
        return None if self._record is None else self.path


RECORD = ".lvgan-video.json"


def check_png_folder(path: Path) -> None:
    """Raise :class:`ConfigError` where a folder of frames would stand among anything but frames."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file, and a folder of PNG frames was asked for; choose another name")
    others = (p.name for p in path.iterdir() if not _is_frame(p) and not _is_ours(p)) if path.exists() else iter(())
    found = next(others, None)
    if found is not None:
        raise ConfigError(f"{path} holds {found!r}, which is no frame; choose a new or an empty folder")


def _is_frame(path: Path) -> bool:
    return re.fullmatch(r"frame_\d{6,}\.png", path.name) is not None


def _is_ours(path: Path) -> bool:
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini")  # what file managers leave


def _is_complete(path: Path) -> bool:
    """Whether a PNG ends as one does: after a power cut a file can be empty or cut short."""
    try:
        with path.open("rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read(12) == b"\0\0\0\0IEND\xaeB`\x82"
    except OSError:
        return False


def _close_quietly(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # a full disk shows once more; the file goes anyway
        file.close()
