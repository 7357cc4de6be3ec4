"""Long-horizon figures as pictures: drift, self-repetition and motion of several sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lvgan.evaluation.horizon import RHYTHM_LAGS, Horizon, rhythm
from lvgan.evaluation.plots import INK, MODEL_COLORS, MODEL_DASHES, REAL_DASHES
from lvgan.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_horizon(horizons: Sequence[Horizon], path: str | os.PathLike[str]) -> None:
    """All three figures in one PNG.

    Raises:
        MachineError: the file cannot be written.
    """
    _save(horizons, path, [_draw_drift, _draw_time, _draw_ratio, _draw_lags, _draw_change, _draw_rhythm], 2)


def plot_drift(horizons: Sequence[Horizon], path: str | os.PathLike[str]) -> None:
    """Colour similarity to the start over log-spaced time, with bands of one standard deviation over videos."""
    _save(horizons, path, [_draw_drift], 1)


def plot_repetition(horizons: Sequence[Horizon], path: str | os.PathLike[str]) -> None:
    """How close the best match of each moment is, and after how many frames moments recur."""
    _save(horizons, path, [_draw_ratio, _draw_lags], 1)


def plot_motion(horizons: Sequence[Horizon], path: str | os.PathLike[str]) -> None:
    """How much frames change, and in what rhythm."""
    _save(horizons, path, [_draw_time, _draw_change, _draw_rhythm], 1)


Draw = Callable[["Axes", Sequence[Horizon]], None]


def _save(horizons: Sequence[Horizon], path: str | os.PathLike[str], draws: Sequence[Draw], columns: int) -> None:
    from matplotlib.figure import Figure  # half a second: not at import

    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows + 0.5), facecolor="white", layout="constrained")
    for place, draw in enumerate(draws, start=1):
        axes = figure.add_subplot(rows, columns, place)
        draw(axes, horizons)
        _style(axes)
    _legend(figure, horizons)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=130, metadata={"Software": None}))


def _looks(horizons: Sequence[Horizon]) -> Iterator[tuple[Horizon, dict[str, Any]]]:
    """Footage in ink, models in colour, as in the plots of colour similarity."""
    models = reals = 0
    for horizon in horizons:
        if horizon.real:
            look = {"color": INK, "linestyle": REAL_DASHES[reals % len(REAL_DASHES)], "linewidth": 2.2}
            reals += 1
        else:
            look = {"color": MODEL_COLORS[models % len(MODEL_COLORS)], "linewidth": 1.7}
            look["linestyle"] = MODEL_DASHES[models % len(MODEL_DASHES)]
            models += 1
        yield horizon, look


def _draw_drift(axes: Axes, horizons: Sequence[Horizon]) -> None:
    lowest = 1.0
    for horizon, look in _looks(horizons):
        mean, std, _ = horizon.drift()
        t = horizon.times[1:]  # frame 0 has no place on a logarithmic scale, and is 1
        low, high = (mean - std)[1:].clip(0, 1), (mean + std)[1:].clip(0, 1)
        axes.fill_between(t, low, high, color=look["color"], alpha=0.13, linewidth=0)
        axes.plot(t, mean[1:], **look)
        lowest = min(lowest, float(np.nanmin(low)))
    axes.set_xscale("log")
    axes.set(xlim=(1, float(max(h.times[-1] for h in horizons))), ylim=(max(0.0, int(lowest * 10 - 0.5) / 10), 1.0))
    axes.set_title("Drift: do colours stay what they were?", loc="left", fontsize=11, color=INK)
    axes.set_xlabel(f"Frames since the start ({horizons[0].fps:g} a second)", color=INK)
    axes.set_ylabel("Colour similarity\n(mean ± 1 standard deviation)", color=INK)


def _draw_ratio(axes: Axes, horizons: Sequence[Horizon]) -> None:
    smallest = 0.02
    for horizon, look in _looks(horizons):
        ratios = np.sort(np.concatenate([found.ratio for found in horizon.repetitions]))
        if not len(ratios):
            continue
        share = (np.arange(len(ratios)) + 1) / len(ratios)
        x = np.maximum(ratios, smallest)
        axes.step([smallest, *x, 100], [0, *share, 1], where="post", **look)
    axes.axvspan(smallest, 1, color="#c0392b", alpha=0.07, linewidth=0)
    axes.set_xscale("log")
    axes.set(xlim=(smallest, 100), ylim=(0, 1.02))
    axes.set_title("Self-repetition: is a moment met again?", loc="left", fontsize=11, color=INK)
    axes.set_xlabel(
        "Distance of the best match ÷ that of the neighbouring moments\n(shaded: as good as the same moment)"
    )
    axes.set_ylabel("Share of moments", color=INK)


def _draw_lags(axes: Axes, horizons: Sequence[Horizon]) -> None:
    last = 1
    for horizon, look in _looks(horizons):
        length = min(len(found.coverage) for found in horizon.repetitions)
        coverage = np.mean([found.coverage[:length] for found in horizon.repetitions], axis=0)
        usable = max(1, length - 16)  # of the largest lags only a few pairs exist
        axes.plot(np.arange(1, usable + 1), coverage[:usable], **{**look, "linewidth": 1.2})
        last = max(last, usable)
    axes.set_xscale("log")
    axes.set(xlim=(1, last), ylim=(0, 1.02))
    axes.set_title("Self-repetition: after how long?", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("Frames later (a peak: the video repeats itself after so many)", color=INK)
    axes.set_ylabel("Share of moments\nthat recur", color=INK)


def _draw_time(axes: Axes, horizons: Sequence[Horizon]) -> None:
    for horizon, look in _looks(horizons):
        length = min(len(track.change) for track in horizon.tracks)
        change = np.mean([track.change[:length] for track in horizon.tracks], axis=0)
        step = max(1, length // 150)
        means = change[: length // step * step].reshape(-1, step).mean(axis=1)
        axes.plot(np.arange(len(means)) * step + step / 2, means, **{**look, "linewidth": 1.2})
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_title("Motion: does it go on?", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("Frame", color=INK)
    axes.set_ylabel("Change from a frame to the next\n(root mean square, grey levels)", color=INK)


def _draw_change(axes: Axes, horizons: Sequence[Horizon]) -> None:
    for horizon, look in _looks(horizons):
        change = np.sort(np.concatenate([track.change for track in horizon.tracks]))
        axes.step(np.maximum(change, 0.05), (np.arange(len(change)) + 1) / len(change), where="post", **look)
    axes.set_xscale("log")
    axes.set(ylim=(0, 1.02))
    axes.set_title("Motion: how much do frames change?", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("Change from a frame to the next (root mean square, grey levels)", color=INK)
    axes.set_ylabel("Share of frames below", color=INK)


def _draw_rhythm(axes: Axes, horizons: Sequence[Horizon]) -> None:
    lowest = 0.0
    for horizon, look in _looks(horizons):
        values = rhythm(horizon)
        lowest = min(lowest, float(values.min()))
        axes.plot(range(len(values) + 1), [1.0, *values], **look)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set(xlim=(0, RHYTHM_LAGS), ylim=(min(-0.4, lowest - 0.05), 1.02))
    axes.set_title("Motion: in what rhythm?", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("Frames later", color=INK)
    axes.set_ylabel("Autocorrelation\nof the change", color=INK)


def _style(axes: Axes) -> None:
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=INK, labelsize=9)
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_formatter(_plain)
        axes.xaxis.set_minor_formatter("")


def _plain(value: float, place: object = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _legend(figure: Figure, horizons: Sequence[Horizon]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **look) for _, look in _looks(horizons)]
    names = [f" {h.label}" if h.label.startswith("_") else h.label for h in horizons]  # matplotlib hides the others
    columns = 1 if max(map(len, names)) > 28 else min(3, len(names))
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK,
        handlelength=3,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a label is a $
