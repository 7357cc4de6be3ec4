"""Any frame of an endless video: ``python endless.py runs/lr-0001 [runs/sr-0001]``.

Writes ``strip.png``: one row of frames a second apart, one row a minute apart, one row an hour apart.
"""

import sys

import numpy as np
from PIL import Image

import lvgan

FPS = 30


def main() -> None:
    video = lvgan.load(*sys.argv[1:3], seed=0)
    # video[t] costs the same anywhere: nothing before it is computed.
    rows = [np.hstack([video[step * k] for k in range(8)]) for step in (FPS, 60 * FPS, 3600 * FPS)]
    Image.fromarray(np.vstack(rows)).save("strip.png")
    print("wrote strip.png")


if __name__ == "__main__":
    main()
