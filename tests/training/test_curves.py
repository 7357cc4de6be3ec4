"""``lvgan plot``: what is read, how it is smoothed, and that every run can be seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lvgan.errors import DataError, MachineError
from lvgan.evaluation.plots import MODEL_COLORS
from lvgan.training.curves import plot_runs, read_history, smooth


def _run(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def test_what_is_read(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss/generator": 0.5, "note": "hello", "flag": True},
        {"step": 2, "loss/generator": "nan", "loss/r1": 3},
        {"step": 2, "event": "rolled back", "culprit": "loss/generator", "attempt": 1},
        {"step": 3, "loss/generator": "inf"},
    ]
    history = read_history(_run(tmp_path / "run", lines, '{"step": 4, "loss/gen'))
    assert (history.name, history.events) == ("run", ((2, "rolled back"),))
    assert set(history.curves) == {"loss/generator", "loss/r1"}
    np.testing.assert_array_equal(history.curves["loss/generator"].steps, [1, 2, 3])
    np.testing.assert_array_equal(history.curves["loss/generator"].values, [0.5, np.nan, np.nan])
    assert history.curves["loss/r1"].values.tolist() == [3.0]


def test_runs_without_curves_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"has no log\.jsonl"):
        read_history(tmp_path / "none")
    with pytest.raises(DataError, match="no logged step"):
        read_history(_run(tmp_path / "cut", [], '{"step": 4, "loss/gen'))
    with pytest.raises(DataError, match="no logged step"):
        read_history(_run(tmp_path / "events", [{"step": 1, "event": "x"}]))


@pytest.mark.parametrize("count", [1, 2, 49, 50, 333])
def test_smoothing(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    values[::7] = np.nan
    half = max(1, round(count * 0.02))
    for place, smoothed in enumerate(smooth(values)):
        window = [v for v in values[max(0, place - half) : place + half + 1] if not math.isnan(v)]
        if window:
            assert smoothed == pytest.approx(math.fsum(window) / len(window), abs=1e-12)
        else:
            assert math.isnan(smoothed)


def _colors(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def _has(pixels: np.ndarray, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels.astype(int) - wanted).max(1) <= 3).sum()) > 50


def _lines(count: int, offset: float = 0.0) -> list[dict[str, Any]]:
    return [{"step": 10 * k, "loss/generator": offset + math.sin(k / 5)} for k in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 25, 200])
def test_every_run_is_drawn_in_its_colour(tmp_path: Path, count: int) -> None:
    histories = [read_history(_run(tmp_path / name, _lines(count, k)), name) for k, name in enumerate("abc")]
    plot_runs(histories, tmp_path / "three.png")
    plot_runs(histories[:1], tmp_path / "one.png")
    three, one = _colors(tmp_path / "three.png"), _colors(tmp_path / "one.png")
    assert all(_has(three, color) for color in MODEL_COLORS[:3])
    assert _has(one, MODEL_COLORS[0])
    assert not _has(one, MODEL_COLORS[1])
    before = (tmp_path / "three.png").read_bytes()
    plot_runs(histories, tmp_path / "three.png")
    assert (tmp_path / "three.png").read_bytes() == before


def _reddish(path: Path) -> int:
    pixels = _colors(path).astype(int)
    return int(((pixels[:, 0] - pixels[:, 1] > 40) & (pixels[:, 0] - pixels[:, 2] > 40)).sum())


def test_values_that_are_not_finite_and_events_are_marked(tmp_path: Path) -> None:
    logs = {
        "plain": _lines(100),
        "bad": [*_lines(100), {"step": 1010, "loss/generator": "nan"}],
        "only": [{"step": 1, "loss/generator": "nan"}],  # nothing else
        "event": [*_lines(100), {"step": 500, "event": "rolled back"}],
    }
    red = {}
    for name, lines in logs.items():
        plot_runs([read_history(_run(tmp_path / name, lines))], tmp_path / f"{name}.png")
        red[name] = _reddish(tmp_path / f"{name}.png")
    assert red.pop("plain") == 0
    assert min(red.values()) > 20, red


def test_names_are_text(tmp_path: Path) -> None:
    histories = [read_history(_run(tmp_path / str(k), _lines(5)), name) for k, name in enumerate(("_a$x$", "$", "b"))]
    plot_runs(histories, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    history = read_history(_run(tmp_path / "run", _lines(5)))
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="-o"):
        plot_runs([history], tmp_path / "file" / "p.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "run"]
