"""Lists of the parts of videos that are to be used: ``{video: ["0:24 5:57", ...]}`` (spec 3-data)."""

from __future__ import annotations

import itertools
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lvgan.errors import DataError

Interval = tuple[float, float]  # seconds, the end not included

_LONGEST = 1e7  # seconds, four months


def parse_time(text: str | float) -> float:
    """Seconds from ``h:mm:ss``, ``mm:ss`` or seconds, each with an optional fraction (``1:02:03.5``).

    Raises:
        DataError: anything else.
    """
    match = re.fullmatch(
        r"(?:(?:(?P<h>\d+):)?(?P<m>\d+):)?(?P<s>\d+(?:\.\d*)?|\.\d+)", str(text).strip(), flags=re.ASCII
    )
    if match is None:
        raise DataError(f"{reprlib.repr(text)} is not a time: write h:mm:ss, mm:ss or seconds, as in 1:02:03 or 62.5")
    hours, minutes, seconds = float(match["h"] or 0), float(match["m"] or 0), float(match["s"])
    if (match["m"] and seconds >= 60) or (match["h"] and minutes >= 60):
        raise DataError(f"{text!r} is not a time: after a colon, minutes and seconds go up to 59")
    total = hours * 3600 + minutes * 60 + seconds
    if total > _LONGEST:
        raise DataError(
            f"{reprlib.repr(text)} is more than {_LONGEST / 3600:.0f} hours, and no video is that long; "
            "write h:mm:ss, mm:ss or seconds"
        )
    return total


def read_cuts(path: Path) -> dict[str, list[Interval]]:
    """Read a file of cuts, JSON or YAML: for every video the intervals that are used, in order of time.

    Raises:
        DataError: unreadable, another layout, an interval that ends before it starts or overlaps another.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the cuts file {path} is no text in UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"the cuts file {path} cannot be read ({error.strerror}); check its path") from error
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs))
        else:
            content = _load_yaml(path, text)
    except RecursionError as error:
        raise DataError(f'the cuts file {path} is nested too deep; write {{video: ["0:24 5:57", ...]}}') from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bad JSON, or an impossible number or date
        raise DataError(f"the cuts file {path} is not valid ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise DataError(f'the cuts file {path} must hold {{video: ["0:24 5:57", ...]}}, found {type(content).__name__}')
    return {str(video): _intervals(path, str(video), entries) for video, entries in content.items()}


def match_cuts(
    cuts: Mapping[str, Sequence[Interval]], sources: Sequence[PurePosixPath]
) -> dict[PurePosixPath, list[Interval]]:
    """Give each source its intervals; a video is named by relative path, file name or name without suffix.

    Names that fit no source are left out (:func:`unmatched`): a list may be of more videos than are here.

    Raises:
        DataError: no name fits a source, one fits several, or two fit the same.
    """
    found: dict[PurePosixPath, str] = {}
    for name in cuts:
        fits = _fits(name, sources)
        if not fits:
            continue
        if len(fits) > 1:
            raise DataError(f"the cuts name {name!r}, which fits {fits[0]} and {fits[1]}; name it by its path instead")
        if fits[0] in found:
            raise DataError(f"the cuts name {fits[0]} twice, as {found[fits[0]]!r} and {name!r}; keep one of them")
        found[fits[0]] = name
    if cuts and not found:
        names = list(cuts)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise DataError(
            f"the cuts name {', '.join(map(repr, names[:5]))}{more}, and no such video was found; "
            "name videos by path below the folder, file name, or file name without suffix"
        )
    return {source: list(cuts[name]) for source, name in found.items()}


def unmatched(cuts: Mapping[str, Sequence[Interval]], sources: Sequence[PurePosixPath]) -> list[str]:
    """The names of videos that are not among the sources."""
    return [name for name in cuts if not _fits(name, sources)]


def _fits(name: str, sources: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    return next((found for found in (_fitting(name, sources, how) for how in range(3)) if found), [])


def _fitting(name: str, sources: Sequence[PurePosixPath], how: int) -> list[PurePosixPath]:
    forms = (lambda s: str(s), lambda s: s.name, lambda s: s.stem)
    return [source for source in sources if forms[how](source) == name]


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise DataError(f"the cuts file {path} names {key!r} twice; put its intervals into one list")
    return dict(pairs)


def _load_yaml(path: Path, text: str) -> Any:
    """As ``yaml.safe_load``, but a video named twice is refused instead of taken once."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        _unique(path, [(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
    return yaml.safe_load(text)


def _intervals(path: Path, video: str, entries: Any) -> list[Interval]:
    where = f"the cuts file {path}, {video!r}"
    if isinstance(entries, str):
        entries = [entries]
    if not isinstance(entries, list):
        raise DataError(
            f'{where}: a list of intervals such as ["0:24 5:57"] was expected, found {reprlib.repr(entries)}'
        )
    intervals = sorted(_interval(where, entry) for entry in entries)
    for (start, end), (after, _) in itertools.pairwise(intervals):
        if after < end:
            raise DataError(f"{where}: the intervals from {start:g} s and from {after:g} s overlap; part them")
    return intervals


def _interval(where: str, entry: Any) -> Interval:
    parts = entry.split() if isinstance(entry, str) else entry
    if not isinstance(parts, list) or len(parts) != 2:
        raise DataError(f'{where}: {reprlib.repr(entry)} is not an interval; write start and end, as in "0:24 5:57"')
    try:
        start, end = parse_time(parts[0]), parse_time(parts[1])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if end <= start:
        raise DataError(f"{where}: {entry!r} ends at or before its start; write the start first")
    return start, end
