"""Video files in, by ffmpeg.

ffmpeg runs in a process of its own, without a shell. Inputs are given as ``file:`` and an absolute
path, so that no character of a name means anything; only files and pipes may be opened, and only
by formats that hold video themselves: a playlist in disguise opens nothing else.
"""

from __future__ import annotations

import itertools
import os
import re
import selectors
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from lvgan.data.filters import (
    Region,
    Span,
    count,
    emitted,
    fits_zscale,
    frame_numbers,
    picture_filters,
    scales_as_stored,
    time_filters,
)
from lvgan.data.info import LARGEST_PICTURE, VideoInfo, parse_info, plain
from lvgan.data.program import FILE, Process, command_line, has_filter
from lvgan.errors import MachineError, MediaError
from lvgan.sizes import Size

Frame = NDArray[np.uint8]  # [H, W, 3]

_SHORT = 60.0  # seconds; longer videos are sampled by seeking
STALL_SECONDS = 120.0  # a decoder that has given nothing for so long is stopped

# Demuxers that read what is in the file itself. Left out: hls, dash, concat, image2 and the like,
# which open other files.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,gif,apng,webp_anim,ogg,rm,mxf,gxf,nut,ivf,obu,av1,"
    "mp3,aac,wav,w64,flac,aiff,caf,h261,h263,h264,hevc,vvc,evc,vc1,cavsvideo,avs2,avs3,dirac,dnxhd,mjpeg,yuv4mpegpipe,dv,wtv,nsv,swf,"
    "bink,smk,roq,flic,film_cpk,amv,4xm,r3d,lvf,ser,y4m"
)
_SAFE_INPUT = {"protocol_whitelist": "file,pipe", "format_whitelist": _FORMATS}


# --- probe ----------------------------------------------------------------------------------------


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Look into a video file.

    Raises:
        MediaError: missing, empty, unreadable, not a video, or without a video stream.
    """
    source = Path(path)
    _check_readable(source)
    command = command_line(ffmpeg.input(FILE, **_SAFE_INPUT).output("-", format="null"), source)
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
    # Its reports of progress come to the pipe, so that a reader that hangs is seen.
    stream = ffmpeg.input(FILE, **_SAFE_INPUT)["V"].output("-", format="null", c="copy").global_args("-progress", "-")
    process, said = Process(command_line(stream, source)), b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(STALL_SECONDS):
                news = process.stdout.read(1 << 16)
                if not news:
                    break
                said = (said + news)[-4096:]
    finally:
        process.end(kill=True)
    times = re.findall(rb"^out_time_us=(\d+)$", said, flags=re.MULTILINE)
    if not times or b"progress=end" not in said:
        raise MediaError(f"{source} does not say how long it is, and its length could not be measured")
    return int(times[-1]) / 1e6


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
    region: Region | None = None,
    info: VideoInfo | None = None,
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
        region: the part of the picture that counts, in pixels as displayed (width, height, x, y).
        info: what :func:`probe` found, where it is known already.
        threads: of the decoder; 0 lets it choose.
        stall: seconds without a frame after which the decoder is stopped.

    Returns:
        An iterator of tuples of uint8 [H, W, 3], one for each size. See :class:`FrameReader`.

    Raises:
        MediaError: the file cannot be used at all (see :func:`probe`), or gives no frame.
    """
    info = info or probe(path)
    if spans is None:
        spans = [] if start is None and end is None else [(start or 0.0, end)]
    if fps is None and len(spans) > 1:
        raise ValueError("spans need a constant frame rate: give fps")
    targets = list(sizes) if sizes is not None else [Size(info.height, info.width)]
    numbers = frame_numbers(spans, fps) if fps is not None else []
    stored = _as_stored(region, info) if region is not None else None
    direct = sizes is not None and crop and info.pixel_aspect == 1
    turned, picture = info.rotation % 180 != 0, Size(info.height, info.width)
    direct = direct and scales_as_stored(info.pix_fmt, turned, picture, targets, stored)
    stream = ffmpeg.input(FILE, threads=threads, max_pixels=LARGEST_PICTURE, **_SAFE_INPUT)["V"]
    interlaced = info.interlaced and info.rotation % 180 == 0  # turned fields stand side by side
    stream = time_filters(stream, fps, numbers, spans, interlaced=interlaced)
    zscale = direct and fits_zscale(info.pix_fmt) and has_filter("zscale")
    stream = picture_filters(stream, targets, crop, region=stored, direct=direct, zscale=zscale)
    # passthrough: the graph has made the rate constant; nothing may be repeated or dropped after it.
    options: dict[str, Any] = {"format": "rawvideo", "pix_fmt": "rgb24", "fps_mode": "passthrough"}
    limit = count(numbers)
    if limit is not None:
        options["frames:v"] = max(limit, 1)
    command = command_line(stream.output("pipe:1", **options), Path(path))
    if threads:
        command[1:1] = ["-filter_complex_threads", str(threads)]
    plan = emitted(numbers) if numbers else ((n, 0) for n in itertools.count())
    expected = info.duration if not spans else None
    return FrameReader(Path(path), info, command, targets, plan, fps, expected, stall)


def _as_stored(region: Region, info: VideoInfo) -> Region:
    """A part of the displayed picture in stored pixels."""
    width = max(1, round(region.width / info.pixel_aspect))
    return Region(width, region.height, round(region.x / info.pixel_aspect), region.y)


def sample_frames(path: Path, info: VideoInfo, count: int = 12, *, every: bool = False) -> list[Frame]:
    """A few pictures spread over a video, as displayed: uint8 [H, W, 3]. What cannot be decoded is left out.

    Short videos give what keyframes they have, at most about `count`; with `every`, all their frames are
    looked at, which takes as long as decoding them.
    """
    native = Size(info.height, info.width)
    length = info.duration
    starts: list[float | None] = [None]
    if length is not None and length > _SHORT:
        starts = [length * (i + 0.5) / count for i in range(count)]
    found: list[Frame] = []
    for start in starts:
        options = {} if every and start is None else {"skip_frame": "nokey"}
        if start is not None:
            options |= {"ss": f"{start:.3f}", "noaccurate_seek": None}  # type: ignore[dict-item]
        stream = ffmpeg.input(FILE, threads=1, max_pixels=LARGEST_PICTURE, **options, **_SAFE_INPUT)["V"]
        apart = (length or 3600.0) / count
        stream = stream.filter("select", f"isnan(prev_selected_t)+gte(t-prev_selected_t,{apart:.6f})")
        stream = picture_filters(stream, [native], crop=False)
        limit = count if start is None else 1
        command = command_line(
            stream.output("pipe:1", format="rawvideo", fps_mode="passthrough", **{"frames:v": limit}), path
        )
        plan = ((n, 0) for n in itertools.count())
        with FrameReader(path, info, command, [native], plan, None, None, STALL_SECONDS) as frames:
            try:
                found += [frame for (frame,) in frames]
            except MediaError:
                continue
    return found


class FrameReader:
    """Frames of one video as they are decoded: an iterator, and a context manager that stops ffmpeg.

    Attributes:
        info: what :func:`probe` found.
        number: of the last frame, counted at the constant rate from the start of the file.
        span: index of the interval that the last frame belongs to.
        breaks: how often something was left out so far: always 0 for a video (see `PictureReader`).
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
        self.number, self.span, self.breaks = -1, 0, 0
        self._sizes, self._plan, self._fps, self._expected, self._stall = sizes, plan, fps, expected, stall
        self._shape = (sum(s.height for s in sizes), max(s.width for s in sizes), 3)
        self._killed = False
        self._frames, self._most = 0, _most_frames(path)
        self._process: Process | None = Process(command)
        _widen(self._process.stdout)
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
        if self._frames >= self._most:
            self._end("its time stamps would make frames without end", kill=True)
            return None
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
        if status in (-signal.SIGKILL, -signal.SIGTERM) and not (kill or self._killed):
            # Not the file's fault, and no damage that anyone should note.
            raise MachineError(f"the decoder of {self.path} was ended from outside (too little memory?); run it again")
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
        self._killed = True
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


def _most_frames(path: Path) -> int:
    """Honest footage takes more than a byte a frame; a few damaged time stamps can ask for millions of frames."""
    try:
        return max(100_000, path.stat().st_size)
    except OSError:
        return 100_000


def _widen(pipe: BinaryIO) -> None:
    """Room for whole frames in the pipe, where the system lets us: fewer turns between us and ffmpeg."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
    except (ImportError, AttributeError, OSError):
        pass


def _what_broke(said: Sequence[str]) -> str:
    # Not ffmpeg's words: their order depends on its threads, and the manifest must not.
    if any(sign in line for line in said for sign in ("partial file", "prematurely", "truncated")):
        return "the file breaks off"
    return "parts of the file cannot be decoded"
