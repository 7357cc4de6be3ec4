"""Training clips out of shards."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvgan.data.dataset import Batches, ClipDataset, choose_sizes, crop_resize, lr_batches, sr_batches
from lvgan.data.shards import ShardFolder, ShardWriter, encode_jpeg, shard_name
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size

LOW, HIGH = Size(4, 6), Size(8, 12)
CLIPS = {"a": 10, "b/c": 20, "d": 3}


def colour(clip: int, number: int, right: bool) -> tuple[int, int, int]:
    """Says which clip, which frame, which half of the picture."""
    return 40 + 60 * clip, 20 + 10 * number, 200 if right else 30


def make_set(root: Path, sizes: tuple[Size, ...] = (LOW, HIGH), clips: dict[str, int] = CLIPS) -> Path:
    for size in sizes:
        for index, (name, count) in enumerate(clips.items()):
            with ShardWriter(root / size.folder() / shard_name(index)) as shard:
                for number in range(count):
                    frame = np.empty((*size, 3), np.uint8)
                    frame[:, : size.width // 2] = colour(index, number, False)
                    frame[:, size.width // 2 :] = colour(index, number, True)
                    shard.add(name, encode_jpeg(frame))
                shard.finish()
                shard.commit()
    return root


def identify(window: np.ndarray) -> tuple[int, list[int], bool]:
    """Clip, frame numbers and whether it is mirrored, read off the colours."""
    red, green, blue = (window[:, 0, 0, i].astype(float) for i in range(3))
    clip = round(float(red[0] - 40) / 60)
    return clip, [round(float(g - 20) / 10) for g in green], bool(blue[0] > 100)


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


def test_windows_are_uniform_over_clips_and_starts(root: Path) -> None:
    data = ClipDataset(root, min_frames=8)
    rng = np.random.default_rng(0)
    seen: dict[int, list[int]] = {}
    mirrored = 0
    for _ in range(400):
        clip, numbers, mirror = identify(data.lr_window(rng, 8, flip=True))
        assert numbers == list(range(numbers[0], numbers[0] + 8))
        seen.setdefault(clip, []).append(numbers[0])
        mirrored += mirror
    assert set(seen[0]) == set(range(3))
    assert set(seen[1]) == set(range(13))
    assert 160 < len(seen[0]) < 240  # five standard deviations: each clip the same, however long
    assert 150 < mirrored < 250
    assert not any(identify(data.lr_window(rng, 8))[2] for _ in range(20))
    with pytest.raises(DataError, match=r"no clip .* has 21 frames"):
        data.lr_window(rng, 21)


def test_pairs_show_the_same_moments(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ClipDataset(root, min_frames=8)
    decoded: list[Size] = []
    original = ShardFolder._decode
    monkeypatch.setattr(
        ShardFolder,
        "_decode",
        lambda self, *a: decoded.append(self.size) or original(self, *a),  # type: ignore[func-returns-value]
    )
    rng = np.random.default_rng(1)
    for _ in range(20):
        low, high = data.sr_window(rng, 4, 2, flip=True)
        assert low.shape == (8, *LOW, 3)
        assert high.shape == (4, *HIGH, 3)
        (clip, numbers, mirror), (clip2, numbers2, mirror2) = identify(low), identify(high)
        assert (clip, numbers[2:-2], mirror) == (clip2, numbers2, mirror2)
    assert decoded.count(HIGH) == 20 * 4  # what is used, no more
    assert decoded.count(LOW) == 20 * 8


def test_reading_by_name(root: Path) -> None:
    data = pickle.loads(pickle.dumps(ClipDataset(root, channels=1)))
    assert data.read("b/c", 5, 2, "hr").shape == (2, *HIGH, 1)
    with pytest.raises(ValueError, match="no clip"):
        data.read("zzz", 0, 1)


def test_which_sizes_are_meant(tmp_path: Path) -> None:
    make_set(tmp_path, (LOW, HIGH, Size(16, 24)))
    with pytest.raises(DataError, match="4x6, 8x12, 16x24 and no manifest"):
        ClipDataset(tmp_path)
    assert choose_sizes(tmp_path, LOW, HIGH) == (LOW, HIGH)
    assert choose_sizes(tmp_path, HIGH) == (HIGH, Size(16, 24))
    low_only = ClipDataset(tmp_path, LOW)
    with pytest.raises(DataError, match="holds 4x6 only"):
        low_only.sr_window(np.random.default_rng(0), 1, 0)
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


def test_batches_are_a_function_of_the_step(root: Path) -> None:
    data = ClipDataset(root, min_frames=8)

    def batches(seed: int = 3, rank: int = 0) -> Batches:
        return sr_batches(data, batch=4, frames=4, context=2, seed=seed, flip=True, rank=rank)

    with batches() as a, batches() as b, batches(seed=4) as other, batches(rank=1) as rank:
        found = {step: a.get(step) for step in (0, 1, 2, 3)}
        for step in (2, 0, 3, 1, 1):
            for x, y in zip(found[step], b.get(step), strict=True):
                assert torch.equal(x, y)
        assert found[0][0].shape == (4, 3, 8, 4, 6)
        assert found[0][1].shape == (4, 3, 4, 8, 12)
        assert found[0][0].dtype == torch.uint8
        assert not torch.equal(found[0][0], found[1][0])
        assert not torch.equal(found[0][0], other.get(0)[0])
        assert not torch.equal(found[0][0], rank.get(0)[0])
        assert torch.equal(a.first(6)[0][:4], found[0][0])
    # Laid out [N, C, T, H, W]: windows drawn one by one say the same.
    draw = data.sr_window(np.random.default_rng([3, 0, 2, 1]), 4, 2, flip=True)
    assert np.array_equal(found[2][1][1].permute(1, 2, 3, 0).numpy(), draw[1])


def test_errors_reach_the_caller(root: Path) -> None:
    with (
        lr_batches(ClipDataset(root), batch=2, frames=21, seed=0, flip=False) as batches,
        pytest.raises(DataError, match="no clip"),
    ):
        batches.get(0)


def test_golden_crop_resize(golden: Any) -> None:
    tensors = golden("crop_resize").tensors
    cases = [name.split("/")[0] for name in tensors if name.startswith("crop") and name.endswith("/in")]
    assert len(cases) == 8
    for case in cases:
        expected = tensors[f"{case}/out"].numpy()
        found = crop_resize(tensors[f"{case}/in"].numpy(), Size(*expected.shape[:2]))
        assert np.array_equal(found, expected), case
