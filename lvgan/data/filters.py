"""The filter graph that brings a decoded video to a constant rate and to the sizes that are asked for."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import ffmpeg

from lvgan.sizes import Size

Span = tuple[float, float | None]  # seconds; None: to the end
Numbers = Sequence[tuple[int, int | None]]  # spans in frames of the constant rate

HEARTBEAT = 300  # one frame in so many comes even from parts that are skipped, as a sign of life
SCALE = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
_ZSCALE_SIDE = 48  # zimg mirrors pictures at their borders, which shows in smaller ones
CONVERT = SCALE.replace("lanczos", "bicubic")


class Region(NamedTuple):
    """Part of a picture, in stored pixels, upright; in the order in which ffmpeg's filter `crop` takes it."""

    width: int
    height: int
    x: int
    y: int


def frame_numbers(spans: Sequence[Span], fps: float) -> list[tuple[int, int | None]]:
    """Spans in frames: frame n stands at n / fps and belongs to a span if start <= n / fps < end.

    Raises:
        ValueError: spans that do not ascend, or overlap.
    """
    numbers: list[tuple[int, int | None]] = []
    for start, end in spans:
        first = max(0, math.ceil(start * fps - 1e-6))
        numbers.append((first, None if end is None else max(first, math.ceil(end * fps - 1e-6))))
    for (_, stop), (first, _) in itertools.pairwise(numbers):
        if stop is None or first < stop:
            raise ValueError("spans must ascend and not overlap")
    return numbers


def emitted(numbers: Numbers) -> Iterator[tuple[int, int | None]]:
    """Which frames come out of the graph: (number, index of its span or None for a sign of life)."""
    n = 0
    for index, (first, stop) in enumerate(numbers):
        while n < first:
            if n % HEARTBEAT == 0:
                yield n, None
            n += 1
        while stop is None or n < stop:
            yield n, index
            n += 1


def count(numbers: Numbers) -> int | None:
    """How many frames come out of the graph; None: all to the end."""
    if not numbers or numbers[-1][1] is None:
        return None
    total, n = 0, 0
    for first, stop in numbers:
        assert stop is not None  # only the last span may be open
        total += (-(-first // HEARTBEAT) - -(-n // HEARTBEAT) if first > n else 0) + stop - first
        n = max(n, stop)
    return total


def time_filters(
    stream: Any, fps: float | None, numbers: Numbers, spans: Sequence[Span], *, interlaced: bool = False
) -> Any:
    """Constant rate, and the spans cut out; frames made of two fields become frames of one moment."""
    if interlaced:  # frames that say themselves that they are; as many come out as go in
        stream = stream.filter("bwdif", mode="send_frame", deint="interlaced")
    if fps is None:
        for start, end in spans:
            stream = stream.filter("trim", start=start, **({} if end is None else {"end": end}))
        # Numbered anew at a rate of our own, so that nothing downstream repeats or drops a frame.
        return stream.filter("settb", "1/25").filter("setpts", "N").filter("fps", 25)
    rate = Fraction(fps).limit_denominator(1001)
    if not numbers:
        return stream.filter("fps", f"{rate}")
    # start_time: frame n stands at n / fps even where the video starts later than the file.
    stream = stream.filter("fps", f"{rate}", start_time=0)
    terms = [f"not(mod(n,{HEARTBEAT}))"]
    terms += [f"gte(n,{a})" if b is None else f"between(n,{a},{b - 1})" for a, b in numbers if b != a]
    return stream.filter("select", "+".join(terms)).filter("setpts", "N")


def picture_filters(
    stream: Any,
    sizes: Sequence[Size],
    crop: bool,
    *,
    region: Region | None = None,
    direct: bool = False,
    zscale: bool = False,
) -> Any:
    """Every size from one decoded picture, stacked into one so that they leave by one pipe.

    `region` is cut out first. `direct` scales the picture as it is stored, which is several times faster: a
    crop must not fall between samples of subsampled chroma then (:func:`scales_as_stored`). `zscale` lets
    zimg scale then, which is several times faster again (:func:`fits_zscale`).
    """
    if not direct:
        # RGB at full size first: overshoot is clipped where ffmpeg's own decoding to RGB clips it.
        stream = stream.filter("scale", flags=CONVERT).filter("format", "gbrp")
    if region is not None:
        stream = stream.filter("crop", *region, exact=1)
    copies = [stream]
    if len(sizes) > 1:
        split = stream.filter_multi_output("split", len(sizes))
        copies = [split[i] for i in range(len(sizes))]
    width = max(size.width for size in sizes)
    parts = []
    for copy, size in zip(copies, sizes, strict=True):
        if crop:
            copy = copy.filter("crop", **crop_expressions(size), exact=1)
        if direct and zscale and min(size) >= _ZSCALE_SIDE:
            # Chroma in the centre, where ffmpeg's own scaling and decoding to RGB take it to be. 16 bits: else
            # it would be rounded twice.
            copy = copy.filter("zscale", size.width, size.height, filter="lanczos", chromalin="center")
            copy = copy.filter("format", "yuv444p16").filter("scale", flags=CONVERT)
        else:
            copy = copy.filter("scale", size.width, size.height, flags=SCALE)
        copy = copy.filter("setsar", 1).filter("format", "gbrp")  # planes: written several times faster
        parts.append(copy if size.width == width else copy.filter("pad", width, size.height))
    stacked = parts[0] if len(parts) == 1 else ffmpeg.filter(parts, "vstack", inputs=len(parts))
    return stacked.filter("format", "rgb24")


def crop_expressions(size: Size) -> dict[str, str]:
    """The largest centred part with the aspect ratio of `size`, rounded to whole pixels."""
    # In stored pixels, `sar` being their aspect: one resampling makes them square and scales.
    width = f"min(iw,ih*{size.width}/({size.height}*sar))"
    height = f"min(ih,iw*sar*{size.height}/{size.width})"
    return {
        "w": f"max(1,floor({width}+0.5))",
        "h": f"max(1,floor({height}+0.5))",
        "x": f"floor((iw-{width})/2+1e-6)",
        "y": f"floor((ih-{height})/2+1e-6)",
    }


def centre(within: Size, size: Size) -> Region:
    """What :func:`crop_expressions` says about square pixels: width, height, x, y."""
    width = min(within.width, within.height * size.width / size.height)
    height = min(within.height, within.width * size.height / size.width)
    x, y = math.floor((within.width - width) / 2 + 1e-6), math.floor((within.height - height) / 2 + 1e-6)
    return Region(max(1, math.floor(width + 0.5)), max(1, math.floor(height + 0.5)), x, y)


def scales_as_stored(pix_fmt: str, turned: bool, picture: Size, sizes: Sequence[Size], region: Region | None) -> bool:
    """Whether pictures may be scaled before they become RGB, which is several times faster.

    The crops must hold whole samples of chroma, and be scaled down so far that these are not enlarged.
    """
    step = _chroma_step(pix_fmt)
    if step is None:
        return False
    across, down = step[::-1] if turned else step
    x, y = (region.x, region.y) if region is not None else (0, 0)
    within = Size(region.height, region.width) if region is not None else picture
    parts = [centre(within, size) for size in sizes]
    whole = all(
        (x + p.x) % across == 0 and (y + p.y) % down == 0 and p.width % across == 0 and p.height % down == 0
        for p in parts
    )
    factor = 1.25 * max(across, down)
    small = all(
        p.width >= factor * s.width and p.height >= factor * s.height for p, s in zip(parts, sizes, strict=True)
    )
    return whole and small


def fits_zscale(pix_fmt: str) -> bool:
    """Whether zimg may scale pictures as they are stored: planes of 8 bits, subsampled in the usual ways.

    Not those of full range (``yuvj420p``): ffmpeg's scaler reads the 16 bits that zimg makes of them half a step off.
    """
    return re.fullmatch(r"yuv4(20|22|44)p", pix_fmt) is not None


def _chroma_step(pix_fmt: str) -> tuple[int, int] | None:
    """Pixels across and down for one sample of chroma; None for formats that are not known well."""
    steps = {"420": (2, 2), "422": (2, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4), "444": (1, 1)}
    match = re.match(r"yuv[aj]?(4\d\d)p", pix_fmt)
    if match is not None:
        return steps.get(match[1])
    if re.match(r"nv12|nv21|p01[026]", pix_fmt):
        return 2, 2
    return (1, 1) if re.match(r"gbr|gray|rgb|bgr|argb|abgr|pal8", pix_fmt) else None
