"""Measure a super-resolution run against bicubic enlargement and against the untrained network.

    python measure_sr.py runs/close runs/world held --untrained runs/sr-0/checkpoints/sr-step-000000.pt -o results-sr

enlarges the held-out footage's low resolution, and videos of the low-resolution run, by each method, and compares
them with the held-out footage's high resolution: Fréchet distance of pixel statistics (features.py), and sharpness,
the energy of the two finest octaves of detail, which low resolution does not hold, in octaves from the footage's
(0 is right).
Writes sr.json; what has been enlarged is not enlarged again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import evaluate, existing, run
from PIL import Image

from lvgan.data.dataset import ClipDataset
from lvgan.data.shards import find_resolutions
from lvgan.errors import DataError
from lvgan.generate.generators import load_generators
from lvgan.sizes import Size

HERE = Path(__file__).parent


def octaves(frames: np.ndarray) -> np.ndarray:
    """Energies of luma in the finest octave of detail and the next: uint8 [T, H, W, 3] to [2], means over frames.

    An octave is a ring of the spectrum, 1/2 to 1 and 1/4 to 1/2 of the highest frequency of a row or column.
    """
    height, width = frames.shape[1:3]
    luma = frames / 255 @ (0.299, 0.587, 0.114)
    window = np.hanning(height)[:, None] * np.hanning(width)  # no edge where the picture ends
    power = np.abs(np.fft.fft2((luma - luma.mean((1, 2), keepdims=True)) * window)).mean(0) ** 2
    radius = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return np.array([power[(radius > low) & (radius <= 2 * low)].sum() for low in (0.5, 0.25)])


def videos(folder: Path) -> Iterator[np.ndarray]:
    """Every tenth frame of each video of a folder that enlarge.py wrote, or of prepared footage in high resolution."""
    if find_resolutions(folder):
        dataset = ClipDataset(folder)
        yield from (dataset.read(clip.name, 0, clip.frames, "hr")[::10] for clip in dataset.clips)
    else:
        for video in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield np.stack([np.asarray(Image.open(path)) for path in sorted(video.iterdir())[::10]])


def sharpness(folder: Path, reference: np.ndarray | None = None) -> np.ndarray:
    energy = np.mean([octaves(frames) for frames in videos(folder)], axis=0)
    return energy if reference is None else np.log2(energy / reference)


def distance(made: Path, held: Path, folder: Path, size: str) -> float:
    """Fréchet distance of 512 clips of 8 frames."""
    if not (folder / "fvd.json").exists():
        options = ("--frames", 8, "--clips", 512, "--detector", "features:pixel_statistics", "--workers", 1)
        evaluate("fvd", f"held={held}", f"x={made}", *options, "--size", size, "-o", folder)
    scores = json.loads((folder / "fvd.json").read_text("utf-8"))["scores"]
    return next(float(score["value"]) for score in reversed(scores) if score["metric"].startswith("fvd"))


def check(options: argparse.Namespace) -> None:
    """Refuse now what would not fit after minutes.

    Raises:
        LvganError: footage or a network of another size or kind.
    """
    for folder in (options.held, options.data):
        dataset = ClipDataset(folder)
        if dataset.hr != Size.parse(options.size):
            raise DataError(f"{folder} is of {dataset.hr or dataset.lr}, but --size is {options.size}; name one size")
    for path in (options.sr, options.untrained):
        load_generators(options.lr, path, torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sr", type=existing)
    parser.add_argument("lr", type=existing)
    parser.add_argument("held", type=existing)
    parser.add_argument("--data", type=existing, required=True, help="the footage that was trained on: the floor")
    parser.add_argument("--untrained", type=existing, required=True, help="the super-resolution checkpoint of step 0")
    parser.add_argument("--size", default="128x128")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    check(options)
    reference = sharpness(options.held)

    def measured(name: str, made: Path) -> dict[str, float]:
        fine, coarse = sharpness(made, reference).tolist()
        score = distance(made, options.held, options.output / name, options.size)
        print(f"{name}: distance {score:.3f}, sharpness {fine:+.2f} and {coarse:+.2f} octaves", flush=True)
        return {"fvd": score, "fine": fine, "coarse": coarse}

    results = {"footage": measured("footage", options.data)}
    methods = {"bicubic": "bicubic", "untrained": options.untrained, "trained": options.sr}
    for kind, source in (("real", options.held), ("generated", options.lr)):
        for method, network in methods.items():
            name = f"{kind}-{method}"
            made = options.output / "videos" / name
            if not made.is_dir():
                partial = made.with_name(f"{name}.partial")
                enlarge = (sys.executable, HERE / "enlarge.py", source, str(network), "-o", partial)
                if subprocess.run(enlarge).returncode:  # it has said why
                    sys.exit(2)
                partial.rename(made)
            results[name] = measured(name, made)
    (options.output / "sr.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
