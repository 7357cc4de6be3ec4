"""`bench`: what everything is compared with is right, and every row is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from typer.testing import CliRunner

from lvgan.cli import (
    app,
    bench_data,
    bench_ops,
    commands,  # noqa: F401
)
from lvgan.data.dataset import ClipDataset
from lvgan.data.shards import ShardFolder
from lvgan.models.sr_discriminator import SrDiscriminator
from lvgan.models.sr_generator import SrGenerator
from lvgan.ops import bias_act, filtered_lrelu, setup_filter
from lvgan.sizes import Size
from tests.clips import make_video


@pytest.mark.parametrize(("up", "down", "padding"), [(2, 1, (6, 5)), (4, 2, (13, 9)), (1, 2, (-1, 7)), (3, 3, (4, 4))])
def test_straightforward_upfirdn2d(up: int, down: int, padding: tuple[int, int]) -> None:
    rng = np.random.default_rng(up + down)
    x, taps = rng.normal(size=(2, 3, 9, 12)), rng.normal(size=7)
    before, after = padding
    y = x
    for axis in (2, 3):
        full = scipy.signal.upfirdn(taps, y, up=up, axis=axis)  # filters zeros on both sides: 6 before
        zeros = np.zeros_like(np.take(full, [0], axis))
        first, count = 6 - before, (y.shape[axis] * up + before + after - 7) // down + 1
        picks = [first + n * down for n in range(count)]
        size = full.shape[axis]
        y = np.concatenate([np.take(full, [i], axis) if 0 <= i < size else zeros for i in picks], axis)
    got = bench_ops.plain_upfirdn2d(
        torch.from_numpy(x), torch.from_numpy(taps), up=up, down=down, padding=(before, after, before, after)
    )
    assert np.abs(got.numpy() - y).max() <= 1e-12 * np.abs(y).max()


def test_straightforward_activations() -> None:
    x, b = torch.linspace(-2, 2, 2 * 3 * 8 * 9).reshape(2, 3, 8, 9), torch.tensor([-1.0, 0, 1])
    settings = {"activation": "lrelu", "clamp": 1.5}
    assert (bench_ops.plain_bias_act(x, b, **settings) - bias_act(x, b, **settings)).abs().max() <= 1e-6
    taps = setup_filter([1.0, 2, 3, 3, 2, 1], separable=True)
    how = {"up": 2, "down": 2, "padding": (6, 5, 4, 7), "clamp": 1.0}
    y = bench_ops.plain_filtered_lrelu(x, taps, taps, b, **how)
    assert (y - filtered_lrelu(x, taps, taps, b, **how)).abs().max() <= 1e-6


def test_straightforward_networks_are_the_same_networks() -> None:
    torch.manual_seed(0)
    generator = SrGenerator(16, 16, 8, 8, z_dim=4, w_dim=4, layers=4, margin=2, channel_base=64, channel_max=4)
    z, low = torch.randn(1, 4), torch.randn(1, 3, 9, 8, 8)
    y = generator(z, low)
    with bench_ops.straightforward():
        assert (generator(z, low) - y).abs().max() <= 1e-5 * y.abs().max()
    assert torch.equal(generator(z, low), y)


def test_rows() -> None:
    generator = SrGenerator(16, 16, 8, 8, z_dim=4, w_dim=4, layers=4, margin=2, channel_base=64, channel_max=4)
    said: list[str] = []
    rows = bench_ops.layer_rows(generator, "", 1, lambda row: said.append(row["name"]))
    names = [row["name"] for row in rows]
    assert names == said
    assert len(names) == 2 * 4 + 2
    assert names[-2:] == ["filtered_lrelu forward", "filtered_lrelu forward+backward"]
    discriminator = SrDiscriminator(16, 16, 8, 8, frames=1, channel_base=64, channel_max=4)
    rows.append(bench_ops.frame_row(generator, "", 1))
    rows.append(bench_ops.step_row(generator, discriminator, "", 1))
    rows.append(bench_ops.step_row(generator, discriminator, "", 1, rows[-3:-1]))
    assert [row["name"] for row in rows[-3:]] == ["sr frame", "sr step", "sr step"]
    for row in rows:
        assert row["ratio"] == row["plain_seconds"] / row["seconds"] > 0
        assert row["ratio_torch"] == row["torch_seconds"] / row["seconds"] > 0


def test_data_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))
    path, footage = tmp_path / "rows.json", tmp_path / "footage"
    command = ["bench", "data", "--quick", "--workers", "1", "--footage", str(footage), "--json", str(path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == ["prepare", "lr windows", "sr items"]
    for row in rows:
        assert row["ratio"] == row["frames_per_second"] / row["plain_frames_per_second"] > 0
        assert row["name"] in result.output
    assert len(list(footage.iterdir())) == 2  # kept for another time


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pipes that imageio leaves open
def test_the_straightforward_ways_read_and_write_the_same(tmp_path: Path) -> None:
    from lvgan.data.prepare import prepare
    from lvgan.data.windows import Windows

    raw, sizes = tmp_path / "raw", (Size(8, 8), Size(16, 16))
    make_video(raw / "a.mp4", frames=20)
    prepare(raw, tmp_path / "out", lr=sizes[0], hr=sizes[1])
    data = ClipDataset(tmp_path / "out")
    data.open_cache("memory")
    with bench_data._archives(tmp_path / "out" / sizes[0].folder()) as archives:
        windows = Windows(data, 5, flip=True)
        for index in (0, 7, len(windows) - 1):
            clip, start, mirrored = windows.place(index)
            plain = bench_data._plain_clip(archives, clip, range(start, start + 5), mirrored)
            assert np.array_equal(windows[index][0].permute(1, 2, 3, 0).numpy(), plain)
    assert bench_data.plain_prepare(raw / "a.mp4", tmp_path / "0016x0016" / "plain.zip", sizes[1]) == 20
    (stored,) = ShardFolder(tmp_path / "0016x0016", sizes[1]).clips
    plain = ShardFolder(tmp_path / "0016x0016", sizes[1]).read(stored, 0, 20)
    ours = data.read("a", 0, 20, "hr")
    assert np.corrcoef(plain.ravel(), ours.ravel())[0, 1] > 0.995  # other filters and roundings of the same kind
