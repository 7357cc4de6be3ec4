"""Folders of pictures as footage, against Pillow by hand and ffmpeg's filter `fps`."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvgan.data.filters import Region
from lvgan.data.pictures import PictureReader, list_pictures, missing_numbers, probe_pictures
from lvgan.data.prepare import prepare
from lvgan.errors import DataError, MediaError
from lvgan.sizes import Size
from tests.clips import ffmpeg
from tests.data.test_prepare import frames_of, run
from tests.data.test_video import centre_lanczos, difference


def save(folder: Path, numbers: range, *, size: tuple[int, int] = (48, 32), suffix: str = "jpg") -> np.ndarray:
    """Pictures ``0.jpg`` ... of one grey each, 5 apart; as an array."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        Image.new("RGB", size, (n * 5 % 256,) * 3).save(folder / f"{n}.{suffix}", quality=100)
    return np.array([n * 5 % 256 for n in numbers])


def greys(folder: Path, **options: object) -> list[int]:
    with PictureReader(folder, [Size(16, 16)], fps=30, **options) as reader:  # type: ignore[arg-type]
        return [round(frame.mean() / 5) for (frame,) in reader]


def test_every_picture_once_in_natural_order(tmp_path: Path) -> None:
    save(tmp_path, range(24))
    assert [path.name for path in list_pictures(tmp_path)] == [f"{n}.jpg" for n in range(24)]
    assert greys(tmp_path) == list(range(24))
    info = probe_pictures(tmp_path, 30)
    assert (info.width, info.height, info.duration) == (48, 32, 24 / 30)


@pytest.mark.parametrize("own", [10, 24, 25, 50, 60, 120, 23.976, 7])
def test_other_rates_are_those_of_ffmpeg(tmp_path: Path, own: float) -> None:
    save(tmp_path, range(40), suffix="png")
    raw = ffmpeg(
        "-framerate", own, "-i", tmp_path / "%d.png", "-vf", "fps=30,scale=1:1,format=gray", "-f", "rawvideo", "-"
    )
    expected = [round(byte / 5) for byte in raw]
    found = greys(tmp_path, files_fps=own)
    assert abs(len(found) - len(expected)) <= 1  # the duration of the last picture
    assert found[: len(expected) - 1] == expected[: len(found) - 1] or found == expected[: len(found)]


def test_spans(tmp_path: Path) -> None:
    save(tmp_path, range(40))
    with PictureReader(tmp_path, [Size(16, 16)], fps=30, spans=[(0.1, 0.2), (1.0, None)]) as reader:
        found = [(reader.span, reader.number, round(frame.mean() / 5)) for (frame,) in reader]
    assert found == [(0, n, n) for n in range(3, 6)] + [(1, n, n) for n in range(30, 40)]
    assert greys(tmp_path, files_fps=60, spans=[(0.5, 0.6)]) == [30, 32, 34]


def test_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(
        (161, 121), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "a.png")
    stored = np.asarray(smooth)[None]
    with PictureReader(tmp_path, [Size(16, 24), Size(64, 96)], fps=30) as reader:
        low, high = next(reader)
    assert difference(low[None], centre_lanczos(stored, Size(16, 24))) < 1
    assert difference(high[None], centre_lanczos(stored, Size(64, 96))) < 0.01
    with PictureReader(tmp_path, [Size(32, 32)], fps=30, region=Region(60, 50, 20, 30)) as reader:
        (part,) = next(reader)
    assert difference(part[None], centre_lanczos(stored[:, 30:80, 20:80], Size(32, 32))) < 0.1


def test_kinds_of_pictures(tmp_path: Path) -> None:
    grey = np.full((32, 48), 100, np.uint8)
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "1.png")
    Image.fromarray(np.dstack([grey] * 3 + [np.zeros_like(grey)])).save(tmp_path / "2.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "3.png", transparency=b"\0" * 256)
    Image.fromarray(np.dstack([155 - grey + 100] * 3)).convert("RGB").save(tmp_path / "4.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(grey.T).save(tmp_path / "5.jpg", exif=exif, quality=100)
    with PictureReader(tmp_path, [Size(16, 16)], fps=30) as reader:
        found = [int(frame.mean()) for (frame,) in reader]
        assert reader.damage is None
    assert found == [100, 100, 100, 100, 155, 100]


def bomb(path: Path, side: int = 100_000) -> None:
    """A PNG of a few bytes that claims 100 000 x 100 000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_bad_pictures_part_the_footage(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "v", range(90))
    v = tmp_path / "raw" / "v"
    (v / "30.jpg").write_bytes((v / "30.jpg").read_bytes()[:200])
    (v / "31.jpg").write_bytes(b"")
    Image.new("RGB", (20, 20)).save(v / "60.jpg")
    (v / "89.jpg").unlink()
    bomb(v / "89.png")
    manifest = run(tmp_path / "raw", tmp_path / "out", scene_cut="off", crop="center")
    (source,) = manifest.sources
    assert [(c.name, c.start, c.frames) for c in source.clips] == [("v", 0, 30), ("v~001", 32, 28), ("v~002", 61, 28)]
    assert source.truncated
    assert "4 of its 90 pictures cannot be used (30.jpg: " in source.notes[0]
    assert frames_of(tmp_path / "out", Size(16, 16), "v~001")[0].mean() == pytest.approx(160, abs=1)


def test_nothing_but_bad_pictures(tmp_path: Path) -> None:
    (tmp_path / "raw" / "v").mkdir(parents=True)
    for n in range(3):
        bomb(tmp_path / "raw" / "v" / f"{n}.png", 9000)
    with pytest.raises(MediaError, match="9000 pixels wide and 9000 high, more than 64 million"):
        probe_pictures(tmp_path / "raw" / "v", 30)
    with pytest.raises(DataError, match="'v' none of its pictures can be opened"):
        run(tmp_path / "raw", tmp_path / "out")


def test_nested_folders_as_skytimelapse_comes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    save(raw / "sky_train" / "a.b" / "a_1", range(20))
    save(raw / "sky_train" / "a.b" / "a_2", range(14), suffix="png")
    save(raw / "sky_train" / "c", range(3))
    os.mkfifo(raw / "sky_train" / "c" / "9.png")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=48x32:rate=30", "-frames:v", 15, raw / "film.mp4")
    Image.new("RGB", (48, 32)).save(raw / "film.jpg")
    manifest = run(raw, tmp_path / "out", scene_cut="off")
    assert {(c.name, c.frames) for c in manifest.clips()} == {
        ("sky_train/a.b/a_1", 20), ("sky_train/a.b/a_2", 14), ("film", 15),
    }  # fmt: skip
    reasons = {s.path: s.skipped for s in manifest.skipped}
    assert reasons == {
        "sky_train/c": "gives 3 frames, fewer than 12 (the least that is asked for)",
        "./": "holds 1 picture beside videos, taken for thumbnails; frames need a folder of their own",
    }
    one = raw / "sky_train" / "a.b" / "a_1"
    manifest = prepare(one, tmp_path / "one", lr=Size(8, 8), hr=Size(16, 16), frames_fps=60,
                       min_frames=10, workers=1, scene_cut="off")  # fmt: skip
    assert [(c.name, c.frames) for c in manifest.clips()] == [("a_1", 10)]


def test_shards_as_input(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "v", range(20))
    run(tmp_path / "raw", tmp_path / "out", scene_cut="off")
    for given in (tmp_path / "out", tmp_path / "out" / "0016x0016"):
        with pytest.raises(DataError, match=r"holds shards already, of 16x16 and 32x32.*lvgan data resize"):
            run(given, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["frame_0005", "frame_0006", "frame_0009", "frame_0010"], "leave some out, between 6 and 9"),
        (["1", "2", "4", "5", "6", "9", "10"], "between 2 and 4, and in 1 more places"),
        (["10", "20", "30", "50"], "between 30 and 50"),
        (["8", "9", "10", "11"], None),
        (["a", "b"], None),
        (["one"], None),
        (["101500", "101733", "104211", "120000"], None),  # times of day
    ],
)
def test_numbers_that_are_missing(tmp_path: Path, names: list[str], expected: str | None) -> None:
    for name in names:
        Image.new("RGB", (48, 48)).save(tmp_path / f"{name}.png")
    found = missing_numbers(tmp_path)
    assert (found is None) == (expected is None)
    assert (expected or "") in (found or "")


def test_a_gap_is_noted_and_nothing_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "f"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in (*range(1, 7), *range(9, 17)):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)).save(folder / f"frame_{i:04d}.png")
    (source,) = run(tmp_path / "raw", tmp_path / "out", scene_cut="off").sources
    assert [clip.frames for clip in source.clips] == [14]
    assert "its pictures' numbers leave some out, between 6 and 9" in source.notes
