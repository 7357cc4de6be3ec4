"""One network that is the mean of the averaged generators of several checkpoints, with other filters if asked for.

    python average.py runs/world --first 1500 -o mean.pt --footprints 250 350

writes a checkpoint that `lvgan sample` and `lvgan eval` take.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from measure import existing, run

from lvgan import checkpoint as ckpt
from lvgan.errors import CheckpointError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=existing)
    parser.add_argument("--first", type=int, required=True, help="the mean is of the checkpoints from this step on")
    parser.add_argument("--footprints", type=float, nargs=2, help="of the shortest and longest filter, in frames")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.footprints and not 1 <= options.footprints[0] <= options.footprints[1]:
        parser.error(f"footprints {options.footprints} are not two numbers of frames, 1 or more, the shorter first")
    if not options.run.is_dir():
        parser.error(f"{options.run} is a file; name the run that it is of")
    paths = sorted((options.run / "checkpoints").glob("lr-step-*.pt"))
    checkpoints = [ckpt.load(path, "lr") for path in paths if (ckpt.step_of(path) or 0) >= options.first]
    if not checkpoints:
        raise CheckpointError(f"{options.run} has no low-resolution checkpoints from step {options.first} on")
    mean = checkpoints[-1]
    for name, tensor in mean["generator_ema"].items():
        if tensor.is_floating_point():
            mean["generator_ema"][name] = sum(c["generator_ema"][name] for c in checkpoints) / len(checkpoints)
    if options.footprints:
        generator = mean["config"]["model"]["generator"]
        generator["footprint_min"], generator["footprint_max"] = options.footprints
    ckpt.save(options.output, mean)
    print(f"{options.output}: the mean of {len(checkpoints)} checkpoints")


if __name__ == "__main__":
    run(main)
