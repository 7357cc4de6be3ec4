"""The curves of runs as one picture: for ``lvgan plot``."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lvgan.errors import DataError
from lvgan.evaluation.plots import INK, MODEL_COLORS
from lvgan.files import write_whole
from lvgan.training.logging import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
SMOOTHED_FROM = 30  # values; fewer are drawn as they are
WINDOW = 0.04  # of a curve, over which it is smoothed
KEPT = 2000  # values of a faint raw curve: more cannot be seen
LEFT_OUT = ("time/preview",)
GRID = "#e6e6e6"
ALARM = "#c0392b"
NOT_FINITE, EVENT = "not finite", "event"


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what is drawn on it, with the names in the legend; `ideal` values are marked."""

    title: str
    names: dict[str, str]
    ideal: tuple[float, ...] = ()


CHANCE = math.log(2)  # of each loss where the discriminator can tell nothing
PANELS = (
    Panel(
        "Losses (chance level: 0.69)",
        {
            "loss/generator": "generator",
            "loss/discriminator_real": "discriminator, real",
            "loss/discriminator_fake": "discriminator, generated",
        },
        (CHANCE,),
    ),
    Panel("Discriminator's logits", {"logits/real": "real", "logits/fake": "generated"}, (0.0,)),
    Panel("R1: squared gradient of the logits", {"loss/r1": "R1"}),
    Panel("ADA", {"ada/p": "p", "ada/sign": "mean sign of real logits"}),
    Panel("Colours over time: distance to the data", {"metric/color_area": "color_area"}),
    Panel("Super-resolution: distance", {"metric/sr_distance": "sr_distance", "metric/low_error": "low_error"}),
    Panel(
        "Detail, generated / real (ideal: 1)",
        {"metric/detail": "detail", "metric/sharpness": "sharpness", "metric/flicker": "flicker"},
        (1.0,),
    ),
    Panel(
        "Variety in a batch of clips",
        {"health/real_std": "real", "health/fake_std": "generated"},
    ),
    Panel("Motion: deviation over time", {"health/real_motion": "real", "health/fake_motion": "generated"}),
    Panel("Largest feature magnitude (starts at 1)", {"health/largest_magnitude": "magnitude"}, (1.0,)),
    Panel(
        "Gradients that are not finite",
        {
            "health/bad_generator_gradients": "generator's",
            "health/bad_discriminator_gradients": "discriminator's",
        },
    ),
    Panel("Seconds a step", {"time/seconds_per_step": "step"}),
    Panel("Other", {}),
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Steps and values of one scalar; NaN where it was not finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class History:
    """What one run logged."""

    name: str
    curves: dict[str, Curve]
    events: tuple[tuple[int, str], ...]


def read_history(folder: Path, name: str | None = None) -> History:
    """The curves in a run's ``log.jsonl``.

    Raises:
        DataError: there is no such log, or nothing in it yet.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        raise DataError(f"{folder} has no log.jsonl; name a run such as runs/lr-0001 (`lvgan runs` lists them)")
    points: dict[str, list[tuple[int, float]]] = {}
    events = []
    for line in read_log(path):
        if "event" in line:
            events.append((int(line["step"]), str(line["event"])))
            continue
        for key, value in line.items():
            number = _number(value)
            if key != "step" and number is not None:
                points.setdefault(key, []).append((int(line["step"]), number))
    if not points:
        raise DataError(f"{path} holds no logged step yet; let the run reach its first (training.log_every)")
    curves = {key: Curve(*np.array(found, np.float64).T) for key, found in points.items()}
    return History(name or folder.resolve().name, curves, tuple(events))


def _number(value: Any) -> float | None:
    """A logged value; text such as "nan" and "inf" is how one that is not finite was logged."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else math.nan


def smooth(values: np.ndarray) -> np.ndarray:
    """Means over a window of 4 % of the curve, centred and cut at the ends; NaN count nothing."""
    half = max(1, round(len(values) * WINDOW / 2))
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.where(known, values, 0.0).cumsum()])
    counts = np.concatenate([[0], known.cumsum()])
    place = np.arange(len(values))
    low, high = (place - half).clip(0), (place + half + 1).clip(max=len(values))
    with np.errstate(invalid="ignore"):
        means: np.ndarray = (sums[high] - sums[low]) / (counts[high] - counts[low])
    return means


def plot_runs(histories: Sequence[History], output: Path) -> None:
    """Draw the curves of one or more runs; one panel a kind of value, the same panels for all runs.

    Raises:
        MachineError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # half a second: not at import

    panels = _panels(histories)
    columns = min(3, max(1, math.ceil(math.sqrt(len(panels)))))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows + 0.6), facecolor="white", layout="constrained")
    shown = ", ".join(history.name for history in histories)
    named = shown if len(shown) <= 80 else f"{len(histories)} runs"
    title = figure.suptitle(f"{named}: values by training step", color=INK, fontsize=13)
    title.set_parse_math(False)
    last = max(curve.steps[-1] for history in histories for curve in history.curves.values())
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw_panel(axes, panel, histories)
        axes.set_xlim(0, 1.02 * last)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    write_whole(output, lambda file: file.write(picture.getvalue()))


def _panels(histories: Sequence[History]) -> list[Panel]:
    """The panels that have something to show."""
    keys = sorted({key for history in histories for key in history.curves if key not in LEFT_OUT})
    placed = {name for panel in PANELS for name in panel.names}
    panels = []
    for panel in PANELS:
        names = {key: name for key, name in panel.names.items() if key in keys}
        if panel.title == "Other":
            names = {key: key for key in keys if key not in placed}
        if names:
            panels.append(Panel(panel.title, names, panel.ideal))
    return panels


def _draw_panel(axes: Axes, panel: Panel, histories: Sequence[History]) -> None:
    for ideal in panel.ideal:
        axes.axhline(ideal, color="#999999", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    several = len(histories) > 1
    drawn = []
    for number, history in enumerate(histories):
        for place, (key, name) in enumerate(panel.names.items()):
            curve = history.curves.get(key)
            if curve is None:
                continue
            # Of several runs each has its colour; of one run each value.
            color = MODEL_COLORS[(number if several else place) % len(MODEL_COLORS)]
            dashes = DASHES[place % len(DASHES)] if several else "-"
            label = name if not several else history.name if len(panel.names) == 1 else f"{history.name}: {name}"
            _draw_curve(axes, curve, label, color, dashes)
            drawn.append(curve)
        for step, _ in history.events:
            axes.axvline(step, color=ALARM, linewidth=0.7, alpha=0.5, zorder=1, label=EVENT)
    _style(axes, panel, drawn)


def _draw_curve(axes: Axes, curve: Curve, label: str, color: str, dashes: Any) -> None:
    steps, values = curve.steps, curve.values
    if len(values) >= SMOOTHED_FROM:
        stride = -(-len(values) // KEPT)
        axes.plot(steps[::stride], values[::stride], color=color, alpha=0.22, linewidth=0.7, zorder=2)
        values = smooth(values)
        marker = ""
    else:
        marker = "o" if len(values) <= 20 else ""
    label = f" {label}" if label.startswith("_") else label  # matplotlib hides what starts with _
    axes.plot(
        steps, values, color=color, linestyle=dashes, linewidth=1.6, marker=marker, markersize=3, label=label, zorder=5
    )
    bad = curve.steps[~np.isfinite(curve.values)]
    if len(bad):  # at the lower edge, whatever the scale
        axes.plot(
            bad, np.full(len(bad), 0.02), "x", color=ALARM, markersize=5, zorder=6,
            transform=axes.get_xaxis_transform(), label=NOT_FINITE,
        )  # fmt: skip


def _style(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(panel.title, color=INK, fontsize=10, loc="left")
    finite = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves])
    if len(finite) and finite.min() > 0 and finite.max() > 50 * np.median(finite):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8)
    handles, labels = axes.get_legend_handles_labels()
    found = sorted(zip(labels, handles, strict=True), key=lambda pair: pair[0] in (NOT_FINITE, EVENT))  # these last
    unique = dict(found)  # and once
    # Below the axes: it hides no curve.
    legend = axes.legend(
        list(unique.values()), list(unique), fontsize=7.5, labelcolor=INK, frameon=False, loc="upper center",
        bbox_to_anchor=(0.5, -0.16), ncols=2 if max(map(len, unique)) > 16 else 3, borderaxespad=0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a name is a $
