"""Mean and spread over three seeds of the runs of ablations.sh, as measure.py measures one run (clips of 32 frames)."""

from __future__ import annotations

import argparse
import json
from itertools import chain
from pathlib import Path
from statistics import mean, stdev

from measure import MEASURES, count, existing, measure, run

from lvgan import checkpoint as ckpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--frames", type=count, default=32)
    parser.add_argument("--held", type=existing, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("a spread needs 2 seeds or more")
    runs = {name: [Path("runs", f"{name}-{seed}") for seed in range(options.seeds)] for name in options.names}
    for path in chain.from_iterable(runs.values()):
        ckpt.load(ckpt.find(path, "lr"), "lr")  # now, not after minutes
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.names:
        long = 4 * options.frames
        found = [measure(p, options.held, options.output / p.name, options.frames, long, "16x16") for p in runs[name]]
        results[name] = {key: [one[key] for one in found] for key in MEASURES}
        print(name, *(f"{k} {mean(v):.3f} ± {stdev(v):.3f}" for k, v in results[name].items()), sep=", ", flush=True)
    (options.output / "ablations.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
