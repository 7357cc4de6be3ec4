"""The filter graph that brings a decoded video to a constant rate and to the sizes that are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import ffmpeg

from lvgan.sizes import Size

Span = tuple[float, float | None]  # seconds; None: to the end
Numbers = Sequence[tuple[int, int | None]]  # spans in frames of the constant rate

HEARTBEAT = 300  # one frame in so many comes even from parts that are skipped, as a sign of life
SCALE = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
CONVERT = SCALE.replace("lanczos", "bicubic")


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


def time_filters(stream: Any, fps: float | None, numbers: Numbers, spans: Sequence[Span]) -> Any:
    """Constant rate, and the spans cut out."""
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


def picture_filters(stream: Any, sizes: Sequence[Size], crop: bool) -> Any:
    """Every size from one decoded picture, stacked into one so that they leave by one pipe."""
    # RGB at full size first: a crop may not fall between samples of subsampled chroma, and overshoot is
    # clipped where ffmpeg's own decoding to RGB clips it.
    stream = stream.filter("scale", flags=CONVERT).filter("format", "gbrp")
    copies = [stream]
    if len(sizes) > 1:
        split = stream.filter_multi_output("split", len(sizes))
        copies = [split[i] for i in range(len(sizes))]
    width = max(size.width for size in sizes)
    parts = []
    for copy, size in zip(copies, sizes, strict=True):
        if crop:
            copy = copy.filter("crop", **crop_expressions(size), exact=1)
        copy = copy.filter("scale", size.width, size.height, flags=SCALE)
        copy = copy.filter("setsar", 1).filter("format", "rgb24")
        parts.append(copy if size.width == width else copy.filter("pad", width, size.height))
    return parts[0] if len(parts) == 1 else ffmpeg.filter(parts, "vstack", inputs=len(parts))


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
