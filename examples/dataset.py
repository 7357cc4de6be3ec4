"""Prepared or downloaded clips in a training loop of your own: ``python dataset.py out/ [FRAMES]``.

The set is a plain ``torch.utils.data`` dataset: a window is a number, and always the same frames.
"""

import sys
from pathlib import Path

from torch.utils.data import DataLoader

from lvgan.data.dataset import ClipDataset
from lvgan.data.windows import StepSampler, Windows


def main() -> None:
    frames = int(sys.argv[2]) if len(sys.argv) > 2 else 128
    data = ClipDataset(Path(sys.argv[1]), min_frames=frames)
    data.open_cache(progress=True, say=print)  # decodes the small frames once; leave it out to read JPEG
    print(data.kept_message)

    windows = Windows(data, frames, flip=True)  # Windows(data, 4, context=4) gives pairs of both resolutions
    print(f"{len(windows)} windows of {frames} frames; the first is {windows.place(0)}")

    # What a step draws is a function of (seed, rank, step): to resume, give `start` the number of the step.
    sampler = StepSampler(windows, batch=8, seed=0, rank=0, start=0, steps=3)
    for step, (clips,) in enumerate(DataLoader(windows, batch_sampler=sampler, num_workers=2)):
        x = clips.float() / 127.5 - 1  # uint8 [N, C, T, H, W] to [-1, 1]
        print(f"step {step}: clips {list(clips.shape)}, mean {x.mean():.3f}")


if __name__ == "__main__":
    main()
