"""Noise of the user's own: arrays, functions, cross-fades, loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lvgan.errors import ConfigError
from lvgan.generate.noise_sources import ArrayNoise, CrossFade, Loop, SeedNoise, read
from lvgan.generate.timeline import LrVideo
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.noise import frame_noise


def test_a_cross_fade_goes_from_one_seed_to_the_other_at_constant_power() -> None:
    fade = CrossFade(SeedNoise(1), SeedNoise(2), start=100, frames=200)
    noise = fade(-50, 600, 8)
    one, two = frame_noise(1, -50, 600), frame_noise(2, -50, 600)
    assert torch.equal(noise[:, :150], one[:, :150])
    assert torch.equal(noise[:, 350:], two[:, 350:])
    for t in (101, 200, 299):
        angle = (t - 100) / 200 * math.pi / 2
        expected = math.cos(angle) * one[:, t + 50].double() + math.sin(angle) * two[:, t + 50].double()
        torch.testing.assert_close(noise[:, t + 50].double(), expected, rtol=0, atol=1e-6)
    assert noise[:, 150:350].var().item() == pytest.approx(1, abs=0.1)
    for start in (-50, 99, 170, 349, 400):  # however it is cut
        assert torch.equal(fade(start, 30, 8), noise[:, start + 50 : start + 80])


def test_the_video_follows_the_noise(lr_generator: LrGenerator) -> None:
    fade = CrossFade(SeedNoise(1), SeedNoise(2), start=64, frames=16)
    made = LrVideo(lr_generator, fade, segment=32).clip(-64, 320)
    one, two = (LrVideo(lr_generator, seed, segment=32).clip(-64, 320) for seed in (1, 2))
    assert torch.equal(made[:, :32], one[:, :32])
    assert torch.equal(made[:, -64:], two[:, -64:])
    assert not torch.equal(made, one)
    assert not torch.equal(made, two)


def test_a_loop_repeats_exactly(lr_generator: LrGenerator) -> None:
    made = LrVideo(lr_generator, Loop(SeedNoise(3), 64), segment=32).clip(-64, 192)
    assert torch.equal(made[:, :64], made[:, 64:128])
    assert torch.equal(made[:, :64], made[:, 128:])
    assert not torch.equal(made[:, :32], made[:, 32:64])
    assert torch.equal(Loop(SeedNoise(3), 7)(-3, 10, 2), frame_noise(3, 0, 7, 2)[:, [4, 5, 6, 0, 1, 2, 3, 4, 5, 6]])


def test_an_array_and_a_function(lr_generator: LrGenerator) -> None:
    array = np.random.default_rng(0).normal(size=(2, 100))
    source = ArrayNoise(array, SeedNoise(5), first=-20)
    noise = source(-30, 150, 2)
    assert torch.equal(noise[:, :10], frame_noise(5, -30, 10, 2))
    assert torch.equal(noise[:, 10:110], torch.from_numpy(array).float())
    assert torch.equal(noise[:, 110:], frame_noise(5, 80, 40, 2))

    def wave(start: int, count: int, channels: int) -> np.ndarray:
        t = start + np.arange(count)
        return np.stack([math.sqrt(2) * np.sin(t / (5 + c)) for c in range(channels)])

    whole = LrVideo(lr_generator, wave, segment=32).clip(0, 64)
    assert torch.equal(LrVideo(lr_generator, wave, segment=32).clip(40, 1), whole[:, 40:41])
    assert whole.std(1).mean() > 0


def test_sources_that_will_not_do() -> None:
    with pytest.raises(ConfigError, match=r"shape \[8, 9\] for 10 frames from 5 on, but \[8, 10\]"):
        read(lambda start, count, channels: np.zeros((channels, count - 1)), 5, 10, 8)
    with pytest.raises(ConfigError, match="not finite in frames 0 to 2"):
        read(lambda start, count, channels: np.full((channels, count), np.nan), 0, 3, 8)
    with pytest.raises(ConfigError, match=r"\[4, 10\], but \[8, frames\]"):
        ArrayNoise(np.zeros((4, 10)), SeedNoise(0))(0, 3, 8)
    with pytest.raises(ConfigError, match="over 0 frames"):
        CrossFade(SeedNoise(0), SeedNoise(1), 0, 0)
    with pytest.raises(ConfigError, match="loop of 0"):
        Loop(SeedNoise(0), 0)
