"""Mean and spread over three seeds of the runs of ablations.sh, as measure.py measures one run (clips of 32 frames)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from measure import MEASURES, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--held", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.names:
        runs = [f"{name}-{seed}" for seed in range(options.seeds)]
        found = [
            measure(Path("runs", run), options.held, options.output / run, options.frames, "16x16") for run in runs
        ]
        results[name] = {key: [one[key] for one in found] for key in MEASURES}
        print(name, *(f"{k} {mean(v):.3f} ± {stdev(v):.3f}" for k, v in results[name].items()), sep=", ", flush=True)
    (options.output / "ablations.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
