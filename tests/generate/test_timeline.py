"""Endless video: frames by index do not depend on what was asked for, and finite video is upscaled whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lvgan.errors import ConfigError
from lvgan.generate.generators import to_channels, upscale
from lvgan.generate.grid import filmstrip, grid, grid_rows
from lvgan.generate.timeline import HeldEnds, LrVideo, SrVideo, check_range, iterate
from lvgan.models.sr_generator import SrGenerator


@pytest.fixture(scope="module")
def sr_generator() -> SrGenerator:
    torch.manual_seed(0)
    network = SrGenerator(16, 24, 8, 12, context=1, z_dim=8, w_dim=8, channel_base=32, channel_max=8, layers=6)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("start", [0, -7, 10**12, -(2**60)])
def test_a_frame_does_not_depend_on_what_was_asked_for(lr_generator, sr_generator, start: int) -> None:
    for make in (
        lambda: LrVideo(lr_generator, 3, segment=16),
        lambda: SrVideo(LrVideo(lr_generator, 3, segment=16), sr_generator, 3, block=4),
    ):
        whole = make().clip(start, 41)
        assert whole.std() > 0
        assert torch.equal(make().clip(start + 20, 13), whole[:, 20:33])
        video, order = make(), np.random.default_rng(0).permutation(41)
        for t in order[:12].tolist():
            assert torch.equal(video.clip(start + t, 1)[:, 0], whole[:, t])
        assert torch.equal(torch.stack(list(iterate(make(), start, 41)), 1), whole)


def test_segments_meet_without_a_seam(lr_generator) -> None:
    # One computation of twice the length has the same frames, to float tolerance.
    short, long = (
        LrVideo(lr_generator, 1, segment=32).clip(0, 64),
        LrVideo(lr_generator, 1, segment=64).clip(0, 64),
    )
    torch.testing.assert_close(short, long, rtol=0, atol=2e-5 * long.abs().max().item())


def test_strides_compute_no_more_segments_than_needed(lr_generator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LrVideo(lr_generator, 3, segment=16).clip(-5, 200)
    video, computed = LrVideo(lr_generator, 3, segment=16), []
    compute = video._pieces._compute
    video._pieces._compute = lambda index: computed.append(index) or compute(index)
    strided = torch.stack(list(iterate(video, -5, 5, 40)), 1)
    assert torch.equal(strided, whole[:, ::40])
    assert computed == [-1, 2, 4, 7, 9]  # of frames -5, 35, 75, 115, 155


def test_what_was_made_is_kept_within_the_memory_allowed(lr_generator) -> None:
    computed: list[int] = []
    one = 3 * 16 * 8 * 12 * 4  # bytes of a segment
    for memory, again in ((4 * one, []), (2 * one, [1, 0])):
        video = LrVideo(lr_generator, 3, segment=16, memory=memory)
        compute = video._pieces._compute
        video._pieces._compute = lambda index, compute=compute: computed.append(index) or compute(index)
        video.clip(0, 64)
        computed.clear()
        for t in (40, 20, 0, 63):  # back and forth
            video.clip(t, 1)
        assert computed[: len(again)] == again
        assert len(video._pieces._kept) * one <= memory
        assert (computed == []) == (again == [])


def test_endless_iteration_and_its_limits(lr_generator) -> None:
    frames = list(itertools.islice(iterate(LrVideo(lr_generator, 3), 7, None, 3), 4))
    assert torch.equal(torch.stack(frames, 1), LrVideo(lr_generator, 3).clip(7, 10)[:, ::3])
    check_range(-(2**62), 1)
    check_range(2**62 - 1, 1)
    for edge in (-(2**62), 2**62 - 1):
        assert LrVideo(lr_generator, 3).clip(edge, 1).isfinite().all()
    for start, count, stride in ((-(2**62) - 1, 1, 1), (2**62, 1, 1), (0, 3, 2**61), (0, 1, 0)):
        with pytest.raises(ConfigError):
            check_range(start, count, stride)


def test_seeds_differ(lr_generator, sr_generator) -> None:
    low = LrVideo(lr_generator, 1)
    assert not torch.equal(low.clip(0, 4), LrVideo(lr_generator, 2).clip(0, 4))
    assert not torch.equal(SrVideo(low, sr_generator, 1).clip(0, 1), SrVideo(low, sr_generator, 2).clip(0, 1))


def test_super_resolution_of_a_frame_sees_its_neighbours_only(lr_generator, sr_generator) -> None:
    low = LrVideo(lr_generator, 1, segment=16)
    w = sr_generator.mapping(torch.zeros(1, 8))
    alone = sr_generator.synthesis(w, low.clip(4, 3)[None])[0, :, 0]
    together = sr_generator.synthesis(w, low.clip(3, 6)[None])[0, :, 1]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_upscaling_a_finite_video_holds_its_ends(sr_generator) -> None:
    frames = torch.randint(0, 256, (11, 3, 8, 12), dtype=torch.uint8)
    made = torch.stack(list(upscale(iter(frames), sr_generator, seed=5)), 1)
    assert made.shape == (3, 11, 16, 24)
    padded = torch.cat([frames[:1], frames, frames[-1:]])
    again = torch.stack(list(upscale(iter(padded), sr_generator, seed=5)), 1)
    torch.testing.assert_close(again[:, 1:-1], made, rtol=0, atol=1e-5)
    assert list(upscale(iter(frames[:0]), sr_generator)) == []


def test_held_ends_keeps_little() -> None:
    held = HeldEnds((torch.full((1, 1, 1), float(t)) for t in range(1000)), keep=16)
    assert held.clip(-2, 4).flatten().tolist() == [0, 0, 0, 1]
    for t in range(0, 1000, 4):
        assert held.has(t)
        held.clip(t - 4, 12)
        assert len(held._window) <= 16
    assert held.clip(997, 6).flatten().tolist() == [997, 998, 999, 999, 999, 999]
    assert not held.has(1000)
    assert held.length == 1000


@pytest.mark.parametrize(("start", "count", "words"), [(0, 0, "at least 1"), (0, -3, "at least 1"), (2**62, 1, "2.62")])
def test_impossible_stretches(lr_generator, start: int, count: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LrVideo(lr_generator, 0).clip(start, count)


def test_impossible_seed(lr_generator) -> None:
    with pytest.raises(ConfigError, match="seed -1"):
        LrVideo(lr_generator, -1)


def test_grey_frames() -> None:
    frame = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    assert to_channels(frame, 1).item() == 76  # Rec. 601 luma of pure red
    assert to_channels(frame, 3) is frame
    with pytest.raises(ConfigError, match="4 channels"):
        to_channels(frame, 4)


def test_grid_rows_golden(golden) -> None:
    for count, rows in golden.json("grid_rows").items():
        assert grid_rows(int(count)) == rows


def test_grid_fills_column_by_column() -> None:
    clips = torch.arange(6.0).reshape(6, 1, 1, 1, 1)
    assert grid(clips)[0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert grid(clips, rows=3)[0, 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    strip = filmstrip(torch.arange(10.0).reshape(1, 1, 10, 1, 1), columns=4)
    assert strip[0].tolist() == [[0, 3, 6, 9]]
