"""Low-resolution frames of prepared footage, enlarged bicubically: what super-resolution has to beat.

    python bicubic.py held 128x128 -o bicubic/

writes one ``.npy`` (uint8 [T, H, W, 3]) a clip, a folder that `lvgan eval` takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from lvgan.data.dataset import ClipDataset
from lvgan.sizes import Size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("size", type=Size.parse)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    dataset = ClipDataset(options.data)
    for number, clip in enumerate(dataset.clips):
        frames = dataset.read(clip.name, 0, clip.frames, "lr")  # [T, h, w, 3]
        size = (options.size.width, options.size.height)
        large = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]
        np.save(options.output / f"{number:03d}.npy", np.stack(large))


if __name__ == "__main__":
    main()
