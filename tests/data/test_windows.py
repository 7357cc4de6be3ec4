"""Training windows: which frames, how often, and that nothing but (seed, rank, step) decides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lvgan.data.dataset import ClipDataset
from lvgan.data.shards import ShardFolder
from lvgan.data.windows import Batches, StepSampler, Windows, draw_batch, window_span
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size
from tests.data.sets import HIGH, LOW, identify, make_set

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set"))


def pictures(clip: torch.Tensor) -> np.ndarray:
    return clip.permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("mode", ["off", "memory"])
def test_every_window_is_counted_once(root: Path, mode: str) -> None:
    data = ClipDataset(root)
    data.open_cache(mode)
    for stride in (1, 2):
        windows = Windows(data, 5, stride=stride, flip=True)
        span = (5 - 1) * stride + 1
        assert window_span(5, stride=stride) == span
        assert len(windows) == 2 * ((10 - span + 1) + (20 - span + 1))
        expected = [
            (clip, list(range(start, start + span, stride)), mirrored)
            for clip, length in ((0, 10), (1, 20))
            for start in range(length - span + 1)
            for mirrored in (False, True)
        ]
        assert [identify(pictures(windows[i][0])) for i in range(len(windows))] == expected
        assert windows[0][0].shape == (3, 5, *LOW)
        assert windows[-1][0].is_contiguous()
        for wrong in (len(windows), -len(windows) - 1):
            with pytest.raises(IndexError):
                windows[wrong]
    assert len(Windows(data, 3)) == 8 + 18 + 1
    with pytest.raises(DataError, match=r"no clip .* has 21 frames, the longest has 20"):
        Windows(data, 11, stride=2)


@pytest.mark.parametrize(("mode", "stride"), [("off", 1), ("memory", 1), ("off", 2), ("memory", 2)])
def test_pairs_show_the_same_moments(root: Path, monkeypatch: pytest.MonkeyPatch, mode: str, stride: int) -> None:
    data = ClipDataset(root)
    data.open_cache(mode)
    decoded: list[Size] = []
    original = ShardFolder._decode
    monkeypatch.setattr(
        ShardFolder,
        "_decode",
        lambda self, *a: decoded.append(self.size) or original(self, *a),  # type: ignore[func-returns-value]
    )
    windows = Windows(data, 4, 2, stride=stride, flip=True)
    rng = np.random.default_rng(1)
    for _ in range(20):
        low, high = windows[windows.draw(rng)]
        assert low.shape == (3, 8, *LOW)
        assert high.shape == (3, 4, *HIGH)
        (clip, numbers, mirror), (clip2, numbers2, mirror2) = identify(pictures(low)), identify(pictures(high))
        assert (clip, numbers[2:-2], mirror) == (clip2, numbers2, mirror2)
        assert numbers == list(range(numbers[0], numbers[0] + 8 * stride, stride))
    assert decoded.count(HIGH) == 20 * 4  # what is used, no more
    assert decoded.count(LOW) == (20 * 8 if mode == "off" else 0)


def test_weights(root: Path) -> None:
    windows = Windows(ClipDataset(root, min_frames=8), 8, flip=True)
    rng = np.random.default_rng(0)
    for sampling, share in (("video", 1 / 2), ("frame", 3 / 16)):  # 3 starts in the short clip, 13 in the long one
        drawn = [windows.place(windows.draw(rng, sampling)) for _ in range(1600)]
        starts = {clip: [s for c, s, _ in drawn if c == clip] for clip in ("a", "b/c")}
        assert set(starts["a"]) == set(range(3))
        assert set(starts["b/c"]) == set(range(13))
        sigma = (share * (1 - share) / 1600) ** 0.5
        assert abs(len(starts["a"]) / 1600 - share) < 4 * sigma
        assert abs(sum(mirrored for *_, mirrored in drawn) / 1600 - 0.5) < 4 * 0.0125
    still = Windows(ClipDataset(root), 8)
    assert not any(still.place(still.draw(rng, "frame"))[2] for _ in range(50))


def test_batches_are_a_function_of_the_step(root: Path) -> None:
    windows = Windows(ClipDataset(root, min_frames=8), 4, 2, flip=True)

    def batches(seed: int = 3, rank: int = 0) -> Batches:
        return Batches(windows, 4, seed=seed, rank=rank)

    with batches() as a, batches() as b, batches(seed=4) as other, batches(rank=1) as rank:
        found = {step: a.get(step) for step in (0, 1, 2, 3)}
        for step in (2, 0, 3, 1, 1):
            for x, y in zip(found[step], b.get(step), strict=True):
                assert torch.equal(x, y)
        assert found[0][0].shape == (4, 3, 8, *LOW)
        assert found[0][1].shape == (4, 3, 4, *HIGH)
        assert found[0][0].dtype == torch.uint8
        assert not torch.equal(found[0][0], found[1][0])
        assert not torch.equal(found[0][0], other.get(0)[0])
        assert not torch.equal(found[0][0], rank.get(0)[0])
        assert torch.equal(a.first(6)[0][:4], found[0][0])
    for i, index in enumerate(draw_batch(windows, 4, 2, seed=3)):
        assert torch.equal(found[2][1][i], windows[index][1])


def test_nothing_is_read_before_a_step_that_is_resumed(root: Path) -> None:
    class Watched(Windows):
        seen: list[int]

        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            self.seen.append(index)
            return super().__getitem__(index)

    windows = Watched(ClipDataset(root), 4)
    windows.seen = []
    with Batches(windows, 3, seed=1, ahead=0, threads=1) as batches:
        batches.get(100_000)
    assert windows.seen == draw_batch(windows, 3, 100_000, seed=1)


def test_sampler_resumes(root: Path) -> None:
    windows = Windows(ClipDataset(root), 4, flip=True)
    whole = list(StepSampler(windows, 5, seed=2, steps=8))
    assert list(StepSampler(windows, 5, seed=2, start=6, steps=2)) == whole[6:]
    assert whole == [draw_batch(windows, 5, step, seed=2) for step in range(8)]
    endless = iter(StepSampler(windows, 5, seed=2))
    assert [next(endless) for _ in range(8)] == whole
    with pytest.raises(ConfigError, match="sampling is 'clip'"):
        StepSampler(windows, 5, sampling="clip")


def test_no_two_ranks_steps_or_places_draw_alike(root: Path) -> None:
    data = ClipDataset(root)
    many = Windows(data, 2, flip=True)
    drawn = {
        (rank, step): tuple(draw_batch(many, 16, step, seed=7, rank=rank)) for rank in range(8) for step in range(8)
    }
    assert len(set(drawn.values())) == 64
    # Places in a batch are independent: over all batches, two of them agree as often as two random draws do.
    table = np.array(list(drawn.values()))
    agree = np.mean([np.mean(table[:, i] == table[:, j]) for i in range(16) for j in range(i)])
    alone = np.bincount(table.ravel(), minlength=len(many)) / table.size
    assert agree == pytest.approx((alone**2).sum(), rel=0.25)


def test_workers_give_what_one_process_gives(root: Path) -> None:
    """Two spawned workers: the same batches as without, so that none repeats another's randomness."""
    data = ClipDataset(root)
    data.open_cache()
    windows = Windows(data, 4, 2, flip=True)

    def load(workers: int, rank: int = 0) -> list[list[torch.Tensor]]:
        sampler = StepSampler(windows, 3, seed=5, rank=rank, start=10, steps=4)
        context = {"multiprocessing_context": "spawn"} if workers else {}
        return list(DataLoader(windows, batch_sampler=sampler, num_workers=workers, **context))  # type: ignore[arg-type]

    alone, shared, other = load(0), load(2), load(0, rank=1)
    assert len(alone) == len(shared) == 4
    for x, y, z in zip(alone, shared, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
        assert not torch.equal(x[0], z[0])
    assert len({batch[1].numpy().tobytes() for batch in shared}) == 4


def test_errors_reach_the_caller(root: Path, tmp_path: Path) -> None:
    make_set(tmp_path, (LOW,))
    data = ClipDataset(tmp_path)
    (shard,) = {clip.shard for clip in data._folders["lr"].clips.values() if clip.name == "d"}
    shard.write_bytes(shard.read_bytes()[:100])
    with Batches(Windows(data, 3), 40) as batches, pytest.raises(DataError, match="is damaged"):
        batches.get(0)
    with pytest.raises(DataError, match="holds 4x6 only"):
        Windows(data, 1, 0)


def test_the_example(root: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "dataset.py"), str(root), "4"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert said.count("clips [8, 3, 4, 4, 6]") == 3
    assert "25 windows" not in said
    assert f"{len(Windows(ClipDataset(root), 4, flip=True))} windows" in said
