"""Frames to video files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from lvgan.data.filters import SCALE
from lvgan.data.program import FILE, Process, command_line
from lvgan.data.writers import Frame, NpyWriter, PngFolderWriter, VideoWriter, check_png_folder, disk_full, writing
from lvgan.errors import ConfigError, MediaError
from lvgan.sizes import Size

OUTPUTS = ".mp4 (H.264), .gif, .npy, or a name without a suffix for a folder of PNG frames"


def open_writer(path: str | os.PathLike[str], fps: float, size: Size | None = None) -> VideoWriter:
    """Open an output for frames by its name: ``.mp4``, ``.gif``, ``.npy``, or a folder of PNG frames.

    H.264 is 4:2:0, tagged BT.709, playable in browsers; odd sizes get their last row or column
    repeated. Nothing is seen under the name before it is complete.

    Raises:
        ConfigError: a name that stands for nothing known; raised before any work.
        MachineError: the place cannot be written.
    """
    target, kind = check_output(path)
    writers: dict[str, type[VideoWriter]] = {".npy": NpyWriter, "": PngFolderWriter}
    return writers.get(kind, _EncodedWriter)(target, fps, size)


def check_output(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The path, and its kind: ``.mp4``, ``.gif``, ``.npy`` or ``""`` for a folder. Touches nothing.

    Raises:
        ConfigError: a suffix that stands for nothing known, or something else in the way.
    """
    text = os.fspath(path)
    target = Path(text)
    kind = target.suffix.lower()
    if text == "-":
        raise ConfigError(f"video cannot be written to standard output; use {OUTPUTS}")
    if text.endswith(("/", os.sep)) or not kind or (target.is_dir() and kind not in (".mp4", ".gif", ".npy")):
        check_png_folder(target)
        return target, ""
    if kind not in (".mp4", ".gif", ".npy"):
        raise ConfigError(f"{text} ends in {target.suffix!r}, which cannot be written; use {OUTPUTS}")
    if target.is_dir():
        raise ConfigError(f"{text} is a folder; name a file, or a folder without a suffix for PNG frames")
    return target, kind


class _EncodedWriter(VideoWriter):
    """``.mp4`` and ``.gif``: an ffmpeg beside us that is fed through a pipe."""

    _process: Process | None = None

    def _start(self) -> None:
        self.partial.touch()

    def _append(self, rgb: Frame) -> None:
        pad = [(0, n % 2) for n in rgb.shape[:2]] if self._kind == ".mp4" else [(0, 0), (0, 0)]
        if any(after for _, after in pad):
            rgb = np.pad(rgb, [*pad, (0, 0)], mode="edge")
        if self._process is None:
            self._process = Process(self._encode_command(rgb.shape[0], rgb.shape[1]), reads=True)
        view = memoryview(rgb.data).cast("B")
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            self._fail()

    @property
    def _kind(self) -> str:
        return self.path.suffix.lower()

    def _encode_command(self, height: int, width: int) -> list[str]:
        rate = f"{Fraction(self.fps).limit_denominator(1001)}"
        layout = {"format": "rawvideo", "pix_fmt": "rgb24", "s": f"{width}x{height}", "framerate": rate}
        frames = ffmpeg.input("pipe:0", **layout)
        options: dict[str, Any]
        if self._kind == ".gif":
            if self.fps > 50:  # browsers slow anything faster down to 10 frames a second
                frames = frames.filter("fps", 50)
            both = frames.filter_multi_output("split", 2)
            # A palette a frame: one for the whole video would need the whole video in memory.
            palette = both[0].filter("palettegen", stats_mode="single")
            frames = ffmpeg.filter([both[1], palette], "paletteuse", new=1)
            options = {"format": "gif", "loop": 0}
        else:
            frames = frames.filter("scale", out_color_matrix="bt709", out_range="tv", flags=SCALE)
            frames = frames.filter("format", "yuv420p")
            options = {"format": "mp4", "vcodec": "libx264", "crf": 17, "movflags": "+faststart"}
            options |= dict.fromkeys(("colorspace", "color_primaries", "color_trc"), "bt709")
            options["color_range"] = "tv"
        return command_line(frames.output(FILE, **options).overwrite_output(), self.partial)

    def _finish(self) -> None:
        assert self._process is not None
        process = self._process
        if process.end() or _disk_full(process.complaints()):
            self._fail()
        self._process = None
        os.replace(self.partial, self.path)

    def _fail(self) -> None:
        assert self._process is not None
        self._process.end()
        said = self._process.complaints()
        if _disk_full(said):
            raise disk_full(self.path)
        raise MediaError(f"{self.path} could not be encoded ({said[0] if said else 'ffmpeg stopped'})")

    def _discard(self) -> None:
        if self._process is not None:
            self._process.end(kill=True)
        with writing(self.path):
            self.partial.unlink(missing_ok=True)


def _disk_full(lines: Sequence[str]) -> bool:
    return any("No space left" in line or "quota exceeded" in line.lower() for line in lines)
