"""Scores on disk and side by side: what may differ, what may not, and files that are none."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvgan.errors import DataError, MachineError
from lvgan.evaluation import protocol as pt
from lvgan.evaluation.sources import ArraySource, FunctionSource


def made(tmp_path: Path, label: str = "a", metric: str = "fvd", value: float = 12.5, **changes: Any) -> pt.Score:
    """A score with a whole protocol; `changes` by dotted names with __ for the dots."""
    file = tmp_path / "real.npy"
    if not file.exists():
        np.save(file, np.zeros((2, 4, 8, 8, 3), np.uint8))
    model = FunctionSource(
        label, lambda index, frames, seed: np.zeros((frames, 8, 8, 3), np.uint8), {"checkpoint": "x"}
    )
    record = pt.record(
        metric,
        sources={"model": model, "real": ArraySource(file, "footage")},
        clips=1000,
        frames=16,
        stride=8,
        size="8x8",
        seeds=[0, 1],
        detector={"name": "i3d", "sha256": "ab"},
        resize="detector",
    )
    for name, new in changes.items():
        *path, last = name.split("__")
        place = record
        for part in path:
            place = place[part]
        place[last] = new
    return pt.Score(metric, value, 0.5, (12.0, 13.0), {"curve": [1, 2]}, record)


def write(path: Path, *scores: pt.Score) -> Path:
    pt.write_scores(path, scores)
    return path


def test_scores_survive_the_file(tmp_path: Path) -> None:
    score = made(tmp_path)
    assert pt.read_scores(write(tmp_path / "a.json", score)) == [score]
    versions = score.protocol["versions"]
    assert versions["numpy"] == np.__version__
    assert set(versions) == {"lvgan", "python", "numpy", "torch", "pillow", "ffmpeg"}
    real = score.protocol["sources"]["real"]
    assert real["fingerprint"].startswith("sha256:")
    assert (real["label"], real["fps"], real["fit"]) == ("footage", 30, pt.FIT)


def test_json_never_holds_nan(tmp_path: Path) -> None:
    score = made(tmp_path)
    score.details["curve"] = np.array([1, np.nan, np.inf])
    path = write(tmp_path / "a.json", score)
    text = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert text["scores"][0]["details"]["curve"] == [1, None, None]
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="no finite number"):
            write(tmp_path / "b.json", made(tmp_path, value=value))
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clips": 100}, r"with clips 1000 and that of b .* with 100"),
        ({"frames": 128}, "frames 16"),
        ({"stride": 1}, "stride 8"),
        ({"size": "16x16"}, "size 8x8"),
        ({"seeds": [0]}, r"seeds \[0, 1\]"),
        ({"detector__sha256": "cd"}, r"detector\.sha256 ab .* with cd"),
        ({"detector": None}, r"detector"),
        ({"resize": "ours"}, "resize detector"),
        ({"bins": 20}, "bins nothing and .* with 20"),
        ({"sources__real__fingerprint": "sha256:0"}, r"real\.fingerprint sha256:[0-9a-f]{30}\.\.\. \(.*real\.npy\)"),
        ({"sources__real__part": "6 of 9 videos"}, r"real\.part nothing and .* with 6 of 9 videos"),
        ({"sources__model__fps": 25}, r"model\.fps 30"),
        ({"sources__model__fit": "stretched"}, r"model\.fit"),
    ],
)
def test_another_protocol_is_refused_by_its_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    one = write(tmp_path / "one.json", made(tmp_path))
    two = write(tmp_path / "two.json", made(tmp_path, "b", **change))
    with pytest.raises(DataError, match=said):
        pt.compare([one, two])


@pytest.mark.parametrize(
    "change",
    [
        {"sources__model__checkpoint": "y"},
        {"sources__model__fingerprint": "sha256:1"},
        {"sources__real__path": "/elsewhere"},
        {"sources__real__label": "truth"},
        {"versions__numpy": "1.0"},
    ],
)
def test_the_model_and_places_may_differ(tmp_path: Path, change: dict[str, Any]) -> None:
    one = write(tmp_path / "one.json", made(tmp_path))
    two = write(tmp_path / "two.json", made(tmp_path, "b", value=2000, **change))
    text = pt.compare([one, two])
    assert [line.split()[:2] for line in text.splitlines()[2:4]] == [["a", "12.5"], ["b", "2000.0"]]
    assert ("versions differ: numpy 1.0" in text) == ("versions__numpy" in change)


def test_metrics_have_columns_of_their_own(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", made(tmp_path), made(tmp_path, metric="fid", clips=50))
    two = write(tmp_path / "two.json", made(tmp_path))
    above, _, first, second, *rest = pt.compare([one, two]).splitlines()
    assert above.split() == ["fvd", "fid"]
    assert first.startswith(f"a ({one})")
    assert second.endswith("-")
    assert [line.split(",")[0] for line in rest if line] == ["fvd: clips 1000", "fid: clips 50"]


def test_scores_of_one_model_share_a_row_and_many_metrics_become_rows(tmp_path: Path) -> None:
    same = {"sources__model__fingerprint": "sha256:1"}
    scores = [made(tmp_path, metric=metric, value=i, **same) for i, metric in enumerate(("fvd", "fid", "drift"))]
    files = [write(tmp_path / f"{i}.json", score) for i, score in enumerate(scores)]
    above, _, *rows = pt.compare(files).splitlines()
    assert above.split() == ["a"]
    assert [row.split()[:2] for row in rows[:3]] == [["fvd", "0"], ["fid", "1"], ["drift", "2"]]
    assert rows[4].startswith("fvd; fid; drift: clips 1000, frames 16, stride 8, size 8x8, seeds 0, 1")


def test_super_resolution_alone_stands_apart(tmp_path: Path) -> None:
    alone = made(tmp_path, "sr", sources__model__input={"fingerprint": "sha256:2", "size": "4x4"})
    files = [write(tmp_path / "one.json", made(tmp_path)), write(tmp_path / "two.json", alone)]
    assert f"fvd, {pt.UPSCALED}" in pt.compare(files).splitlines()[0]
    other = copy.deepcopy(alone)
    other.protocol["sources"]["model"]["input"]["fingerprint"] = "sha256:3"
    with pytest.raises(DataError, match=r"model\.input"):
        pt.compare([files[1], write(tmp_path / "three.json", other)])


def test_the_first_format_is_read(tmp_path: Path) -> None:
    def curve(label: str, kind: str) -> dict[str, Any]:
        settings = {"bins": 20, "frames": 8, "size": "8x8", "clips_asked": 40, "seed": 3, "versions": {"numpy": "2"}}
        return {"label": label, "protocol": {**settings, "source": {"kind": kind, "fingerprint": label}}}

    old = {
        "measure": "color similarity",
        "curves": [curve("footage", "shards"), curve("lr", "generated")],
        "areas": [{"between": ["lr", "footage"], "area": 0.25, "low": 0.2, "high": 0.3, "confidence": 0.95}],
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    (score,) = pt.read_scores(tmp_path / "old.json")
    assert (score.label, score.value, score.interval) == ("lr", 0.25, (0.2, 0.3))
    assert {"clips": 40, "seeds": [3], "bins": 20, "size": "8x8"}.items() <= score.protocol.items()
    assert score.protocol["sources"]["real"]["fingerprint"] == "footage"
    assert "0.25 (0.2 to 0.3)" in pt.compare([tmp_path / "old.json"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1]", "holds no score"),
        (b"{}", "holds no score"),
        (b'{"scores": [{}]}', "damaged score"),
        (b'{"scores": 3}', "damaged score"),
        (b'{"scores": [{"metric": "fvd", "value": "high", "protocol": {}}]}', "damaged score"),
        (b'{"measure": "color similarity"}', "damaged score"),
        (b'{"scores": [{"metric": "fvd", "value": 1, "protocol": {}}]}', "damaged score"),
        (b'{"scores": [{"metric": "fvd", "value": NaN, "protocol": {"sources": {"model": {}}}}]}', "damaged score"),
        (b'{"scores": [{"metric": "fvd", "value": 1, "protocol": {"sources": [1]}}]}', "damaged score"),
        (b'{"scores": [{"metric": "fvd", "value": 1, "protocol": {"sources": {"model": 5}}}]}', "damaged score"),
        (b'{"scores": [{"metric": "f", "value": 1, "protocol": {"sources": {"model": {"input": 1}}}}]}', "damaged"),
        (
            b'{"scores": [{"metric": "f", "value": 1, "protocol": {"sources": {"model": {}}, "versions": [1]}}]}',
            "damaged score",
        ),
        (
            b'{"scores": [{"metric": "f", "value": 1, "protocol": {"sources": {"model": {}}, "seeds": 5}}]}',
            "damaged score",
        ),
        (
            b'{"scores": [{"metric": "f", "value": 1, "interval": [1], "protocol": {"sources": {"model": {}}}}]}',
            "damaged score",
        ),
        (b"[" * 100_000, "is not JSON"),
        (b'{"lvgan_scores": 99, "scores": []}', "is of format 99"),
        (b'{"lvgan_scores": 1, "scores": []}', "hold no score"),
        (None, "cannot be read"),
    ],
)
def test_other_files_are_told(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=said):
        pt.compare([tmp_path / "x.json"])


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="cannot be written"):
        write(tmp_path / "file" / "a.json", made(tmp_path))
