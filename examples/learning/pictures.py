"""Pictures of what was learnt.

    python pictures.py runs/world held --checkpoints A.pt B.pt -o results
    python pictures.py runs/world held --checkpoints A.pt B.pt --sr runs/close --sr-held sr-held -o results

writes steps.png (eight frames of one clip: footage, then each checkpoint), long.png (one video, with both networks if
there are two, a frame every five seconds for two minutes, row by row) and, with --sr, sr.png (held-out footage: low
resolution, bicubic, super-resolution, truth).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from enlarge import bicubic
from measure import count, existing, run
from PIL import Image

import lvgan
from lvgan.data.dataset import ClipDataset
from lvgan.generate.generators import load_sr, upscale
from lvgan.pixels import to_bytes


def row(frames: list[np.ndarray] | np.ndarray, height: int = 96) -> np.ndarray:
    """Frames [H, W, 3] side by side, at `height` without smoothing."""
    size = (height * frames[0].shape[1] // frames[0].shape[0], height)
    resized = [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]
    return np.concatenate([np.asarray(frame) for frame in resized], axis=1)


def steps(options: argparse.Namespace, dataset: ClipDataset) -> list[np.ndarray]:
    clip = dataset.clips[min(3, len(dataset.clips) - 1)]
    frames = 8 * options.every
    rows = [row(dataset.read(clip.name, 0, frames, "lr")[:: options.every])]
    for checkpoint in options.checkpoints:
        rows.append(row(lvgan.load(checkpoint, seed=options.seed)[0 : frames : options.every]))
    return rows


def long(video: lvgan.Video, height: int) -> list[np.ndarray]:
    times = [int(5 * video.fps * i) for i in range(24)]
    return [row([video[t] for t in times[start : start + 8]], height) for start in (0, 8, 16)]


def comparison(options: argparse.Namespace, dataset: ClipDataset) -> list[np.ndarray]:
    generator, _ = load_sr(options.sr, torch.device("cpu"))
    columns = []
    for clip in dataset.clips[::4]:
        low = dataset.read(clip.name, 40, 9, "lr")
        made = list(upscale(iter(torch.from_numpy(low).permute(0, 3, 1, 2)), generator))[4]
        truth = dataset.read(clip.name, 44, 1, "hr")[0]
        enlarged = bicubic(low[4:5], truth.shape[0] // low.shape[1])[0]
        columns.append([low[4], enlarged, to_bytes(made).permute(1, 2, 0).numpy(), truth])
    return [row(list(frames), height=160) for frames in zip(*columns, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lr", type=existing)
    parser.add_argument("held", type=existing, help="held-out footage for the low resolution")
    parser.add_argument("--sr", type=existing)
    parser.add_argument("--sr-held", type=existing, help="held-out footage at the sizes of the super-resolution")
    parser.add_argument("--checkpoints", type=existing, nargs="+", required=True, help="the low resolution's, in order")
    parser.add_argument("--every", type=count, default=16, help="frames between the eight of a clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if (options.sr is None) != (options.sr_held is None):
        parser.error("--sr and --sr-held go together")
    pictures = {
        "long.png": long(lvgan.load(options.lr, options.sr, seed=options.seed), 96 if options.sr is None else 128),
        "steps.png": steps(options, ClipDataset(options.held)),
    }
    if options.sr is not None:
        pictures["sr.png"] = comparison(options, ClipDataset(options.sr_held))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, rows in pictures.items():
        Image.fromarray(np.concatenate(rows)).save(options.output / name, optimize=True)


if __name__ == "__main__":
    run(main)
