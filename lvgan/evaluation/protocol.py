"""Scores with the protocol that they were measured with, on disk and side by side.

A score without its protocol cannot be compared with anything. Each is therefore written with all that it depends
on, and :func:`compare` refuses to put two scores of one metric in a table where any of that differs.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lvgan.errors import DataError, LvganError
from lvgan.files import write_whole
from lvgan.version import __version__

if TYPE_CHECKING:
    from lvgan.evaluation.sources import ClipSource

FORMAT = 1  # of the files
FIT = "centre cut to the aspect ratio, Lanczos"  # how every source is brought to the size
COLOR_SIMILARITY = "color similarity"
MODEL = "model"  # the role of what is evaluated: the one source that may differ between comparable scores
# Of the source that is evaluated, these say how it is looked at, the rest what it is.
FIXED_OF_MODEL = ("size", "fps", "fit", "input")
# Of a reference, these say where it lies, not what it is. (`long_enough` follows from data and frames.)
FREE_OF_REFERENCE = ("label", "path")
UPSCALED = "super-resolution of real frames"
FREE = ("versions", "device", "processes")  # no result may depend on them; versions are told under the table


@dataclass(frozen=True)
class Score:
    """One number, and how it came about.

    Attributes:
        metric: such as "fvd" or "color similarity area".
        value: finite.
        std: over seeds; None where there was one.
        interval: of confidence, as the protocol says; None where not known.
        details: whatever else was found; JSON values, never compared.
        protocol: from :func:`record`.
    """

    metric: str
    value: float
    std: float | None = None
    interval: tuple[float, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> dict[str, Any]:
        """What was evaluated, as :func:`describe` tells it."""
        sources = self.protocol.get("sources") or {}
        return dict(sources.get(MODEL) or next(iter(sources.values()), {}))

    @property
    def label(self) -> str:
        """Name of what was evaluated."""
        return str(self.model.get("label", "?"))

    @property
    def column(self) -> str:
        """Of a table: the metric, and of drift its time; super-resolution of real frames stands in one of its own."""
        metric = f"{self.metric} at {self.protocol['at_frame']}" if "at_frame" in self.protocol else self.metric
        return f"{metric}, {UPSCALED}" if self.model.get("input") is not None else metric


def describe(source: ClipSource) -> dict[str, Any]:
    """Label, kind, path, fingerprint, size, frames a second ... of a source; JSON values only."""
    sizes = {"size": getattr(source, "size", None), "native_size": getattr(source, "native", None)}
    known = {key: str(size) for key, size in sizes.items() if size is not None}
    return {"label": source.label, **source.describe(), **known, "fps": source.fps, "fit": FIT}


def versions() -> dict[str, str]:
    """Of everything that computes a score."""
    import PIL
    import torch

    return {
        "lvgan": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "pillow": PIL.__version__,
        "ffmpeg": _ffmpeg(),
    }


@functools.cache
def _ffmpeg() -> str:
    from lvgan.data.program import ffmpeg_version

    try:
        return ffmpeg_version()
    except LvganError:  # shards need none
        return "none"


def record(
    metric: str,
    *,
    sources: Mapping[str, ClipSource],
    clips: int,
    frames: int,
    stride: int = 1,
    size: object = None,
    seeds: Sequence[int] = (0,),
    detector: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The protocol of a score.

    Args:
        metric: its name.
        sources: by role; "model" is what is evaluated, every other role ("real") a reference that comparable
            scores share. Call this after their clips were read: a source then knows how many of its videos were used.
        clips, frames: of each source.
        stride: from one frame of a clip to the next.
        size: ``HxW`` at which clips were compared.
        seeds: that chose clips and latents.
        detector: name and SHA-256 of a feature network, and how it was called.
        more: whatever else the value depends on.
    """
    return _plain({
        "metric": metric,
        "sources": {role: describe(source) for role, source in sources.items()},
        "clips": clips,
        "frames": frames,
        "stride": stride,
        "size": None if size is None else str(size),
        "seeds": list(seeds),
        "detector": None if detector is None else dict(detector),
        **more,
        "versions": versions(),
    })  # fmt: skip


def _plain(value: Any) -> Any:
    """`value` in JSON's types; what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Scores as JSON values.

    Raises:
        DataError: a value is not a finite number.
    """
    for score in scores:
        numbers = [score.value, *([] if score.std is None else [score.std]), *(score.interval or ())]
        if not all(math.isfinite(number) for number in numbers):
            raise DataError(
                f"{score.metric} of {score.label} came out as {score.value}, which is no finite number and was not "
                "written: look at the clips and at the detector that it was computed from"
            )
    return [_plain(asdict(score)) for score in scores]


def write_scores(path: str | os.PathLike[str], scores: Sequence[Score]) -> None:
    """Write scores with their protocols as JSON, whole or not at all.

    Raises:
        DataError: a value is not a finite number.
        MachineError: the file cannot be written.
    """
    text = json.dumps({"lvgan_scores": FORMAT, "scores": as_json(scores)}, indent=1, ensure_ascii=False)
    write_whole(path, lambda file: file.write((text + "\n").encode()))


def read_scores(path: str | os.PathLike[str]) -> list[Score]:
    """The scores of a file that any ``lvgan eval`` wrote, in this format or in the one before it.

    Raises:
        DataError: it is not there, or is something else.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): name a .json file that `lvgan eval` wrote"
        ) from error
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise DataError(f"{path} is not JSON: name a .json file that `lvgan eval` wrote") from error
    try:
        if isinstance(content, dict) and "scores" in content:
            version = content.get("lvgan_scores", FORMAT)
            if version != FORMAT:
                raise DataError(
                    f"{path} is of format {version}, this lvgan reads {FORMAT}: use the lvgan that wrote it"
                )
            return [_score(item) for item in content["scores"]]
        if isinstance(content, dict) and content.get("measure") == COLOR_SIMILARITY:
            return list(_first_format(content))
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(f"{path} holds a damaged score ({error!r}): measure it again") from error
    raise DataError(f"{path} holds no score: name a .json file that `lvgan eval` wrote")


def _score(item: dict[str, Any]) -> Score:
    interval, protocol = item.get("interval"), dict(item["protocol"])
    if not dict(protocol["sources"]):
        raise ValueError("a score of no source")
    for source in protocol["sources"].values():
        dict(source)
        dict(source.get("input") or {})
    dict(protocol.get("versions") or {})
    list(protocol.get("seeds", []))
    return Score(
        metric=str(item["metric"]),
        value=_finite(item["value"]),
        std=None if item.get("std") is None else _finite(item["std"]),
        interval=None if interval is None else (_finite(interval[0]), _finite(interval[1])),
        details=dict(item.get("details") or {}),
        protocol=protocol,
    )


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value} where a finite number was expected")
    return number


def _first_format(content: dict[str, Any]) -> Iterator[Score]:
    """Scores of a ``color-sim.json`` from before protocols were recorded whole."""
    curves = {curve["label"]: curve for curve in content["curves"]}
    for area in content["areas"]:
        model, real = (curves[label] for label in area["between"])
        old = model["protocol"]
        protocol = {
            "metric": f"{COLOR_SIMILARITY} area",
            "sources": {
                MODEL: {"label": model["label"], "size": old["size"], **old["source"]},
                "real": {"label": real["label"], "size": real["protocol"]["size"], **real["protocol"]["source"]},
            },
            "clips": old["clips_asked"],
            "frames": old["frames"],
            "stride": 1,
            "size": old["size"],
            "seeds": [old["seed"]],
            "detector": None,
            "bins": old["bins"],
            "confidence": area["confidence"],
            "versions": old["versions"],
        }
        yield Score(protocol["metric"], area["area"], None, (area["low"], area["high"]), {}, protocol)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries by dotted names."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _settings(protocol: dict[str, Any]) -> dict[str, Any]:
    """What comparable scores share, by dotted names, the telling fields first."""
    shared = {key: value for key, value in protocol.items() if key not in (*FREE, "sources")}
    for role, source in (protocol.get("sources") or {}).items():
        if role == MODEL:
            kept = {key: source.get(key) for key in FIXED_OF_MODEL}
            if kept["input"] is not None:  # a network on real low-resolution frames is another protocol
                kept["input"] = kept["input"].get("fingerprint")
        else:
            kept = {key: value for key, value in source.items() if key not in FREE_OF_REFERENCE}
            if "fingerprint" in kept:  # says it all, but for how it was looked at
                kept = {key: kept.get(key) for key in ("fingerprint", "part", *FIXED_OF_MODEL)}
        shared |= {f"{role}.{key}": value for key, value in kept.items()}
    return dict(_flat(shared))


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field in which two protocols differ, and both its values; None where scores are comparable."""
    ours, theirs = _settings(a), _settings(b)
    for name in [*ours, *(key for key in theirs if key not in ours)]:
        if ours.get(name) != theirs.get(name):
            return name, ours.get(name), theirs.get(name)
    return None


def check_protocols(scores: Sequence[tuple[str, Score]]) -> None:
    """Refuse scores of one metric that were measured in different ways; each comes with where it is from.

    Raises:
        DataError: naming the field that differs.
    """
    first: dict[str, tuple[str, Score]] = {}
    for where, score in scores:
        start, reference = first.setdefault(score.column, (where, score))
        found = difference(reference.protocol, score.protocol)
        if found is not None:
            name, ours, theirs = found
            raise DataError(
                f"{score.metric} of {reference.label} ({start}) was measured with {name} {_short(ours)}"
                f"{_place(reference, name)} and that of {score.label} ({where}) with {_short(theirs)}"
                f"{_place(score, name)}, which cannot stand in one table: measure both with "
                "the same settings"
            )


def _place(score: Score, name: str) -> str:
    """Where the data of a fingerprint lie, which tells people more."""
    role, _, key = name.partition(".")
    path = ((score.protocol.get("sources") or {}).get(role) or {}).get("path")
    return f" ({path})" if key == "fingerprint" and path else ""


def _short(value: Any) -> str:
    text = str("nothing" if value is None else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def compare(files: Sequence[str | os.PathLike[str]]) -> str:
    """A table of the scores in `files`: a row for each model, a column for each metric.

    Raises:
        DataError: a file holds no scores, or scores of one metric have different protocols.
    """
    found = [(str(path), score) for path in files for score in read_scores(path)]
    if not found:
        raise DataError("the files hold no score: measure a model against footage first")
    check_protocols(found)
    return table(found)


def table(found: Sequence[tuple[str, Score]]) -> str:
    """The scores as text, their shared protocol and differing versions under them.

    Models are rows, or columns where there are more metrics than models.
    """
    metrics = list(dict.fromkeys(score.column for _, score in found))
    # The same files under the same label are one model, wherever its scores were written.
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    wheres: dict[tuple[str, str], str] = {}
    for where, score in found:
        key = (score.label, str(score.model.get("fingerprint") or where))
        wheres.setdefault(key, where)
        rows.setdefault(key, {}).setdefault(score.column, []).append(_value_text(score))
    labels = [label for label, _ in rows]
    cells = [["", *metrics]]
    for key, values in rows.items():
        name = key[0] if labels.count(key[0]) == 1 else f"{key[0]} ({wheres[key]})"
        for line in range(max(len(v) for v in values.values())):
            texts = [values.get(metric, []) for metric in metrics]
            cells.append([name, *(t[line] if line < len(t) else "-" for t in texts)])
    if len(metrics) > len(rows):
        cells = [list(column) for column in zip(*cells, strict=True)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *_notes(found, metrics)])


def _value_text(score: Score) -> str:
    text = f"{score.value:.4g}" if abs(score.value) < 1000 else f"{score.value:.1f}"
    if score.std is not None:
        text += f" ± {score.std:.2g}"
    if score.interval is not None:
        text += f" ({score.interval[0]:.4g} to {score.interval[1]:.4g})"
    return text


def _notes(found: Sequence[tuple[str, Score]], metrics: Sequence[str]) -> Iterator[str]:
    told: dict[str, list[str]] = {}
    for metric in metrics:
        protocol = next(score.protocol for _, score in found if score.column == metric)
        parts = [f"{key} {protocol[key]}" for key in ("clips", "frames", "stride", "size") if protocol.get(key)]
        text = f"{', '.join(parts)}, seeds {', '.join(map(str, protocol.get('seeds', [])))}"
        told.setdefault(text, []).append(metric)
    yield from (f"{'; '.join(names)}: {text}" for text, names in told.items())
    known = [score.protocol.get("versions") or {} for _, score in found]
    seen = {name: sorted({str(each.get(name, "unknown")) for each in known}) for each in known for name in each}
    differing = [f"{name} {', '.join(values)}" for name, values in seen.items() if len(values) > 1]
    if differing:
        yield f"versions differ: {'; '.join(differing)}"
