"""What ffmpeg says about a file, in a form that can be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lvgan.errors import MediaError

LARGEST_PICTURE = 1 << 26  # pixels: twice 8K; a small file may claim any size


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its first video stream.

    `width` and `height` are as displayed: turned upright, with square pixels. `duration` is in
    seconds, the container's, None if it does not say; `fps` is the average rate.
    """

    width: int
    height: int
    fps: float | None
    duration: float | None
    codec: str
    pix_fmt: str
    pixel_aspect: Fraction = Fraction(1)  # of the upright picture, width over height
    rotation: int = 0  # degrees, a multiple of 90
    interlaced: bool = False


def parse_info(path: Path, text: str) -> VideoInfo:
    """What ``ffmpeg -i path`` printed, as a :class:`VideoInfo`.

    Raises:
        MediaError: it describes no video.
    """
    streams = re.split(r"^ {2,4}Stream #0:", text, flags=re.MULTILINE)
    head, streams = streams[0], streams[1:]
    videos = [s for s in streams if _is_video(s.split("\n")[0])]
    if not videos:
        raise MediaError(f"{path} {_why_not(streams, text)}")
    line = videos[0].split("\n")[0]
    size = re.search(r", (\d+)x(\d+)", line)
    if size is None or not (int(size[1]) and int(size[2])):
        raise MediaError(f"{path} has a video stream without a picture size")
    width, height = int(size[1]), int(size[2])
    sar = re.search(r"[\[ ]SAR (\d+):(\d+)", line)
    aspect = Fraction(int(sar[1]), int(sar[2])) if sar and int(sar[1]) and int(sar[2]) else Fraction(1)
    turn = re.search(r"rotation of (-?[\d.]+) degrees", videos[0])
    rotation = round(float(turn[1]) / 90) * 90 % 360 if turn else 0
    if width * height > LARGEST_PICTURE:
        raise MediaError(f"{path} {too_large(width, height)}")
    if rotation % 180:
        width, height, aspect = height, width, 1 / aspect
    rate = re.search(r"([\d.]+)(k?) fps", line) or re.search(r"([\d.]+)(k?) tbr", line)
    length = re.search(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", head, flags=re.MULTILINE)
    codec = re.search(r": Video: (\w+)(?: \([^)]*\))*, (\w+)", line)
    return VideoInfo(
        width=max(1, round(width * aspect)),
        height=height,
        fps=float(rate[1]) * (1000 if rate[2] else 1) if rate else None,
        duration=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None,
        codec=codec[1] if codec else "unknown",
        pix_fmt=codec[2] if codec else "unknown",
        pixel_aspect=aspect,
        rotation=rotation,
        interlaced=bool(re.search(r"[,(] ?(top|bottom) (coded )?first", line)),
    )


def _is_video(line: str) -> bool:
    return ": Video: " in line and "(attached pic)" not in line


def _why_not(streams: list[str], text: str) -> str:
    if any(": Audio: " in s.split("\n")[0] for s in streams):
        return "holds sound but no video"
    lines = [clean(line) for line in text.splitlines() if line.startswith("[")]
    # "Misdetection possible": taken for a video by its name alone.
    signs = ("on whitelist", "misdetection")
    telling = [line for line in lines if any(sign in line for sign in signs)]
    telling += [line for line in lines if not line.startswith("Error opening input")]
    reason = next(iter(telling + lines), "no video stream")
    return f"is not a video that ffmpeg can read ({plain(reason)})"


_PLAIN = {
    "on whitelist": "a format that may open other files",
    "misdetection": "no known format",
    "moov atom not found": "its index is missing: it was cut short, or its recording never finished",
    "Invalid data found when processing input": "no known format",
}


def plain(reason: str) -> str:
    """One of ffmpeg's complaints, put for people."""
    return next((words for sign, words in _PLAIN.items() if sign in reason), reason.rstrip("."))


def clean(line: str) -> str:
    """A line of ffmpeg's without the names of its parts in front."""
    return re.sub(r"^(\[[^\]]*\] )+", "", line.strip())


def too_large(width: int, height: int) -> str:
    """Why a picture of such a size is refused."""
    return f"is {width} pixels wide and {height} high, more than {LARGEST_PICTURE >> 20} million; scale it down first"
