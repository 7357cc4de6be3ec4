"""One HTML file that shows a run: figures, scores with their protocols, films, tables.

It needs no other file, no script and no network (its own security policy forbids both), reads on a phone as on a
wide screen, in light and dark, and stays below 10 MB: what does not fit is named in its place.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvgan.evaluation.protocol import Score, difference
from lvgan.files import write_whole

LARGEST = 10_000_000  # bytes of a page
_RESERVE = 400_000  # of these for text


@dataclass(frozen=True)
class Picture:
    """A figure: PNG or JPEG bytes, and what it shows. `plot` pictures have a white ground, which dark pages keep."""

    data: bytes
    shows: str
    caption: str = ""
    plot: bool = True


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side: small ones, or `plots` that take the width they need."""

    pictures: Sequence[Picture]
    caption: str = ""
    plots: bool = False


@dataclass(frozen=True)
class Film:
    """A short video, MP4 (H.264) bytes, that plays by itself, silent and in a loop."""

    data: bytes
    caption: str
    size: tuple[int, int]  # height, width


@dataclass(frozen=True)
class Films:
    """Films side by side."""

    films: Sequence[Film]
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Listing:
    """Text as it is, folded under a title."""

    title: str
    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Scores:
    """Scores, each with its protocol folded under it."""

    scores: Sequence[Score]


Part = Picture | Pictures | Films | Facts | Listing | Note | Scores


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part] = field(default_factory=list)


# What each metric says: its name for people, and how to read it.
METRICS: Mapping[str, tuple[str, str]] = {
    "fvd": ("FVD", "Fréchet video distance; lower is better."),
    "kvd": ("Kernel video distance", "MMD of clips; lower is better, 0 and a little below are no difference."),
    "fid": ("FID", "Fréchet distance of frames; lower is better."),
    "kid": ("KID", "MMD of frames; lower is better, 0 and a little below are no difference."),
    "color similarity area": ("Colour over time: distance to footage", "Lower is better; 0 is footage's own curve."),
    "drift-gap": ("Drift: distance to footage", "Lower is better; mean difference of the two drift curves."),
    "motion-gap": ("Motion: distance to footage", "Lower is better; 1 is twice (or half) as much change."),
    "rhythm-gap": ("Rhythm of motion: distance to footage", "Lower is better; 0 is the same rhythm."),
    "self-repetition": ("Self-repetition", "Share of moments that recur in the same video or stand still."),
    "self-repetition-gap": ("Self-repetition beyond footage", "0 is as often as footage, within equal lengths."),
    "drift": ("Drift: similarity to the start", "Colours shared with the start after so many frames; 1 is all."),
    "motion": ("Motion", "Mean change from a frame to the next, in grey levels."),
}


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all.

    Raises:
        MachineError: it cannot be written.
    """
    page = report_page(title, subtitle, sections).encode("utf-8")
    write_whole(path, lambda file: file.write(page))


def report_page(title: str, subtitle: str, sections: Sequence[Section], largest: int = LARGEST) -> str:
    """The page as text, at most about `largest` bytes of it pictures and films: what comes first has its place."""
    budget = _Budget(largest - _RESERVE)
    body = "".join(text for number, section in enumerate(sections) for text in _section(number, section, budget))
    links = "".join(
        f'<li><a href="#s{number}">{_text(section.title)}</a></li>' for number, section in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; media-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{_text(title)}</h1>\n<p>{_text(subtitle)}</p>\n<nav><ul>{links}</ul></nav>\n</header>\n"
        f"<main>\n{body}</main>\n</body>\n</html>\n"
    )


class _Budget:
    """Bytes that are left for what is embedded."""

    def __init__(self, left: int) -> None:
        self._left = left

    def embedded(self, data: bytes, kind: str) -> str | None:
        """The bytes as a URL; None where they do not fit."""
        needed = (len(data) + 2) // 3 * 4
        if needed > self._left:
            return None
        self._left -= needed
        return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _section(number: int, section: Section, budget: _Budget) -> Iterator[str]:
    yield f'<section id="s{number}">\n<h2>{_text(section.title)}</h2>\n'
    for part in section.parts:
        if isinstance(part, Picture):
            yield _picture(part, budget)
        elif isinstance(part, Pictures):
            yield from _pictures(part, budget)
        elif isinstance(part, Films):
            yield from _films(part, budget)
        elif isinstance(part, Facts):
            yield _facts(part.rows)
        elif isinstance(part, Listing):
            yield f"<details><summary>{_text(part.title)}</summary><pre>{_lines(part.text)}</pre></details>\n"
        elif isinstance(part, Scores):
            yield '<div class="scores">\n' + "".join(map(_card, _cards(part.scores))) + "</div>\n"
        else:
            yield f"<p>{_text(part.text)}</p>\n"
    yield "</section>\n"


def _picture(picture: Picture, budget: _Budget) -> str:
    kind = "image/png" if picture.data.startswith(b"\x89PNG") else "image/jpeg"
    url = budget.embedded(picture.data, kind)
    shown = (
        _left_out(picture.data)
        if url is None
        else f'<img{" class=plot" if picture.plot else ""} alt="{_text(picture.shows)}" src="{url}">'
    )
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure>{shown}{caption}</figure>\n"


def _pictures(part: Pictures, budget: _Budget) -> Iterator[str]:
    if part.caption:
        yield f"<p>{_text(part.caption)}</p>\n"
    yield f'<div class="{"plots" if part.plots else "strip"}">\n'
    for picture in part.pictures:
        yield _picture(picture, budget)
    yield "</div>\n"


def _films(films: Films, budget: _Budget) -> Iterator[str]:
    if films.caption:
        yield f"<p>{_text(films.caption)}</p>\n"
    yield '<div class="films">\n'
    for film in films.films:
        url = budget.embedded(film.data, "video/mp4")
        height, width = film.size
        shown = (
            _left_out(film.data)
            if url is None
            else f'<video autoplay muted loop playsinline width="{width}" height="{height}" '
            f'aria-label="{_text(film.caption)}" src="{url}"></video>'
        )
        yield f"<figure>{shown}<figcaption>{_text(film.caption)}</figcaption></figure>\n"
    yield "</div>\n"


def _left_out(data: bytes) -> str:
    return (
        f'<p class="missing">Left out: {len(data) / 1e6:.1f} MB more would make this page larger than '
        f"{LARGEST / 1e6:.0f} MB.</p>"
    )


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows) + "</dl>\n"


def _cards(scores: Sequence[Score]) -> Iterator[list[Score]]:
    """Scores that may stand side by side: of one metric and one protocol, in the order of METRICS."""
    order = {metric: place for place, metric in enumerate(METRICS)}
    cards: list[list[Score]] = []
    for score in sorted(scores, key=lambda score: order.get(_kind(score.metric), len(order))):
        same = (c for c in cards if c[0].metric == score.metric and not difference(c[0].protocol, score.protocol))
        card = next(same, None)
        if card is None:
            cards.append([score])
        else:
            card.append(score)
    return iter(cards)


_VARIANT = re.compile(r"(?P<kind>fvd|kvd|fid|kid)(?:_(?P<frames>\d+))?(?:_stride_(?P<stride>\d+))?(?P<inf>_inf)?")


def _kind(metric: str) -> str:
    """The entry of METRICS: fvd for fvd_128_stride_8_inf."""
    found = _VARIANT.fullmatch(metric)
    return found["kind"] if found else metric


def _names(metric: str) -> tuple[str, str]:
    """What a metric is called, and how it is read."""
    name, meaning = METRICS.get(_kind(metric), (metric, ""))
    found = _VARIANT.fullmatch(metric)
    if found is None:
        return name, meaning
    name += f" of {found['frames']} frames" if found["frames"] else ""
    name += f", one in {found['stride']}" if found["stride"] else ""
    return name, meaning + (" Extrapolated to endless samples." if found["inf"] else "")


def _card(scores: Sequence[Score]) -> str:
    name, meaning = _names(scores[0].metric)
    text = f"<article><h3>{_text(name)}</h3><p>{_text(meaning)}</p>"
    for score in scores:
        said = "".join(f'<p class="said">{_text(sentence)}</p>' for sentence in _sentences(score))
        text += (
            f'<div class="one"><p class="label">{_text(score.label)}</p>'
            f'<p class="value"><b>{_number(score.value)}</b> <span>{_text(_spread(score))}</span></p>{said}'
        )
        if score.protocol:
            facts = _facts([(key.removeprefix("sources."), _flat(value)) for key, value in _leaves(score.protocol)])
            text += f"<details><summary>Protocol</summary>{facts}</details>"
        if score.details:
            found = json.dumps(score.details, indent=1, ensure_ascii=False)
            text += f"<details><summary>Details</summary><pre>{_lines(found)}</pre></details>"
        text += "</div>"
    return text + "</article>\n"


def _spread(score: Score) -> str:
    """Standard deviation and interval, where they say anything."""
    parts = [f"± {_number(score.std)}"] if score.std else []
    if score.interval is not None and score.interval[0] < score.interval[1]:
        parts.append(f"{_number(score.interval[0])} to {_number(score.interval[1])}")
    return " · ".join(parts)


def _sentences(score: Score) -> Iterator[str]:
    """What the details say in words."""
    if "at_frame" in score.protocol:
        yield f"after {score.protocol['at_frame']} frames"
    videos = score.details.get("videos")
    for video in videos if isinstance(videos, list) else []:  # counts, in the details of other metrics
        if isinstance(video, dict) and isinstance(share := video.get("share"), float) and share >= 0.1:
            yield f"{video.get('name')} {video.get('sentence')}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _leaves(value: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        below = f"{name}.{key}" if name else str(key)
        if isinstance(item, Mapping):
            yield from _leaves(item, below)
        else:
            yield below, item


def _flat(value: Any) -> str:
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(words: str) -> str:
    """Safe in HTML, also what no name should hold: control characters, halves of characters."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words))


def _lines(text: str) -> str:
    return "\n".join(_text(line) for line in text.expandtabs().split("\n"))


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif;
  --line: #8884; --soft: #8881; --dim: #555; --link: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --dim: #aaa; --link: #7db8f0 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.25rem; margin: 2rem 0 .6rem;
  padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 0 } p { margin: .3rem 0 } a { color: var(--link) }
header p, .label, figcaption, .value span { color: var(--dim) }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; margin: .6rem 0 0; list-style: none }
nav a { display: inline-block; padding: .3rem 0 }
figure { margin: 0; min-width: 0 } figcaption { font-size: .85rem; padding: .2rem 0 .6rem }
img, video { display: block; max-width: 100%; height: auto; border-radius: 4px }
img.plot { background: #fff; padding: 4px; border: 1px solid var(--line) }
.plots, .films, .strip, .scores { display: grid; gap: .6rem; align-items: start; margin: .6rem 0 }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
.films { grid-template-columns: repeat(auto-fill, minmax(min(46%, 14rem), 1fr)) }
.strip { grid-template-columns: repeat(auto-fill, minmax(min(22%, 8rem), 1fr)) }
.scores { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
.films video, .strip img { width: 100% }
article { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .8rem; background: var(--soft);
  min-width: 0; font-size: .9rem }
.one { margin-top: .5rem; display: flow-root } .one details { float: left; margin: 0 1rem 0 0; max-width: 100% }
.one details[open] { float: none; clear: both }
.value b { font-size: 1.5rem } .said { font-weight: 600 }
.missing { padding: 1rem; border: 1px dashed var(--line); border-radius: 4px }
details { margin: .4rem 0 } summary { cursor: pointer; padding: .3rem 0; color: var(--link) }
dl { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: .2rem .8rem; margin: .3rem 0;
  font-size: .85rem }
dt { color: var(--dim) } dd { margin: 0 }
pre { white-space: pre-wrap; font: .8rem/1.35 ui-monospace, monospace; margin: .3rem 0; padding: .6rem;
  background: var(--soft); border-radius: 4px; max-height: 30rem; overflow-y: auto }
"""
