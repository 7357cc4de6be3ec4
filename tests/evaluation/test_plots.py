"""Plots and files of curves: complete, deterministic, never half written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvgan.errors import DataError, MachineError
from lvgan.evaluation.color import SimilarityCurve, curve_area
from lvgan.evaluation.plots import (
    INK,
    MODEL_COLORS,
    plot_similarity,
    write_curves_csv,
    write_curves_json,
)


def make_curve(label: str, rate: float, *, real: bool = False, frames: int = 24) -> SimilarityCurve:
    rates = rate * np.linspace(0.5, 1.5, 6)[:, None]
    curves = np.exp(-rates * np.arange(frames))
    protocol = {"bins": 20, "frames": frames, "size": "4x4", "channels": 3, "seed": 1}
    return SimilarityCurve(label, curves.mean(axis=0), curves.std(axis=0, ddof=1), 6, protocol, curves, real)


@pytest.fixture
def curves() -> list[SimilarityCurve]:
    return [make_curve("_run $7$, step 10", 0.01), make_curve("footage", 0.02, real=True)]


def has_color(image: np.ndarray, color: str) -> bool:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(image.astype(int) - wanted).max(axis=-1) <= 3).sum() > 100)


def test_plot_shows_footage_in_ink_and_models_in_colour(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    plot_similarity(curves, tmp_path / "new" / "a.png", tmp_path / "new" / "a.pdf")
    with Image.open(tmp_path / "new" / "a.png") as file:
        image = np.asarray(file.convert("RGB"))
    assert image.shape[1] >= 1000
    assert has_color(image, INK)
    assert has_color(image, MODEL_COLORS[0])
    assert not has_color(image, MODEL_COLORS[1])
    assert (tmp_path / "new" / "a.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.pdf", "a.png"]


def test_plots_are_the_same_bytes_each_time(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    for name in ("a", "b"):
        plot_similarity(curves, tmp_path / f"{name}.png", tmp_path / f"{name}.pdf")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert pdf == (tmp_path / "b.pdf").read_bytes()
    assert b"CreationDate" not in pdf


def test_plotting_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.evaluation.test_plots import make_curve;"
        "from lvgan.evaluation.plots import plot_similarity; assert 'matplotlib' not in sys.modules;"
        f"plot_similarity([make_curve('x', 0.1)], Path({str(tmp_path)!r}, 'a.png'));"
        "assert 'matplotlib.figure' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_csv_holds_every_frame_of_every_curve(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    write_curves_csv(curves, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert [row["label"] for row in rows[::24]] == [curve.label for curve in curves]
    assert [float(row["mean"]) for row in rows] == [*curves[0].mean, *curves[1].mean]
    assert [float(row["std"]) for row in rows] == [*curves[0].std, *curves[1].std]
    assert float(rows[15]["seconds"]) == 0.5


def test_json_holds_curves_protocols_and_areas(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    area = curve_area(*curves)
    write_curves_json(curves, tmp_path / "a.json", [("run", "footage", area)])
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["curves"][1]["mean"] == curves[1].mean.tolist()
    assert record["curves"][1]["real"] is True
    assert record["curves"][0]["protocol"] == curves[0].protocol
    assert record["areas"][0]["between"] == ["run", "footage"]
    assert record["areas"][0]["area"] == area.area


def test_different_sizes_are_told_apart_in_the_legend(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    plot_similarity(curves, pdf=tmp_path / "same.pdf")
    curves[1].protocol["size"] = "8x8"
    plot_similarity(curves, pdf=tmp_path / "mixed.pdf")
    assert (tmp_path / "same.pdf").read_bytes() != (tmp_path / "mixed.pdf").read_bytes()


def test_mixed_protocols_are_not_drawn_together(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="frames 24 and b with 12"):
        plot_similarity([make_curve("a", 0.1), make_curve("b", 0.1, frames=12)], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_curves_csv, write_curves_json, plot_similarity])
def test_unwritable_place_is_named_and_left_clean(
    tmp_path: Path, curves: list[SimilarityCurve], write: Callable[..., None]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MachineError, match="cannot be written"):
        write(curves, tmp_path / "file" / "a.out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(MachineError, match="cannot be written"):
        write(curves, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    write_curves_json(curves, tmp_path / "a.json")
    before = (tmp_path / "a.json").read_bytes()
    curves[0].mean[0] = np.nan
    with pytest.raises(ValueError, match="JSON"):
        write_curves_json(curves, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_readers_of_the_old_file_keep_it_whole(tmp_path: Path, curves: list[SimilarityCurve]) -> None:
    write_curves_csv(curves, tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()
    with open(tmp_path / "a.csv", "rb") as reader:
        write_curves_csv(curves[:1], tmp_path / "a.csv")
        assert reader.read() == before
    assert (tmp_path / "a.csv").read_bytes() != before
