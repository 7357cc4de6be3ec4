"""Curves of an evaluation as pictures (PNG, PDF) and as files to read on (CSV, JSON).

Every file is written beside its place and moved there when complete. The same curves give the same
bytes. Nothing here touches matplotlib's global state (pyplot), so it is safe inside a training run.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lvgan.evaluation.color import CurveArea, SimilarityCurve, check_comparable
from lvgan.evaluation.protocol import COLOR_SIMILARITY, FORMAT, Score, as_json
from lvgan.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
# Okabe and Ito's palette, told apart with any kind of colour vision, without its yellow (too pale on white).
MODEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Five: no curve shares colour and dashes with one of the 29 after it.
MODEL_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)))
REAL_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1.5, 1.5)))


def plot_similarity(
    curves: Sequence[SimilarityCurve],
    png: str | os.PathLike[str] | None = None,
    pdf: str | os.PathLike[str] | None = None,
) -> None:
    """Plot mean colour similarity with bands of ± one standard deviation (the paper's figure 5).

    Real footage is drawn in black over a grey band, models in colour. Under the frames stands
    their time at 30 frames a second. Where frame sizes differ, the legend gives them.

    Raises:
        DataError: the curves were measured with different bins or frames.
        MachineError: a file cannot be written.
        ValueError: no curve, or no file to write.
    """
    if not curves:
        raise ValueError("curves must hold at least one curve")
    if png is None and pdf is None:
        raise ValueError("png or pdf must name a file")
    check_comparable(*curves, settings=("bins", "frames"))
    figure = _draw(curves)
    if png is not None:
        write_whole(png, lambda file: figure.savefig(file, format="png", dpi=160, metadata={"Software": None}))
    if pdf is not None:
        undated = {"CreationDate": None, "Creator": None, "Producer": None}
        write_whole(pdf, lambda file: figure.savefig(file, format="pdf", metadata=undated))


def _draw(curves: Sequence[SimilarityCurve]) -> Figure:
    from matplotlib.figure import Figure  # half a second: not at import

    figure = Figure(figsize=(6.4, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    sized = len({curve.protocol["size"] for curve in curves}) > 1
    models = reals = 0
    shade = 0.13 if len(curves) <= 4 else 0.06  # many bands over one another hide the curves
    for curve in sorted(curves, key=lambda c: not c.real):  # footage below, models above it
        name = _legend_text(curve, sized)
        if curve.real:
            _draw_curve(axes, curve, name, INK, REAL_DASHES[reals % len(REAL_DASHES)], 10 + reals, shade)
            reals += 1
        else:
            color = MODEL_COLORS[models % len(MODEL_COLORS)]
            _draw_curve(axes, curve, name, color, MODEL_DASHES[models % len(MODEL_DASHES)], 20 + models, shade)
            models += 1
    _label(axes, len(curves[0].mean), curves)
    return figure


def _legend_text(curve: SimilarityCurve, sized: bool) -> str:
    size = f"{curve.protocol['size']}, " if sized else ""
    text = f"{curve.label} ({size}{curve.clips:,} clip{'' if curve.clips == 1 else 's'})"
    return f" {text}" if text.startswith("_") else text  # matplotlib hides what starts with _


def _draw_curve(
    axes: Axes, curve: SimilarityCurve, name: str, color: str, dashes: Any, order: int, shade: float
) -> None:
    t = range(len(curve.mean))
    low, high = (curve.mean - curve.std).clip(0, 1), (curve.mean + curve.std).clip(0, 1)
    axes.fill_between(t, low, high, color=color, alpha=shade, linewidth=0, zorder=1)
    for edge in (low, high):  # overlapping bands stay apart
        axes.plot(t, edge, color=color, alpha=0.35, linewidth=0.6, zorder=2)
    width = 2.4 if curve.real else 1.8
    axes.plot(t, curve.mean, color=color, linestyle=dashes, linewidth=width, zorder=order, label=name)


def _label(axes: Axes, frames: int, curves: Sequence[SimilarityCurve]) -> None:
    from matplotlib.ticker import MaxNLocator

    lowest = min(float((curve.mean - curve.std).min()) for curve in curves)
    # The scale starts at a round tenth, so that plots of similar sources share it.
    bottom = max(0.0, int(max(lowest, 0.0) * 10 - 0.5) / 10)
    axes.set(xlim=(0, frames - 1), ylim=(bottom, 1.0))
    axes.set_xlabel("Frame t", color=INK)
    axes.set_ylabel("Colour similarity to frame 0\n(mean ± 1 standard deviation)", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    fps = curves[0].fps

    def to_seconds(t: Any) -> Any:
        return t / fps

    def to_frames(seconds: Any) -> Any:
        return seconds * fps

    seconds = axes.secondary_xaxis("top", functions=(to_seconds, to_frames))
    seconds.set_xlabel(f"Seconds at {fps:g} frames a second", color=INK)
    for spine in (axes.spines["right"], axes.spines["top"]):
        spine.set_visible(False)
    for axis in (axes, seconds):
        axis.tick_params(colors=INK, labelsize=9)
    for spine in (*axes.spines.values(), *seconds.spines.values()):
        spine.set_color("#888888")
    # Below the axes: it hides no data, however far the curves fall.
    columns = 2 if max(len(curve.label) for curve in curves) <= 28 else 1
    legend = axes.figure.legend(
        loc="outside lower center", ncols=min(columns, len(curves)), frameon=False, fontsize=9,
        labelcolor=INK, handlelength=3,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a label is a $


def write_curves_csv(curves: Sequence[SimilarityCurve], path: str | os.PathLike[str]) -> None:
    """Write one row a curve and frame: label, frame, seconds, mean, std, clips.

    Raises:
        MachineError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["label", "frame", "seconds", "mean", "std", "clips"])
    for curve in curves:
        for t, (mean, std) in enumerate(zip(curve.mean.tolist(), curve.std.tolist(), strict=True)):
            rows.writerow([curve.label, t, round(t / curve.fps, 6), mean, std, curve.clips])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def write_curves_json(
    curves: Sequence[SimilarityCurve],
    path: str | os.PathLike[str],
    areas: Sequence[tuple[str, str, CurveArea]] = (),
    scores: Sequence[Score] = (),
) -> None:
    """Write curves with the protocol of each: bins, clips, frames, seed, size, source, versions.

    Args:
        curves: what to write.
        path: the file.
        areas: distances of curves: label, label, :func:`lvgan.evaluation.color.curve_area` of the two.
        scores: for :func:`lvgan.evaluation.protocol.read_scores`.

    Raises:
        MachineError: the file cannot be written.
    """
    record = {
        "measure": COLOR_SIMILARITY,
        "curves": [
            {
                "label": curve.label,
                "real": curve.real,
                "clips": curve.clips,
                "protocol": curve.protocol,
                "mean": curve.mean.tolist(),
                "std": curve.std.tolist(),
            }
            for curve in curves
        ],
        "areas": [
            {
                "between": [a, b],
                "area": found.area,
                "low": found.low,
                "high": found.high,
                "confidence": found.confidence,
            }
            for a, b, found in areas
        ],
        "lvgan_scores": FORMAT,
        "scores": as_json(scores),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
