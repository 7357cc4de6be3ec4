"""Small sets of shards whose frames say which clip, frame and half of the picture they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lvgan.data.shards import ShardWriter, encode_jpeg, shard_name
from lvgan.sizes import Size

LOW, HIGH = Size(4, 6), Size(8, 12)
CLIPS = {"a": 10, "b/c": 20, "d": 3}


def colour(clip: int, number: int, right: bool) -> tuple[int, int, int]:
    """Says which clip, which frame, which half of the picture."""
    return 40 + 60 * clip, 20 + 10 * number, 200 if right else 30


def make_set(root: Path, sizes: tuple[Size, ...] = (LOW, HIGH), clips: dict[str, int] = CLIPS) -> Path:
    for size in sizes:
        for index, (name, count) in enumerate(clips.items()):
            with ShardWriter(root / size.folder() / shard_name(index)) as shard:
                for number in range(count):
                    frame = np.empty((*size, 3), np.uint8)
                    frame[:, : size.width // 2] = colour(index, number, False)
                    frame[:, size.width // 2 :] = colour(index, number, True)
                    shard.add(name, encode_jpeg(frame))
                shard.finish()
                shard.commit()
    return root


def identify(window: np.ndarray) -> tuple[int, list[int], bool]:
    """Clip, frame numbers and whether it is mirrored, read off the colours."""
    red, green, blue = (window[:, 0, 0, i].astype(float) for i in range(3))
    clip = round(float(red[0] - 40) / 60)
    return clip, [round(float(g - 20) / 10) for g in green], bool(blue[0] > 100)
