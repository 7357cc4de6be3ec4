"""One world turns into another: ``python crossfade.py runs/lr-0001 [runs/sr-0001]``.

Writes ``crossfade.mp4``: 600 frames. The noise of seed 0 fades into that of seed 1 from frame 200 to 400, and so does
all that is made from it: the video changes its world without a cut.
"""

import sys

import lvgan
from lvgan.generate.noise_sources import CrossFade, SeedNoise


def main() -> None:
    noise = CrossFade(SeedNoise(0), SeedNoise(1), start=200, frames=200)
    video = lvgan.load(*sys.argv[1:3], noise=noise)
    video.save("crossfade.mp4", 600)
    print("wrote crossfade.mp4")


if __name__ == "__main__":
    main()
