"""Video files in and out, by ffmpeg. No other file starts it.

ffmpeg runs in a process of its own, without a shell. Inputs are given as ``file:`` and an absolute
path, so that no character of a name means anything; only files and pipes may be opened, and only
by formats that hold video themselves: a playlist in disguise opens nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import selectors
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from lvgan.data.filters import SCALE, Span, count, emitted, frame_numbers, picture_filters, time_filters
from lvgan.data.info import VideoInfo, clean, parse_info, plain
from lvgan.data.writers import NpyWriter, PngFolderWriter, VideoWriter, check_png_folder, disk_full, writing
from lvgan.errors import ConfigError, MachineError, MediaError
from lvgan.sizes import Size

Frame = NDArray[np.uint8]  # [H, W, 3]

STALL_SECONDS = 120.0  # a decoder that has given nothing for so long is stopped

# Demuxers that read what is in the file itself. Left out: hls, dash, concat, image2 and the like,
# which open other files.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,gif,apng,webp_anim,ogg,rm,mxf,gxf,nut,ivf,obu,av1,"
    "mp3,aac,wav,w64,flac,aiff,caf,h261,h263,h264,hevc,vvc,evc,vc1,cavsvideo,avs2,avs3,dirac,dnxhd,mjpeg,yuv4mpegpipe,dv,wtv,nsv,swf,"
    "bink,smk,roq,flic,film_cpk,amv,4xm,r3d,lvf,ser,y4m"
)
_FILE = "FILE"
_SAFE_INPUT = {"protocol_whitelist": "file,pipe", "format_whitelist": _FORMATS}


# --- the program ----------------------------------------------------------------------------------


def find_ffmpeg() -> str:
    """The ffmpeg that is used: ``LVGAN_FFMPEG``, the one shipped with imageio-ffmpeg, or the one on PATH.

    Raises:
        MachineError: none of them exists.
    """
    named = os.environ.get("LVGAN_FFMPEG")
    if named:
        found = shutil.which(named)
        if found is None:
            raise MachineError(f"LVGAN_FFMPEG names {named}, which is not a program; correct it or unset it")
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
    if found is None:
        raise MachineError(
            "no ffmpeg was found: `pip install imageio-ffmpeg` brings one, or set LVGAN_FFMPEG to the path of yours"
        )
    return found


def ffmpeg_version() -> str:
    """The first words of ``ffmpeg -version``, such as ``7.1``.

    Raises:
        MachineError: the program is no ffmpeg, or does not answer.
    """
    program = find_ffmpeg()
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=20)
        match = re.match(rb"ffmpeg version (\S+)", answer.stdout)
    except (OSError, subprocess.TimeoutExpired):
        match = None
    if match is None:
        raise MachineError(f"{program} does not work as ffmpeg; name one that does with LVGAN_FFMPEG, or unset it")
    return match[1].decode("utf-8", "replace")


def _command(stream: Any, file: Path) -> list[str]:
    """The command line of a graph whose input or output is :data:`_FILE`."""
    # ffmpeg-python hashes what it is given as UTF-8, which not every file name is: the name is put in afterwards.
    # As a URL, so that no name is an option, a protocol or a pattern.
    name = f"file:{file.absolute()}"
    compiled = [name if word == _FILE else word for word in ffmpeg.compile(stream, cmd=find_ffmpeg())]
    return [compiled[0], "-hide_banner", "-nostdin", "-loglevel", "error", *compiled[1:]]


class _Process:
    """One running ffmpeg. What it says is read all the time, so that it never waits for us to listen."""

    def __init__(self, command: list[str], *, reads: bool = False) -> None:
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def stdin(self) -> BinaryIO:
        assert self._popen.stdin is not None
        return self._popen.stdin  # type: ignore[return-value]

    @property
    def stdout(self) -> BinaryIO:
        assert self._popen.stdout is not None
        return self._popen.stdout  # type: ignore[return-value]

    def _listen(self) -> None:
        assert self._popen.stderr is not None
        with self._popen.stderr as stream:
            for line in stream:
                text = clean(line.decode("utf-8", "replace"))
                if text and len(self._first) < 20:
                    self._first.append(text)
                self._last.append(text)

    def complaints(self) -> list[str]:
        """What it said: the first lines, then the last ones. Complete after :meth:`end`."""
        return self._first + [line for line in self._last if line and line not in self._first]

    def kill(self) -> None:
        """Stop it at once."""
        self._popen.kill()

    def end(self, *, kill: bool = False) -> int:
        """Wait for it, or stop it; its exit status."""
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if kill:
            self._popen.kill()
        status = self._popen.wait()
        self._listener.join()
        return status


# --- probe ----------------------------------------------------------------------------------------


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Look into a video file.

    Raises:
        MediaError: missing, empty, unreadable, not a video, or without a video stream.
    """
    source = Path(path)
    _check_readable(source)
    command = _command(ffmpeg.input(_FILE, **_SAFE_INPUT).output("-", format="null"), source)
    command = command[: command.index("-i") + 2]  # input only: ffmpeg describes it and leaves
    command[command.index("error")] = "info"
    try:
        result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=STALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise MediaError(f"{source} could not be examined within {STALL_SECONDS:.0f} s") from None
    return parse_info(source, result.stderr.decode("utf-8", "replace"))


def measure_duration(path: str | os.PathLike[str]) -> float:
    """Seconds of video in a file that does not state them, found by walking through it undecoded.

    Raises:
        MediaError: it cannot be found out.
    """
    source = Path(path)
    stream = ffmpeg.input(_FILE, **_SAFE_INPUT)["V"].output("-", format="null", c="copy")
    command = _command(stream, source)
    command[command.index("error")] = "info"
    said = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stderr
    times = re.findall(r"time=(\d+):(\d\d):(\d\d(?:\.\d+)?)", said.decode("utf-8", "replace"))
    if not times:
        raise MediaError(f"{source} does not say how long it is, and its length could not be measured")
    hours, minutes, seconds = times[-1]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _check_readable(path: Path) -> None:
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a folder; a video file was expected")
        if path.exists() and not path.is_file():
            raise MediaError(f"{path} is a device or a pipe; a video file was expected")
        with open(path, "rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise MediaError(f"{path} does not exist") from None
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror})") from error
    if empty:
        raise MediaError(f"{path} is empty (0 bytes)")


# --- decode ---------------------------------------------------------------------------------------


def read_frames(
    path: str | os.PathLike[str],
    sizes: Sequence[Size] | None = None,
    *,
    fps: float | None = 30,
    start: float | None = None,
    end: float | None = None,
    spans: Sequence[Span] | None = None,
    crop: bool = True,
    threads: int = 0,
    stall: float = STALL_SECONDS,
) -> FrameReader:
    """Decode a video once, in order, to every size that is asked for.

    The frame rate is made constant first (frames repeated or dropped, never blended), pixels are
    made square, the centre is cropped to each size's aspect ratio, and Lanczos scaling with
    antialiasing brings it to that size. Frames come upright.

    Args:
        path: the video.
        sizes: one or more sizes; None gives the displayed size.
        fps: frames a second; None gives every stored frame once.
        start, end: seconds from the start of the file, `end` not included.
        spans: several such intervals instead, ascending and apart (needs `fps`).
        crop: False stretches the whole picture instead.
        threads: of the decoder; 0 lets it choose.
        stall: seconds without a frame after which the decoder is stopped.

    Returns:
        An iterator of tuples of uint8 [H, W, 3], one for each size. See :class:`FrameReader`.

    Raises:
        MediaError: the file cannot be used at all (see :func:`probe`), or gives no frame.
    """
    info = probe(path)
    if spans is None:
        spans = [] if start is None and end is None else [(start or 0.0, end)]
    if fps is None and len(spans) > 1:
        raise ValueError("spans need a constant frame rate: give fps")
    targets = list(sizes) if sizes is not None else [Size(info.height, info.width)]
    numbers = frame_numbers(spans, fps) if fps is not None else []
    stream = ffmpeg.input(_FILE, threads=threads, **_SAFE_INPUT)["V"]
    stream = time_filters(stream, fps, numbers, spans)
    stream = picture_filters(stream, targets, crop)
    # passthrough: the graph has made the rate constant; nothing may be repeated or dropped after it.
    options: dict[str, Any] = {"format": "rawvideo", "pix_fmt": "rgb24", "fps_mode": "passthrough"}
    limit = count(numbers)
    if limit is not None:
        options["frames:v"] = max(limit, 1)
    command = _command(stream.output("pipe:1", **options), Path(path))
    plan = emitted(numbers) if numbers else ((n, 0) for n in itertools.count())
    expected = info.duration if not spans else None
    return FrameReader(Path(path), info, command, targets, plan, fps, expected, stall)


class FrameReader:
    """Frames of one video as they are decoded: an iterator, and a context manager that stops ffmpeg.

    Attributes:
        info: what :func:`probe` found.
        number: of the last frame, counted at the constant rate from the start of the file.
        span: index of the interval that the last frame belongs to.
        damage: once exhausted: None, or what ffmpeg complained of. A file that breaks off gives its
            frames up to the break, then this.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        command: list[str],
        sizes: Sequence[Size],
        plan: Iterator[tuple[int, int | None]],
        fps: float | None,
        expected: float | None,
        stall: float,
    ) -> None:
        self.path, self.info, self.damage = path, info, None
        self.number, self.span = -1, 0
        self._sizes, self._plan, self._fps, self._expected, self._stall = sizes, plan, fps, expected, stall
        self._shape = (sum(s.height for s in sizes), max(s.width for s in sizes), 3)
        self._frames = 0
        self._process: _Process | None = _Process(command)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    damage: str | None

    def __iter__(self) -> FrameReader:
        return self

    def __next__(self) -> tuple[Frame, ...]:
        while self._process is not None:
            number, span = next(self._plan, (0, None))
            picture = self._read()
            if picture is None:
                break
            if span is not None:
                self.number, self.span = number, span
                return self._unstack(picture)
        raise StopIteration

    def _read(self) -> Frame | None:
        assert self._process is not None
        picture = np.empty(self._shape, np.uint8)
        view, filled = memoryview(picture.data).cast("B"), 0
        while filled < len(view):
            if not self._selector.select(self._stall):
                self._end(f"the decoder gave nothing for {self._stall:.0f} s", kill=True)
                return None
            count = self._process.stdout.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                self._end("the last frame is incomplete" if filled else None)
                return None
            filled += count
        self._frames += 1
        return picture

    def _unstack(self, picture: Frame) -> tuple[Frame, ...]:
        if len(self._sizes) == 1:
            return (picture,)
        top, parts = 0, []
        for size in self._sizes:
            parts.append(picture[top : top + size.height, : size.width])
            top += size.height
        return tuple(parts)

    def _end(self, damage: str | None, *, kill: bool = False) -> None:
        assert self._process is not None
        process = self._process
        status = self._stop(kill=kill)
        said = process.complaints()
        if damage is None and (status or said):
            damage = _what_broke(said) if self._frames or not said else plain(said[0])
        if not self._frames and (damage or self._expected is not None):
            raise MediaError(f"{self.path}: no frame could be decoded ({damage or 'it holds none'})")
        self.damage = damage

    def _stop(self, *, kill: bool) -> int:
        process, self._process = self._process, None
        self._selector.close()
        return process.end(kill=kill) if process is not None else 0

    def kill(self) -> None:
        """From another thread: stop ffmpeg, so that the thread that reads comes to the end at once."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Stop ffmpeg, if it still runs."""
        if self._process is not None:
            self._stop(kill=True)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.close()


def _what_broke(said: Sequence[str]) -> str:
    # Not ffmpeg's words: their order depends on its threads, and the manifest must not.
    if any(sign in line for line in said for sign in ("partial file", "prematurely", "truncated")):
        return "the file breaks off"
    return "parts of the file cannot be decoded"


# --- encode ---------------------------------------------------------------------------------------

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

    _process: _Process | None = None

    def _start(self) -> None:
        self.partial.touch()

    def _append(self, rgb: Frame) -> None:
        pad = [(0, n % 2) for n in rgb.shape[:2]] if self._kind == ".mp4" else [(0, 0), (0, 0)]
        if any(after for _, after in pad):
            rgb = np.pad(rgb, [*pad, (0, 0)], mode="edge")
        if self._process is None:
            self._process = _Process(self._encode_command(rgb.shape[0], rgb.shape[1]), reads=True)
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
        return _command(frames.output(_FILE, **options).overwrite_output(), self.partial)

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
