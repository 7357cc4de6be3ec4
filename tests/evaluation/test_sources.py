"""Sources of clips on data made here: what they give is compared with what was stored."""

from __future__ import annotations

import itertools
import json
import logging
import math
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from lvgan.errors import DataError
from lvgan.evaluation.color import measure_similarity
from lvgan.evaluation.sources import (
    ArraySource,
    ClipSource,
    FrameFolderSource,
    FunctionSource,
    ShardSource,
    VideoSource,
    open_source,
)
from lvgan.sizes import Size

H, W = 12, 16


def stamped(video: int, frames: int, height: int = H, width: int = W) -> np.ndarray:
    """A video whose every pixel tells its number (red) and the frame's (green)."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0] = 40 * video
    clip[..., 1] = 3 * np.arange(frames)[:, None, None]
    return clip


def stamps(clip: np.ndarray) -> tuple[int, list[int]]:
    """Video and frame numbers, also after lossy compression."""
    red, green = (np.median(clip[..., c].reshape(len(clip), -1), axis=1) for c in (0, 1))
    videos = np.rint(red / 40).astype(int).tolist()
    assert len(set(videos)) == 1, "a clip crosses videos"
    return videos[0], np.rint(green / 3).astype(int).tolist()


def write_frames(folder: Path, clip: np.ndarray, names: str = "frame_{}.png") -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / names.format(i))


def write_video(path: Path, clip: np.ndarray) -> None:
    """Losslessly, at 30 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (clip.shape[2], clip.shape[1]),
        fps=30,
        codec="libx264rgb",
        pix_fmt_out="rgb24",
        quality=None,
        output_params=["-qp", "0"],
        macro_block_size=1,
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in clip:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def write_shards(root: Path, lengths: list[int], sizes: tuple[tuple[int, int], ...] = ((H, W),)) -> None:
    """The published layout, by hand: two shards a resolution, PNG frames, stored uncompressed."""
    for height, width in sizes:
        folder = root / f"{height:04d}x{width:04d}"
        folder.mkdir(parents=True)
        for shard in range(2):
            names: dict[str, list[str]] = {}
            with zipfile.ZipFile(folder / f"partition_{shard:04d}.zip", "w") as file:
                for video in range(shard, len(lengths), 2):
                    key = f"clip_{video}"
                    names[key] = [f"frame_{i:06d}.png" for i in range(lengths[video])]
                    for name, frame in zip(names[key], stamped(video, lengths[video], height, width), strict=True):
                        data = BytesIO()
                        Image.fromarray(frame).save(data, "png")
                        file.writestr(f"{key}/{name}", data.getvalue())
                file.writestr("frame_paths.json", json.dumps(names))


def check_clips(source: ClipSource, lengths: list[int], frames: int, count: int) -> Counter[tuple[int, int]]:
    """All clips are whole runs of one video that is long enough; how often each (video, start) came."""
    seen: Counter[tuple[int, int]] = Counter()
    for clip in source.clips(count, frames, 0):
        assert clip.dtype == np.uint8
        assert clip.shape == (frames, H, W, 3)
        video, numbers = stamps(clip)
        assert numbers == list(range(numbers[0], numbers[0] + frames))
        assert 0 <= numbers[0] <= lengths[video] - frames
        seen[video, numbers[0]] += 1
    return seen


LENGTHS = [9, 3, 20]


@pytest.fixture(params=["frames", "shards", "video", "array"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ClipSource:
    """One stored source of each kind with videos of 9, 3 and 20 frames (the array: 20 each)."""
    root = tmp_path / "data"
    if request.param == "shards":
        write_shards(root, LENGTHS)
    elif request.param == "array":
        root = tmp_path / "data.npy"
        np.save(root, np.stack([stamped(video, 20) for video in range(3)]))
    else:
        for video, length in enumerate(LENGTHS):
            if request.param == "frames":
                write_frames(root / "nested" / f"v{video}", stamped(video, length))
            else:
                write_video(root / "nested" / f"v{video}.mp4", stamped(video, length))
    opened = open_source(root)
    assert opened is not None
    return opened


def lengths_of(source: ClipSource) -> list[int]:
    return [20, 20, 20] if isinstance(source, ArraySource) else LENGTHS


def test_every_possible_clip_is_used_once_where_there_are_few(source: ClipSource) -> None:
    lengths = lengths_of(source)
    seen = check_clips(source, lengths, 8, 1000)
    assert seen == Counter((v, s) for v, n in enumerate(lengths) for s in range(n - 8 + 1))
    assert source.describe()["note"].startswith(f"all {seen.total()} clips")


def test_random_clips_are_a_function_of_the_seed(source: ClipSource) -> None:
    first, again, other = (
        [clip.tobytes() for clip in source.clips(6, 5, seed)] for seed in (1, 1, 2)
    )  # fmt: skip
    assert len(first) == 6
    assert first == again
    assert first != other
    check_clips(source, lengths_of(source), 5, 6)


def test_measuring_records_where_clips_come_from(source: ClipSource) -> None:
    curve = measure_similarity(source, clips=4, frames=5, seed=1)
    record = curve.protocol["source"]
    assert curve.clips == 4
    assert record["kind"] in ("frames", "shards", "video", "array")
    assert record["path"].endswith(("data", "data.npy"))
    assert record["fingerprint"].startswith("sha256:")
    json.dumps(curve.protocol, allow_nan=False)


def test_too_long_clips_are_refused_with_the_longest_there_is(source: ClipSource) -> None:
    with pytest.raises(DataError, match="the longest of 20 frames, but clips of 21 frames"):
        next(source.clips(3, 21, 0))


def test_videos_and_starts_are_equally_likely(tmp_path: Path) -> None:
    """Three folders of 30, 4 and 8 frames: each a third of the clips, starts evenly spread."""
    for video, length in enumerate([30, 4, 8]):
        write_frames(tmp_path / f"v{video}", stamped(video, length, 1, 1))
    source = FrameFolderSource(tmp_path)
    # A cap below the 29 + 3 + 7 = 39 possible clips keeps the draw random; many seeds make it long.
    seen = Counter(
        (video, numbers[0])
        for seed in range(90)
        for video, numbers in (stamps(clip) for clip in source.clips(10, 2, seed))
    )
    for video, starts in enumerate([29, 3, 7]):
        counts = np.array([seen[video, s] for s in range(starts)])
        assert abs(counts.sum() - 300) < 4 * math.sqrt(900 * 2 / 9)
        mean = 300 / starts
        assert ((counts - mean) ** 2 / mean).sum() < starts + 4 * math.sqrt(2 * starts)


def test_clips_of_a_seed_do_not_depend_on_how_many_are_asked_for(tmp_path: Path) -> None:
    write_frames(tmp_path / "v", stamped(0, 40))
    source = FrameFolderSource(tmp_path)
    few = [stamps(clip) for clip in source.clips(3, 5, 0)]
    many = [stamps(clip) for clip in itertools.islice(source.clips(20, 5, 0), 3)]
    assert few == many


def test_short_videos_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for video, length in enumerate([9, 3, 20]):
        write_frames(tmp_path / f"v{video}", stamped(video, length))
    source = FrameFolderSource(tmp_path)
    with caplog.at_level(logging.WARNING):
        list(source.clips(2, 8, 0))
    assert "using 2 of 3 folders of frames: 1 are shorter than 8 frames" in caplog.text
    record = {"folders of frames": 3, "long_enough": 2, "part": "2 of 3 folders of frames"}
    assert record.items() <= source.describe().items()


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_frames(tmp_path / "v", stamped(0, 12), "f{}.png")  # f10 sorts before f2 as text
    (clip,) = FrameFolderSource(tmp_path).clips(9, 12, 0)
    assert stamps(clip)[1] == list(range(12))


def test_pictures_are_cut_and_resized_about_the_centre(tmp_path: Path) -> None:
    frame = np.zeros((20, 60, 3), np.uint8)
    frame[:, 20:30], frame[:, 30:40] = 100, 200  # the central square
    write_frames(tmp_path / "v", np.stack([frame, frame]))
    (clip,) = FrameFolderSource(tmp_path, size=Size(10, 10)).clips(5, 2, 0)
    assert clip.shape == (2, 10, 10, 3)
    assert (clip[:, :, :2] == 100).all()
    assert (clip[:, :, -2:] == 200).all()


@pytest.mark.parametrize("size", [Size(10, 10), Size(7, 30), Size(31, 12), Size(60, 100)])
def test_pictures_are_fitted_as_videos_are(tmp_path: Path, size: Size) -> None:
    """The same smooth picture as PNG and through ffmpeg; a cut one pixel off would show."""
    y, x = np.mgrid[:45, :61]
    frame = np.stack([4 * x, 5 * y, 2 * x + 2 * y], axis=-1).astype(np.uint8)
    frames = np.stack([frame] * 3)
    write_frames(tmp_path / "v", frames)
    write_video(tmp_path / "v.mp4", frames)
    (picture,) = FrameFolderSource(tmp_path / "v", size=size).clips(5, 3, 0)
    (video,) = VideoSource(tmp_path / "v.mp4", size=size).clips(5, 3, 0)
    difference = np.abs(picture.astype(int) - video.astype(int))
    assert difference.mean() < 0.5
    assert difference.max() <= 3


def test_grey_arrays_and_pictures_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5, 1)
    np.save(tmp_path / "a.npy", grey)
    (clip,) = ArraySource(tmp_path / "a.npy").clips(1, 3, 0)
    np.testing.assert_array_equal(clip, grey.repeat(3, axis=3))
    write_frames(tmp_path / "frames", grey[..., 0])
    (clip,) = FrameFolderSource(tmp_path / "frames").clips(1, 3, 0)
    np.testing.assert_array_equal(clip, grey.repeat(3, axis=3))


def test_shards_by_size(tmp_path: Path) -> None:
    write_shards(tmp_path, [4, 4], ((H, W), (2 * H, 2 * W)))
    shapes = {
        name: next(ShardSource(path, size=size).clips(1, 3, 0)).shape[1:3]
        for name, path, size in [
            ("largest", tmp_path, None),
            ("named", tmp_path, Size(H, W)),
            ("folder", tmp_path / f"{H:04d}x{W:04d}", None),
        ]
    }
    assert shapes == {"largest": (2 * H, 2 * W), "named": (H, W), "folder": (H, W)}
    with pytest.raises(DataError, match="no shards of 8x8, but of 12x16, 24x32"):
        ShardSource(tmp_path, size=Size(8, 8))


def test_fingerprint_follows_contents(tmp_path: Path) -> None:
    prints = []
    for name, lengths in (("a", [5, 6]), ("b", [5, 6]), ("c", [5, 7])):
        write_shards(tmp_path / name, lengths)
        prints.append(ShardSource(tmp_path / name).describe()["fingerprint"])
    assert prints[0] == prints[1] != prints[2]
    np.save(tmp_path / "a.npy", stamped(0, 3))
    before = ArraySource(tmp_path / "a.npy").describe()["fingerprint"]
    np.save(tmp_path / "a.npy", stamped(1, 3))
    assert ArraySource(tmp_path / "a.npy").describe()["fingerprint"] != before


def test_video_is_brought_to_the_size(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", stamped(2, 30, 48, 64))
    (clip,) = VideoSource(tmp_path / "v.mp4", size=Size(H, W)).clips(3, 30, 0)
    assert clip.shape == (30, H, W, 3)
    assert stamps(clip) == (2, list(range(30)))


def test_bad_video_among_good_ones_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "good.mp4", stamped(1, 10))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with caplog.at_level(logging.WARNING):
        (clip,) = VideoSource(tmp_path).clips(5, 10, 0)
    assert stamps(clip)[0] == 1
    assert "bad.mp4" in caplog.text
    with pytest.raises(DataError, match=r"bad\.mp4"):
        list(VideoSource(tmp_path / "bad.mp4").clips(5, 10, 0))


def test_clips_beyond_the_end_of_a_broken_video_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (80, H, W, 3), dtype=np.uint8)
    write_video(tmp_path / "v.mkv", stamped(1, 80) + noise)  # noise: bytes are spread over all frames
    data = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(data[: len(data) // 2])  # its header still says 80 frames
    source = VideoSource(tmp_path)
    with caplog.at_level(logging.WARNING):
        seen = [stamps(clip)[1][0] for clip in source.clips(1000, 5, 0)]
    assert seen == list(range(len(seen)))
    assert 10 < len(seen) < 70
    assert "clips left out" in caplog.text


def test_checkpoints_are_left_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "lr.pt").write_bytes(b"x")
    assert open_source(tmp_path / "lr.pt") is None


def test_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "night.ride.npy", stamped(0, 3))
    write_frames(tmp_path / "set.v2", stamped(0, 3))
    opened: list[Any] = [
        open_source(tmp_path / "night.ride.npy"),
        open_source(tmp_path / "set.v2"),
        open_source(tmp_path / "set.v2", label="own"),
    ]
    assert [source.label for source in opened] == ["night.ride", "set.v2", "own"]


def test_function_source(tmp_path: Path) -> None:
    source = FunctionSource("f", lambda index, frames, seed: stamped(index, frames + seed), {"checkpoint": "x"})
    assert [stamps(clip)[0] for clip in source.clips(3, 4, 0)] == [0, 1, 2]
    assert source.describe() == {"kind": "generated", "checkpoint": "x"}
    with pytest.raises(ValueError, match="make must return"):
        next(source.clips(1, 4, 1))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("missing", "does not exist"),
        ("empty", "holds nothing"),
        ("texts", r"holds only \.txt"),
        ("texts/a.txt", "is neither a video"),
        ("broken.npy", "is not a readable"),
        ("float.npy", r"holds float32 \[2, 4, 4, 3\] where uint8"),
        ("objects.npy", "is not a readable"),
        ("flat.npy", r"holds uint8 \[4, 4\] where"),
    ],
)
def test_what_cannot_be_opened_is_told(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "broken.npy").write_bytes(b"")
    np.save(tmp_path / "float.npy", np.full((2, 4, 4, 3), np.nan, np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=found):
        open_source(tmp_path / name)


def test_broken_or_deep_pictures_are_told(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", stamped(0, 3))
    (tmp_path / "a" / "frame_1.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"frame_1\.png is not a readable picture"):
        list(FrameFolderSource(tmp_path / "a").clips(1, 3, 0))
    write_frames(tmp_path / "b", np.zeros((3, 4, 4), np.uint16))
    with pytest.raises(DataError, match="8 bits a channel"):
        list(FrameFolderSource(tmp_path / "b").clips(1, 3, 0))
    write_frames(tmp_path / "c", stamped(0, 2))
    Image.fromarray(stamped(0, 1, 5, 5)[0]).save(tmp_path / "c" / "frame_2.png")
    with pytest.raises(DataError, match=r"is 5x5 while frame_0\.png beside it is 12x16"):
        list(FrameFolderSource(tmp_path / "c").clips(1, 3, 0))
