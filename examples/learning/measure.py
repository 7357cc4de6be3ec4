"""Measure checkpoints of a low-resolution run against held-out footage, as a function of step.

    python measure.py runs/world data held --untrained UNTRAINED.pt --steps 1000 2000 -o results

runs `lvgan eval color-sim`, `fvd` (with features.py, pixel statistics) and `horizon` for each checkpoint, the training
footage (real against real: the floor) among them, and writes results/results.json and results/learning.png. What has
been measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvgan import checkpoint as ckpt
from lvgan.errors import CheckpointError, ConfigError, LvganError

HERE = Path(__file__).parent
MEASURES = {"color-sim": "area of colour similarity", "fvd": "Fréchet distance of pixel statistics",
            "motion": "motion (octaves from footage)", "repetition": "moments that repeat (share)"}  # fmt: skip


def existing(text: str) -> Path:
    """An argument that has to be there already."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return Path(text)


def count(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def run(main: Callable[[], None]) -> None:
    """`main`, with one sentence and exit code 2 for what the caller can mend, as `lvgan` does."""
    try:
        main()
    except LvganError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"{error.strerror} ({error.filename}); free some space or choose another folder", file=sys.stderr)
        sys.exit(2)


def evaluate(measure: str, *arguments: object) -> None:
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "lvgan", "eval", measure, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise LvganError(done.stderr.splitlines()[-1])


def measure(what: Path, held: Path, folder: Path, frames: int, long: int, size: str) -> dict[str, float]:
    """The figures of one operand against held-out footage, in frames of `size`; colours over `long` frames.

    Raises:
        ConfigError: `folder` holds the figures of something else.
    """
    pair = (f"held={held}", f"x={what}")
    note, asked = folder / "asked.json", [*pair, frames, long, size]
    if note.exists() and json.loads(note.read_text("utf-8")) != asked:
        raise ConfigError(
            f"{folder} holds the figures of another network, footage, length or size; choose another folder"
        )
    wanted = {
        "color-sim": ("--frames", long, "--clips", 256),
        "fvd": ("--frames", frames, "--clips", 512, "--detector", "features:pixel_statistics", "--workers", 1),
        "horizon": ("--frames", 1024, "--dense", 1024, "--videos", 8, "--min-lag", max(16, min(32, long // 3))),
    }
    for name, options in wanted.items():
        if not (folder / f"{name}.json").exists():
            evaluate(name, *pair, *options, "--size", size, "-o", folder)
            note.write_text(json.dumps(asked), encoding="utf-8")
    scores = [s for name in wanted for s in json.loads((folder / f"{name}.json").read_text("utf-8"))["scores"]]

    def value(metric: str) -> float:
        """Of `what`, which comes after the footage."""
        return next(float(s["value"]) for s in reversed(scores) if s["metric"] == metric)

    # Not self-repetition-gap: it compares only as many frames as footage has, and a longer loop would pass.
    return {"color-sim": value("color similarity area"), "fvd": value(f"fvd_{frames}"),
            "motion": value("motion-gap"), "repetition": value("self-repetition")}  # fmt: skip


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MEASURES), figsize=(4 * len(MEASURES), 3.2), layout="constrained")
    steps = sorted(map(int, results["steps"]))
    for axis, (key, title) in zip(axes, MEASURES.items(), strict=True):
        axis.plot(steps, [results["steps"][str(step)][key] for step in steps], "o-", color="#1b6ca8", markersize=4)
        axis.axhline(results["floor"][key], color="#888888", linestyle="--", label="footage against footage")
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.2)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def closed(results: dict[str, Any], key: str, step: int) -> float:
    """How much of the gap between the untrained network and footage is closed."""
    floor, start = results["floor"][key], results["steps"]["0"][key]
    return (start - float(results["steps"][str(step)][key])) / (start - floor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=existing, help="a run, or one checkpoint without --steps")
    parser.add_argument("data", type=existing)
    parser.add_argument("held", type=existing)
    parser.add_argument("--untrained", type=existing, required=True, help="the checkpoint of step 0")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--frames", type=count, default=32)
    parser.add_argument("--long", type=count, default=128, help="frames over which colours are compared")
    parser.add_argument("--size", default="32x32")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    out = options.output

    def measured(what: Path, name: str) -> dict[str, float]:
        return measure(what, options.held, out / name, options.frames, options.long, options.size)

    if options.steps:
        checkpoints = {step: options.run / "checkpoints" / f"lr-step-{step:06d}.pt" for step in options.steps}
        for step, checkpoint in checkpoints.items():
            if not checkpoint.exists():
                raise CheckpointError(f"{options.run} has no checkpoint of step {step}; name steps that it has")
    else:
        checkpoints = {ckpt.load(options.run, "lr")["step"]: options.run}
    ckpt.load(options.untrained, "lr")  # now, not after minutes
    results: dict[str, Any] = {"floor": measured(options.data, "floor"), "steps": {}}
    for step, checkpoint in {0: options.untrained, **checkpoints}.items():
        found = measured(checkpoint, f"step-{step:06d}")
        results["steps"][str(step)] = found
        gaps = ", ".join(f"{key} {closed(results, key, step):.0%}" for key in ("color-sim", "fvd"))
        print(step, {key: round(value, 4) for key, value in found.items()}, "gap closed:", gaps, flush=True)
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        plot(results, out / "learning.png")


if __name__ == "__main__":
    run(main)
