"""``lvgan bench cuts``: how it counts, and that it runs every method there is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lvgan.cli import bench, bench_cuts
from lvgan.cli.bench_cuts import score
from lvgan.cli.cut_corpus import KINDS, Case, _Stage, dissolve, fade, join, make_corpus
from lvgan.data.scenes import Cut
from lvgan.sizes import Size

NOTHING = np.zeros((1, 2, 2, 3), np.uint8)


def test_score() -> None:
    case = Case("x", NOTHING, (Cut(30, 30), Cut(60, 70, "fade")))
    assert score(case, []) == (0, 0)
    assert score(case, [Cut(30, 30), Cut(62, 62), Cut(68, 68)]) == (2, 0)
    assert score(case, [Cut(31, 31), Cut(72, 80)]) == (2, 0)
    assert score(case, [Cut(28, 28), Cut(57, 57)]) == (0, 2)
    assert score(case, [Cut(0, 100)]) == (1, 0)
    assert score(Case("x", NOTHING), [Cut(3, 3), Cut(9, 9)]) == (0, 2)


def test_transitions_are_where_they_are_said_to_be() -> None:
    a, b = np.full((20, 4, 4, 3), 40, np.uint8), np.full((20, 4, 4, 3), 240, np.uint8)
    levels = [int(frame[0, 0, 0]) for frame in join(a, b)[0]]
    assert levels == [40] * 20 + [240] * 20
    frames, cut = dissolve(a, b, 9)
    levels = [int(frame[0, 0, 0]) for frame in frames]
    assert levels == [40] * 11 + list(range(60, 240, 20)) + [240] * 11
    assert (cut.start, cut.end) == (11, 20)
    frames, cut = fade(a, b, 3, 2, 3)
    levels = [int(frame[0, 0, 0]) for frame in frames]
    assert levels == [40] * 17 + [30, 20, 10, 0, 0, 60, 120, 180] + [240] * 17
    assert (cut.start, cut.end) == (17, 25)


def test_the_corpus_is_a_function_of_its_seed() -> None:
    one, other, different = (next(make_corpus(seed, None, Size(16, 16), 1)) for seed in (0, 0, 1))
    assert one.kind == KINDS[0]
    assert np.array_equal(one.frames, other.frames)
    assert one.cuts == other.cuts
    assert not np.array_equal(one.frames, different.frames)
    assert len(KINDS) >= 20


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(seed: int, clips: Path | None, size: Size, each: int) -> list[Case]:
        stage = _Stage(seed, clips, size)
        a, b = stage.texture(40), stage.texture(40)
        frames, cut = join(a, b)
        return [Case("cut", frames, (cut,)), Case("quiet", a)]

    monkeypatch.setattr(bench_cuts, "make_corpus", few)
    monkeypatch.setattr(bench_cuts, "SIZE", Size(72, 128))
    result = CliRunner().invoke(bench.bench_app, ["cuts", "--json", str(tmp_path / "rows.json")])
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows["lvgan"]["all"] == {
        "videos": 2, "cuts": 1, "hits": 1, "false": 0, "fired": 0, "recall": 1.0, "precision": 1.0,
    }  # fmt: skip
    assert rows["lvgan"]["kinds"] == {"cut": [1, 1, 0], "quiet": [0, 0, 0]}
    assert rows["ffmpeg scdet 10"]["cut"]["hits"] == 1
    assert rows["ffmpeg select scene 0.2"]["cut"]["hits"] == 1
    installed = all(importlib.util.find_spec(name) for name in ("scenedetect", "cv2"))
    assert ("PySceneDetect Adaptive" in rows) == installed
