"""Training clips out of shards."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from lvgan.data.dataset import ClipDataset, choose_sizes
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size
from tests.data.sets import HIGH, LOW, identify, make_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set"))


def test_what_is_kept(root: Path) -> None:
    data = ClipDataset(root, min_frames=8)
    assert (data.lr, data.hr) == (LOW, HIGH)
    assert data.clips == [("a", 10), ("b/c", 20)]
    assert data.kept_message == "kept 2 of 3 clips: 1 is shorter than 8 frames"
    everything = ClipDataset(root)
    assert everything.kept_message == "kept all 3 clips"
    assert everything.fingerprint != data.fingerprint == ClipDataset(root, min_frames=9).fingerprint
    with pytest.raises(DataError, match=r"none of the 3 clips .* has 99 frames, the longest has 20"):
        ClipDataset(root, min_frames=99)
    with pytest.raises(ConfigError, match="4 channels"):
        ClipDataset(root, channels=4)


def test_reading_by_name(root: Path) -> None:
    data = pickle.loads(pickle.dumps(ClipDataset(root, channels=1)))
    assert data.read("b/c", 5, 2, "hr").shape == (2, *HIGH, 1)
    with pytest.raises(ValueError, match="no clip"):
        data.read("zzz", 0, 1)


def test_strides(root: Path) -> None:
    data = ClipDataset(root)
    for cached in (False, True):
        data.open_cache("memory" if cached else "off")
        assert data.cached == cached
        assert identify(data.read("b/c", 1, 4, stride=5)) == (1, [1, 6, 11, 16], False)
        for start, count, stride in ((0, 5, 5), (-1, 2, 1), (19, 2, 1), (0, 0, 1), (0, 1, 0)):
            with pytest.raises(ValueError, match="which has 20"):
                data.read("b/c", start, count, stride=stride)
        with pytest.raises(ValueError, match="no clip"):
            data.read("zzz", 0, 1)
    everything = data.read("b/c", 0, 20)
    everything[:] = 0  # the caller's own
    assert data.read("b/c", 0, 20).any()
    assert np.array_equal(data.read("d", 0, 3), ClipDataset(root).read("d", 0, 3))


def test_which_sizes_are_meant(tmp_path: Path) -> None:
    make_set(tmp_path, (LOW, HIGH, Size(16, 24)))
    with pytest.raises(DataError, match="4x6, 8x12, 16x24 and no manifest"):
        ClipDataset(tmp_path)
    assert choose_sizes(tmp_path, LOW, HIGH) == (LOW, HIGH)
    assert choose_sizes(tmp_path, HIGH) == (HIGH, Size(16, 24))
    low_only = ClipDataset(tmp_path, LOW)
    with pytest.raises(DataError, match="holds 4x6 only"):
        low_only.read("a", 0, 1, "hr")
    with pytest.raises(DataError, match="holds no 5x5, only 4x6, 8x12, 16x24"):
        ClipDataset(tmp_path, Size(5, 5))
    with pytest.raises(DataError, match="is not a folder"):
        ClipDataset(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folders of shards"):
        ClipDataset(tmp_path / "empty")
    one = make_set(tmp_path / "one", (HIGH,))
    assert choose_sizes(one) == (HIGH, None)


def test_sets_that_do_not_belong_together(tmp_path: Path) -> None:
    make_set(tmp_path, (LOW,), {"a": 4})
    make_set(tmp_path, (HIGH,), {"a": 5})
    with pytest.raises(DataError, match=r"'a' has 4 frames .* and 5 in"):
        ClipDataset(tmp_path)


def test_an_unfinished_set_is_refused(tmp_path: Path) -> None:
    make_set(tmp_path)
    manifest = {
        "format": "lvgan shards", "version": 1, "complete": False, "lvgan": "", "ffmpeg": "",
        "settings": {"fps": 30},
        "sizes": {"lr": LOW.folder(), "hr": HIGH.folder()}, "shards": [], "unusable": [],
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="not complete"):
        ClipDataset(tmp_path)
    for wrong, words in (("{", "cannot be read"), ("{}", "not a manifest of lvgan")):
        (tmp_path / "manifest.json").write_text(wrong)
        with pytest.raises(DataError, match=words):
            ClipDataset(tmp_path)
