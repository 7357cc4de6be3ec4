"""Stream endless video from two exported networks with NumPy and ONNX Runtime: no lvgan, no PyTorch.

    lvgan export runs/lr-0001 --format onnx -o lr.onnx
    lvgan export runs/sr-0001 --format onnx -o sr.onnx
    python run_onnx.py lr.onnx sr.onnx v.mp4 --frames 600

A folder instead of v.mp4 gets PNG pictures (Pillow; the video is written by imageio-ffmpeg). The world of a seed is
the one that `lvgan sample --seed` shows: the noise of a frame depends on the seed and its number alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnxruntime

LATENT = 0x5352  # keeps the super-resolution latent apart from the frames' noise


def noise(seed: int, start: int, count: int, channels: int) -> np.ndarray:
    """N(0, 1) numbers of `count` frames from `start` on, float32 [channels, count]: Philox, keyed and counted."""
    inverse = NormalDist().inv_cdf
    values = np.empty((channels, count), np.float32)
    for first in range(0, channels, 4):
        generator = np.random.Philox(key=seed + (first // 4 << 64), counter=start + 2**63)
        uniform = ((generator.random_raw(4 * count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        lanes = np.array([inverse(u) for u in uniform]).reshape(count, 4).T
        values[first : first + 4] = lanes[: channels - first]
    return values


class Network:
    """An exported network, and what its file says of itself."""

    def __init__(self, path: Path, stage: str) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.facts = json.loads(self.session.get_modelmeta().custom_metadata_map["lvgan"])
        if self.facts["stage"] != stage or self.facts["batch"] != 1:
            raise SystemExit(f"{path}: expected an export of the {stage} network with --batch 1")
        self.frames = self.facts["frames"]

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """The video of one clip, float32 [channels, frames, H, W]."""
        return self.session.run(["video"], inputs)[0][0]


class LowResolution:
    """Frames of low resolution by number. Segments are made at fixed places, and the last two are kept."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.seed = network, seed
        self.segments: dict[int, np.ndarray] = {}

    def segment(self, index: int) -> np.ndarray:
        if index not in self.segments:
            facts = self.network.facts
            first = index * self.network.frames - facts["noise_before"]
            _, channels, count = facts["inputs"][0]["shape"]
            made = self.network(noise=noise(self.seed, first, count, channels)[None])
            self.segments = dict([*self.segments.items(), (index, made)][-2:])
        return self.segments[index]

    def clip(self, start: int, count: int) -> np.ndarray:
        """[channels, count, h, w]"""
        places = (divmod(t, self.network.frames) for t in range(start, start + count))
        return np.stack([self.segment(index)[:, offset] for index, offset in places], 1)


def video(low: LowResolution, high: Network, seed: int, start: int) -> Iterator[np.ndarray]:
    """Pictures uint8 [H, W, channels], without end."""
    context, latent = high.facts["context"], high.facts["inputs"][0]["shape"][1]
    z = noise(seed ^ LATENT, 0, 1, latent).T
    while True:
        clip = high(z=z, frames=low.clip(start - context, high.frames + 2 * context)[None])
        yield from np.clip(np.floor(clip * 127.5 + 128), 0, 255).astype(np.uint8).transpose(1, 2, 3, 0)
        start += high.frames


def write(pictures: Iterator[np.ndarray], count: int, output: Path, fps: float) -> None:
    """An .mp4 file, or a folder of PNGs."""
    first = next(pictures)
    shown = itertools.chain([first], itertools.islice(pictures, count - 1))
    if output.suffix == ".mp4":
        import imageio_ffmpeg

        writer = imageio_ffmpeg.write_frames(str(output), first.shape[1::-1], fps=fps, macro_block_size=1)
        writer.send(None)
        for picture in shown:
            writer.send(np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3))))
        writer.close()
        return
    from PIL import Image

    output.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(shown):
        Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3))).save(output / f"frame_{number:06d}.png")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lr", type=Path)
    parser.add_argument("sr", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    low, high = Network(asked.lr, "lr"), Network(asked.sr, "sr")
    pictures = video(LowResolution(low, asked.seed), high, asked.seed, asked.start)
    write(pictures, asked.frames, asked.output, low.facts["fps"])


if __name__ == "__main__":
    main()
