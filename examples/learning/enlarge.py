"""Enlarge low-resolution video: bicubically, which is what super-resolution has to beat, or by a trained network.

    python enlarge.py held bicubic -o out/              # the frames of prepared footage
    python enlarge.py runs/world runs/close -o out/     # 48 videos of a network

writes a folder of PNG frames a video, which `lvgan eval` takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import count, existing, run
from PIL import Image

import lvgan
from lvgan.data.dataset import ClipDataset
from lvgan.data.shards import find_resolutions
from lvgan.generate.generators import load_sr, upscale
from lvgan.ops import native
from lvgan.pixels import to_bytes


def low_resolution(source: Path, videos: int, frames: int) -> Iterator[np.ndarray]:
    """Clips of prepared footage, whole, or the beginnings of endless videos: uint8 [T, h, w, 3]."""
    if source.is_dir() and find_resolutions(source):
        dataset = ClipDataset(source)
        for clip in dataset.clips:
            yield dataset.read(clip.name, 0, clip.frames, "lr")
    else:
        for seed in range(videos):
            yield lvgan.load(source, seed=seed)[0:frames]


def bicubic(frames: np.ndarray, factor: int) -> np.ndarray:
    size = (frames.shape[2] * factor, frames.shape[1] * factor)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=existing, help="prepared footage, or a low-resolution run or checkpoint")
    parser.add_argument("method", help="bicubic, or a super-resolution run or checkpoint")
    parser.add_argument("--factor", type=count, default=4, help="of bicubic enlargement")
    parser.add_argument("--videos", type=count, default=48, help="of a network")
    parser.add_argument("--frames", type=count, default=64, help="of each of them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    generator = None
    if options.method != "bicubic":
        generator, _ = load_sr(Path(options.method), torch.device("cpu"))
        native.activate(torch.device("cpu"), print)
    for number, frames in enumerate(low_resolution(options.source, options.videos, options.frames)):
        if generator is None:
            large = bicubic(frames, options.factor)
        else:
            made = upscale(iter(torch.from_numpy(frames).permute(0, 3, 1, 2)), generator, seed=number)
            large = np.stack([to_bytes(frame).permute(1, 2, 0).numpy() for frame in made])
        folder = options.output / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(large):
            Image.fromarray(frame).save(folder / f"{index:06d}.png")


if __name__ == "__main__":
    run(main)
