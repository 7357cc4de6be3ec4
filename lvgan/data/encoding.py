"""Frames to video files and streams."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import ffmpeg
import numpy as np

from lvgan.data.filters import SCALE
from lvgan.data.program import COPY, FILE, Process, command_line
from lvgan.data.writers import (
    Frame,
    NpyWriter,
    PngFolderWriter,
    VideoWriter,
    check_png_folder,
)
from lvgan.errors import ConfigError, MediaError
from lvgan.files import disk_full, writing
from lvgan.sizes import Size

OUTPUTS = ".mp4 or .mkv (H.264), .gif, .npy, a name without a suffix for a folder of PNG frames, or - for a stream"
STREAMS = ("matroska", "raw")
_FILES = (".mp4", ".mkv", ".gif", ".npy")
_PATIENCE = 10.0  # seconds that an encoder has to finish a file that was interrupted
_STREAM_PATIENCE = 2.0  # its reader may have stopped reading


def open_writer(
    path: str | os.PathLike[str],
    fps: float,
    size: Size | None = None,
    *,
    record: dict[str, Any] | None = None,
    overwrite: bool = False,
    stream: str = "matroska",
) -> VideoWriter:
    """Open an output for frames by its name.

    ``.mp4``, ``.mkv``, ``.gif``, ``.npy``, a folder of PNG frames, or ``-`` (and any named pipe) for a stream.
    H.264 is 4:2:0, tagged BT.709, playable in browsers; odd sizes get their last row or column repeated. A file
    is not seen under its name before it is complete; until then it grows, playable at any moment where the
    format allows it, as ``NAME.partial.mp4``.

    Args:
        path: where to.
        fps: frames a second.
        size: of the frames; None takes that of the first one.
        record: what the frames are made from; a folder of PNGs with the same record is continued
            (``writer.frames`` are there already).
        overwrite: replace the frames of another video in a folder of PNGs.
        stream: "matroska" (H.264), or "raw" (uint8, H x W x RGB, frame after frame, no header).

    Raises:
        ConfigError: a name that stands for nothing known; raised before any work.
        MachineError: the place cannot be written.
    """
    if not 0.1 <= fps <= 1000:
        raise ConfigError(f"{fps} frames a second were asked for, but 0.1 to 1000 are possible; 30 is usual")
    target, kind = check_output(path)
    if kind == "-":
        return StreamWriter(target, fps, size, stream)
    if kind == "":
        return PngFolderWriter(target, fps, size, record=record, overwrite=overwrite)
    return NpyWriter(target, fps, size) if kind == ".npy" else EncodedWriter(target, fps, size)


def check_output(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The path, and its kind: a suffix, ``""`` for a folder, ``-`` for a stream. Touches nothing.

    Raises:
        ConfigError: a suffix that stands for nothing known, or something else in the way.
    """
    with writing(Path(path)):  # a name can be too long even to ask whether it exists
        return _check_output(os.fspath(path))


def _check_output(text: str) -> tuple[Path, str]:
    target = Path(text)
    kind = target.suffix.lower()
    if not text or target.name in _FILES:
        raise ConfigError(f"{text!r} is no name for an output; use {OUTPUTS}")
    if text == "-" or _is_pipe(target):
        return target, "-"
    if text.endswith(("/", os.sep)) or not kind or (target.is_dir() and kind not in _FILES):
        check_png_folder(target)
        return target, ""
    if kind not in _FILES:
        raise ConfigError(f"{text} ends in {target.suffix!r}, which cannot be written; use {OUTPUTS}")
    if target.is_dir():
        raise ConfigError(f"{text} is a folder; name a file, or a folder without a suffix for PNG frames")
    return target, kind


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode) or stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


class _FfmpegWriter(VideoWriter):
    """An ffmpeg beside us that is fed through a pipe."""

    _process: Process | None = None

    def _append(self, rgb: Frame) -> None:
        pad = [(0, 0 if self._kind == ".gif" else n % 2) for n in rgb.shape[:2]]
        if any(after for _, after in pad):
            rgb = np.pad(rgb, [*pad, (0, 0)], mode="edge")
        if self._process is None:
            self._process = self._encode(rgb.shape[0], rgb.shape[1])
        try:
            _write_all(self._process.stdin, rgb)
        except (BrokenPipeError, ValueError) as error:  # ValueError: closed by an interruption meanwhile
            self._fail(error)

    @property
    def _kind(self) -> str:
        return self.path.suffix.lower()

    @abstractmethod
    def _encode(self, height: int, width: int) -> Process:
        """Start the program that takes frames of this size."""

    def _frames_in(self, height: int, width: int) -> Any:
        rate = f"{Fraction(self.fps).limit_denominator(1001)}"
        layout = {"format": "rawvideo", "pix_fmt": "rgb24", "s": f"{width}x{height}", "framerate": rate}
        return ffmpeg.input("pipe:0", **layout)

    def _h264(self, frames: Any, **more: Any) -> tuple[Any, dict[str, Any]]:
        """The pictures to encode, and how: as browsers play them."""
        frames = frames.filter("scale", out_color_matrix="bt709", out_range="tv", flags=SCALE)
        # A key frame every two seconds: so much, at most, is lost of a file that is cut short.
        options: dict[str, Any] = {"vcodec": "libx264", "crf": 17, "g": max(round(2 * self.fps), 1)}
        options |= dict.fromkeys(("colorspace", "color_primaries", "color_trc"), "bt709")
        return frames.filter("format", "yuv420p"), options | {"color_range": "tv"} | more

    def _end(self) -> None:
        assert self._process is not None
        if self._process.end() or _is_full(self._process.complaints()):
            self._fail(None)
        self._process = None

    def _fail(self, cause: Exception | None) -> None:
        assert self._process is not None
        self._process.end(patience=_PATIENCE)
        said = self._process.complaints()
        if _is_full(said):
            raise disk_full(self.path)
        if any("Broken pipe" in line for line in said):
            raise BrokenPipeError from cause
        raise MediaError(f"{self.path} could not be encoded ({said[0] if said else 'ffmpeg stopped'})") from cause

    def _discard(self) -> None:
        if self._process is not None:
            self._process.end(kill=True)


class EncodedWriter(_FfmpegWriter):
    """``.mp4``, ``.mkv`` and ``.gif`` files.

    An mp4 grows in fragments, so that it plays whenever it is cut short; complete, it is rewritten
    without them, for programs that cannot jump about in fragments.
    """

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial.touch()

    def _encode(self, height: int, width: int) -> Process:
        frames = self._frames_in(height, width)
        options: dict[str, Any]
        if self._kind == ".gif":
            if self.fps > 50:  # browsers slow anything faster down to 10 frames a second
                frames = frames.filter("fps", 50)
            both = frames.filter_multi_output("split", 2)
            # A palette a frame: one for the whole video would need the whole video in memory.
            palette = both[0].filter("palettegen", stats_mode="single")
            frames = ffmpeg.filter([both[1], palette], "paletteuse", new=1)
            options = {"format": "gif", "loop": 0}
        elif self._kind == ".mkv":
            frames, options = self._h264(frames, format="matroska")
        else:
            frames, options = self._h264(frames, format="mp4", movflags="frag_keyframe+empty_moov+default_base_moof")
        options["flush_packets"] = 1  # not 256 kB at a time, of which a kill would lose the last
        return Process(command_line(frames.output(FILE, **options).overwrite_output(), self.partial), reads=True)

    def _finish(self) -> None:
        self._end()
        try:
            if self._kind == ".mp4":
                self._defragment()
        finally:
            os.replace(self.partial, self.path)

    def _defragment(self) -> None:
        whole = self.path.with_name(f"{self.path.stem}.whole.partial{self.path.suffix}")
        stream = ffmpeg.input(FILE).output(COPY, format="mp4", c="copy", movflags="+faststart").overwrite_output()
        process = Process(command_line(stream, self.partial, whole), reads=True)
        try:
            if process.end() == 0 and not _is_full(process.complaints()):
                os.replace(whole, self.partial)
        except BaseException:
            process.end(kill=True)
            raise
        finally:
            whole.unlink(missing_ok=True)  # no room for a second copy, no time: the fragments hold every frame too

    def _discard(self) -> None:
        super()._discard()
        with writing(self.path):
            self.partial.unlink(missing_ok=True)

    def _keep(self) -> Path | None:
        if self._process is not None:
            self._process.end(patience=_PATIENCE)
        if self._kind != ".gif" and self.partial.exists():
            return self.partial
        if self.partial.exists():
            self._discard()
        return self.path if self.path.exists() else None


class StreamWriter(_FfmpegWriter):
    """Frames to standard output or a named pipe, for a player or another program.

    Raises:
        ConfigError: an unknown stream, or a terminal that would show it.
    """

    is_stream = True

    def __init__(self, path: Path, fps: float, size: Size | None = None, stream: str = "matroska") -> None:
        if stream not in STREAMS:
            raise ConfigError(f"a stream of {stream!r} was asked for, but one of {', '.join(STREAMS)} was expected")
        self._raw = stream == "raw"
        super().__init__(path, fps, size)

    def _start(self) -> None:
        if str(self.path) != "-":
            self._out: BinaryIO = self.path.open("wb", buffering=0)  # waits for a reader
        elif sys.stdout is None or sys.stdout.isatty():
            raise ConfigError("-o - would write video to the terminal; send it on, as in: lvgan sample … -o - | mpv -")
        else:
            self._out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)

    def _append(self, rgb: Frame) -> None:
        if self._raw:
            _write_all(self._out, rgb)
        else:
            super()._append(rgb)

    @property
    def _kind(self) -> str:
        return ".mkv"

    def _encode(self, height: int, width: int) -> Process:
        # Without frames from later, and sent on at once: a player shows a frame when it is made.
        frames, options = self._h264(self._frames_in(height, width), format="matroska", tune="zerolatency")
        options |= {"cluster_time_limit": 500, "flush_packets": 1}
        # The muxer writes to what this process calls its standard output.
        command = command_line(frames.output("pipe:1", **options), self.path)
        return Process(command, reads=True, stdout=self._out)

    def _finish(self) -> None:
        if self._process is not None:
            self._end()
        self._out.close()

    def _keep(self) -> None:
        if self._process is not None:
            self._process.end(patience=_STREAM_PATIENCE)
        self._close_out()

    def _discard(self) -> None:
        super()._discard()
        self._close_out()

    def _close_out(self) -> None:
        with contextlib.suppress(OSError):
            self._out.close()


def _write_all(file: BinaryIO, rgb: Frame) -> None:
    view = memoryview(rgb.data).cast("B")
    while view:
        view = view[file.write(view) :]


def _is_full(lines: Sequence[str]) -> bool:
    return any("No space left" in line or "quota exceeded" in line.lower() for line in lines)
