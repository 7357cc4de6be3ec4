"""What ``prepare`` made of the footage, for people: a page to look through, a cuts file to edit."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from lvgan.data.scenes import Cut
from lvgan.files import write_whole

_SIDE, _QUALITY = 128, 60  # of thumbnails
_LARGEST = 10_000_000  # bytes of all thumbnails on a page (a third more in base64)


@dataclass(frozen=True)
class ReportClip:
    """One clip of the report. `first` and `last` are JPEG files as :func:`thumbnail` makes them.

    `start` and `end` are seconds in the source, the end not included. `marks` are short words about the clip:
    "static", "black", "dropped"; `begins` and `ends` say why it begins and ends there: "cut", "fade",
    "dissolve", "cuts file", "max frames", or "" for the start and the end of the video.
    """

    name: str
    source: str
    start: float
    end: float
    frames: int
    first: bytes
    last: bytes
    marks: Sequence[str] = ()
    begins: str = ""
    ends: str = ""


def thumbnail(frame: NDArray[np.uint8], side: int = _SIDE, quality: int = _QUALITY) -> bytes:  # [H, W, 3]
    """A small JPEG of a frame, for :class:`ReportClip`; at most `side` pixels high and wide."""
    return _jpeg(Image.fromarray(frame), side, quality)


def _jpeg(picture: Image.Image, side: int, quality: int) -> bytes:
    picture.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def write_report(
    path: str | os.PathLike[str], title: str, clips: Sequence[ReportClip], skipped: Mapping[str, str]
) -> None:
    """One HTML file with the first and last frame of every clip, and what was skipped: {path: reason}.

    It needs no other file and no network. The thumbnails of very many clips are made smaller, so that the
    page stays below 15 MB for up to about 10 000 clips. Written beside and renamed.

    Raises:
        MachineError: it cannot be written.
    """
    total = sum(len(clip.first) + len(clip.last) for clip in clips)
    shrink = min(1.0, _LARGEST / total) if total else 1.0
    _write(path, _page(title, clips, skipped, shrink))


def _write(path: str | os.PathLike[str], parts: Iterable[str]) -> None:
    write_whole(path, lambda file: file.writelines(part.encode("utf-8", "replace") for part in parts))


def _page(title: str, clips: Sequence[ReportClip], skipped: Mapping[str, str], shrink: float) -> Iterator[str]:
    marked = sum(bool(clip.marks) for clip in clips)
    frames = sum(clip.frames for clip in clips)
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
    yield f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    yield f"<h1>{_text(title)}</h1>\n<p>{_many(len(clips), 'clip')}, {_many(frames, 'frame')}; {marked} marked; "
    yield f"{_many(len(skipped), 'file')} skipped. Each clip: its first and its last frame.</p>\n"
    if marked:
        yield '<label><input type="checkbox" id="only"> marked clips only</label>\n'
    yield "<main>\n"
    for clip in clips:
        yield _figure(clip, shrink)
    yield "</main>\n"
    if skipped:
        yield "<h2>Skipped</h2>\n<table>\n<tr><th>file</th><th>reason</th></tr>\n"
        for name, reason in sorted(skipped.items()):
            yield f"<tr><td>{_text(name)}</td><td>{_text(reason)}</td></tr>\n"
        yield "</table>\n"
    yield "</body>\n</html>\n"


def _figure(clip: ReportClip, shrink: float) -> str:
    pictures = "".join(
        f'<img loading="lazy" alt="{which} frame" src="data:image/jpeg;base64,{_embedded(data, shrink)}">'
        for which, data in (("first", clip.first), ("last", clip.last))
    )
    marks = "".join(f" <mark>{_text(mark)}</mark>" for mark in clip.marks)
    length = f"{_time(clip.start, 2)}–{_time(clip.end, 2)}, {_many(clip.frames, 'frame')}"
    edges = f"{_text(clip.begins or 'start')} → {_text(clip.ends or 'end')}"
    kind = ' class="marked"' if clip.marks else ""
    return (
        f"<figure{kind}><div>{pictures}</div><figcaption><b>{_text(clip.name)}</b>{marks}<br>"
        f"{_text(clip.source)}<br>{length}<br>{edges}</figcaption></figure>\n"
    )


def _embedded(data: bytes, shrink: float) -> str:
    if shrink < 1:
        with Image.open(io.BytesIO(data)) as picture:
            data = _jpeg(picture, max(24, int(max(picture.size) * math.sqrt(shrink) * 0.9)), 50)
    return base64.b64encode(data).decode("ascii")


def _text(words: str) -> str:
    """Safe in HTML, also what no file name should hold: line ends, halves of characters."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words))


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_STYLE = """
:root { color-scheme: light dark; font: 14px/1.35 system-ui, sans-serif }
body { margin: 1rem }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: .6rem; margin: 1rem 0 }
figure { margin: 0; padding: .4rem; border: 1px solid #8885; border-radius: 4px; overflow-wrap: anywhere;
  content-visibility: auto; contain-intrinsic-size: 270px 160px }
figure div { display: flex; gap: 2px }
img { width: 50%; min-width: 0; object-fit: contain; background: #8883 }
figcaption { font-size: 12px }
mark { background: #d33; color: #fff; border-radius: 3px; padding: 0 .3em }
.marked { border-color: #d33 }
body:has(#only:checked) figure:not(.marked) { display: none }
table { border-collapse: collapse }
td, th { text-align: left; border-bottom: 1px solid #8885; padding: .2rem .8rem .2rem 0; overflow-wrap: anywhere }
"""


# --- the cuts file --------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoParts:
    """What is used of one video, in frames at the constant rate, counted from the start of the file.

    `kept` are intervals ``(start, end)``, ascending, the end not included; `cuts` the transitions that were
    found; `dropped` {interval: reason} what is not used though no transition ("shorter than 128 frames").
    """

    video: str  # path below the folder of footage, with slashes
    kept: Sequence[tuple[int, int]]
    cuts: Sequence[Cut] = ()
    dropped: Mapping[tuple[int, int], str] = field(default_factory=dict)


def write_cuts_yaml(path: str | os.PathLike[str], videos: Sequence[VideoParts], fps: float) -> None:
    """A file of cuts that :func:`lvgan.data.cuts.read_cuts` reads: edit it, and give it to ``--cuts``.

    Times are rounded down to 0.1 ms, so that every frame comes back as it was at up to 1000 frames a second
    (a frame belongs to an interval if ``start <= n / fps < end``). What was removed stands in comments.

    Raises:
        MachineError: it cannot be written.
    """
    lines = [line for video in videos for line in _cuts_lines(video, fps)]
    _write(path, [_CUTS_HEAD.format(fps=fps), *(lines or ["{}\n"])])


_CUTS_HEAD = """\
# The parts of each video that are used: "start end", the end not included, as h:mm:ss.
# Change, remove or add lines, and give this file to --cuts. A video with [] is not used;
# one that is not named is used whole. Lines behind # are remarks ({fps:g} frames a second).
"""


def _cuts_lines(video: VideoParts, fps: float) -> Iterator[str]:
    lines = [(start, 1, f'  - "{_stamp(start, fps)} {_stamp(end, fps)}"') for start, end in video.kept]
    lines += [(cut.start, 0, f"  # {_removed(cut, fps)}") for cut in video.cuts]
    for (start, end), reason in video.dropped.items():
        lines.append((start, 0, f'  # "{_stamp(start, fps)} {_stamp(end, fps)}" not used: {_text_line(reason)}'))
    yield f"{_key(video.video)}:{'' if video.kept else ' []'}\n"
    for _, _, line in sorted(lines):
        yield line + "\n"


def _removed(cut: Cut, fps: float) -> str:
    if cut.end == cut.start:
        return f"{cut.kind} at {_stamp(cut.start, fps)}"
    return f"{cut.kind} {_stamp(cut.start, fps)} {_stamp(cut.end, fps)} ({_many(cut.end - cut.start, 'frame')})"


def _key(name: str) -> str:
    """A name as YAML writes it, on one line."""
    return yaml.safe_dump(name, default_style='"', width=math.inf, allow_unicode=True).strip()


def _text_line(words: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


def _stamp(frame: int, fps: float) -> str:
    # Rounded down: the frame itself then comes after the time, the one before it before.
    return _time(math.floor(frame / fps * 10_000 + 1e-6) / 10_000, 4)


def _time(seconds: float, digits: int) -> str:
    """``h:mm:ss.ffff``, the hours only where there are some."""
    whole = round(seconds * 10**digits)
    minutes, rest = divmod(whole, 60 * 10**digits)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10**digits:02d}.{rest % 10**digits:0{digits}d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
