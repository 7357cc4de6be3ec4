"""Any frame of an endless video: ``python endless.py runs/lr-0001 [runs/sr-0001]``.

Writes ``strip.png``: one row of frames a second apart, one row a minute apart, one row an hour apart.
"""

import sys
from pathlib import Path

import torch

from lvgan.device import pick_device
from lvgan.generate.generators import load_generators
from lvgan.generate.output import write_picture

FPS = 30


def main() -> None:
    lr, sr = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    video = load_generators(lr, sr, pick_device("auto")).video(seed=0)
    rows = []
    for step in (FPS, 60 * FPS, 3600 * FPS):
        # clip(start, count) costs the same anywhere: nothing before `start` is computed.
        frames = [video.clip(step * k, 1)[:, 0] for k in range(8)]
        rows.append(torch.cat(frames, dim=2))
    write_picture(torch.cat(rows, dim=1), Path("strip.png"))
    print("wrote strip.png")


if __name__ == "__main__":
    main()
