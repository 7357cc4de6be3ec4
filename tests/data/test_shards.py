"""The stored format, read and written; zipfile and Pillow are the oracles."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from lvgan.data import shards as shards_module
from lvgan.data.shards import (
    ShardFolder,
    ShardWriter,
    clips_digest,
    encode_jpeg,
    find_resolutions,
    index_shard,
    shard_comment,
)
from lvgan.errors import DataError
from lvgan.sizes import Size

SIZE = Size(6, 8)


def frame(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def packed(seed: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame(seed)).save(buffer, format)
    return buffer.getvalue()


def write_shard(path: Path, clips: dict[str, int]) -> Path:
    with ShardWriter(path) as shard:
        for clip, count in clips.items():
            for i in range(count):
                shard.add(clip, encode_jpeg(frame(i)))
        shard.finish()
        shard.commit()
    return path


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_layout_and_bytes(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / name, {"a b/c": 2, "ünï": 1}) for name in ("1.zip", "2.zip")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.testzip() is None
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        names = [
            "a b/c/frame_000000.jpg",
            "a b/c/frame_000001.jpg",
            "ünï/frame_000000.jpg",
            "frame_paths.json",
        ]
        assert archive.namelist() == names
        listed = json.loads(archive.read("frame_paths.json"))
        assert listed == {"a b/c": ["frame_000000.jpg", "frame_000001.jpg"], "ünï": ["frame_000000.jpg"]}
        image = Image.open(io.BytesIO(archive.read(names[1])))
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
        assert {q for table in image.quantization.values() for q in table} == {1}  # quality 100
        assert np.abs(np.asarray(image).astype(int) - frame(1)).max() <= 4
    assert sorted(os.listdir(tmp_path)) == ["1.zip", "2.zip"]


def test_an_unfinished_shard_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ShardWriter(tmp_path / "s.zip") as shard:  # noqa: PT012
        shard.add("a", b"x")
        assert os.listdir(tmp_path) == ["s.zip.partial"]
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_published_layouts(tmp_path: Path) -> None:
    folder = tmp_path / "0006x0008"
    # Members in any order, JPEG and PNG, compressed or not, listed or not.
    write_zip(folder / "partition_0001.zip", {
        "z/frame_000001.png": packed(1), "frame_paths.json": json.dumps({
            "z": ["frame_000000.png", "frame_000001.png"], "y/x": ["b.jpg", "a.png"]}).encode(),
        "y/x/a.png": packed(3), "z/frame_000000.png": packed(0), "y/x/b.jpg": packed(2, "JPEG"),
    })  # fmt: skip
    unlisted = {f"m/{i}.png": packed(i) for i in (10, 9, 11)} | {"readme.txt": b"hello", "m/.DS_Store": b""}
    write_zip(folder / "partition_0000.zip", unlisted, zipfile.ZIP_DEFLATED)
    shards = ShardFolder(folder, SIZE)
    assert {name: clip.frames for name, clip in shards.clips.items()} == {"m": 3, "y/x": 2, "z": 2}
    assert np.array_equal(shards.read("z", 0, 2), np.stack([frame(0), frame(1)]))
    assert np.array_equal(shards.read("m", 0, 3), np.stack([frame(9), frame(10), frame(11)]))
    assert np.array_equal(shards.read("y/x", 1, 1)[0], frame(3))
    grey = shards.read("z", 1, 1, channels=1)
    assert np.array_equal(grey[0, :, :, 0], np.asarray(Image.fromarray(frame(1)).convert("L")))
    with pytest.raises(ValueError, match="which has 2"):
        shards.read("z", 1, 2)


def test_threads_and_pickle(tmp_path: Path) -> None:
    write_shard(tmp_path / "0006x0008" / "partition_0000.zip", {"a": 40})
    shards = pickle.loads(pickle.dumps(ShardFolder(tmp_path / "0006x0008", SIZE)))
    expected = shards.read("a", 0, 40)
    with ThreadPoolExecutor(8) as pool:
        starts = [i % 37 for i in range(200)]
        for start, found in zip(starts, pool.map(lambda s: shards.read("a", s, 3), starts), strict=True):
            assert np.array_equal(found, expected[start : start + 3])


def test_resolutions(tmp_path: Path) -> None:
    for name in ("0144x0256", "0036x0064", "0064x0064", "36x64", "x", "0000x0001"):
        (tmp_path / name).mkdir()
    (tmp_path / "0001x0001").touch()
    assert list(find_resolutions(tmp_path)) == [Size(36, 64), Size(64, 64), Size(144, 256)]
    assert find_resolutions(tmp_path / "none") == {}


def test_damage_is_named(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0006x0008" / "partition_0000.zip", {"a": 3})
    good = path.read_bytes()

    def expect(words: str, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            ShardFolder(path.parent, SIZE).read("a", 0, 3)
        assert str(path) in str(caught.value)

    expect("damaged", good[: len(good) // 2])
    expect("damaged", b"")
    expect("checksum differs", good[:200] + bytes([good[200] ^ 255]) + good[201:])
    write_zip(path, {"frame_paths.json": b'{"a": ["gone.jpg"]}'})
    expect("'a/gone.jpg', which is not there", path.read_bytes())
    write_zip(path, {"a/1.png": b"no picture"})
    with pytest.raises(DataError, match="is no picture"):
        ShardFolder(path.parent, SIZE).read("a", 0, 1)
    write_zip(path, {"a/1.png": packed(0)})
    with pytest.raises(DataError, match=r"is 6x8.*says 7x8"):
        ShardFolder(path.parent, Size(7, 8)).read("a", 0, 1)
    write_zip(path.with_name("partition_0001.zip"), {"a/1.png": packed(0)})
    with pytest.raises(DataError, match="stands in"):
        ShardFolder(path.parent, SIZE)
    with pytest.raises(DataError, match="holds no zip files"):
        ShardFolder(tmp_path, SIZE)


def listing(content: object) -> dict[str, bytes]:
    return {"frame_paths.json": json.dumps(content).encode(), "a/1.png": packed(0)}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (listing(["a"]), "holds no clips"),
        (listing({"a": "1.png"}), "gives 'a' no list"),
        (listing({"a": [1]}), "gives 'a' no list"),
        (listing({"a": {"1.png": 0}}), "gives 'a' no list"),
        (listing({"a": ["1.png", "2.png"]}), r"names 'a/2\.png', which is not there"),
        ({"frame_paths.json": b"\xff\xfe{", "a/1.png": packed(0)}, "is damaged"),
        ({"frame_paths.json": b"[" * 100_000}, "is damaged"),
        ({"frame_paths.json": b"", "a/1.png": packed(0)}, "is damaged"),
        ({"../a/1.png": packed(0)}, r"'\.\./a' points out of its folder"),
        ({"a/../../1.png": packed(0)}, "points out"),
        ({"/etc/1.png": packed(0)}, "points out"),
        ({"c:/x/1.png": packed(0)}, "points out"),
        ({"a\\..\\..\\x/1.png": packed(0)}, "points out"),
        (listing({"a": ["../a/1.png"]}) | {"a/../a/1.png": packed(0)}, "points out"),
    ],
)
def test_wrong_lists_and_names(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    path = write_zip(tmp_path / "0006x0008" / "partition_0000.zip", members)
    with pytest.raises(DataError, match=words) as caught:
        ShardFolder(path.parent, SIZE)
    assert str(path) in str(caught.value)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0006x0008" / "partition_0000.zip"

    def read(content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
        write_zip(path, {"a/1.png": content}, compression)
        ShardFolder(path.parent, SIZE).read("a", 0, 1)

    with pytest.raises(DataError, match=r"unpacks to more than 4\d{6} bytes"):
        read(bytes(50_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="50000000 bytes for one frame"):
        read(bytes(50_000_000))
    # A header that claims a huge picture: refused by its size, before any of it is unpacked.
    claims = bytearray(packed(0))
    claims[16:24] = (9000).to_bytes(4, "big") + (9000).to_bytes(4, "big")
    claims[29:33] = zlib.crc32(claims[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match=r"is 9000x9000.*says 6x8"):
        read(bytes(claims))
    claims[16:24] = (200_000).to_bytes(4, "big") * 2
    claims[29:33] = zlib.crc32(claims[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="is damaged"):
        read(bytes(claims))
    write_zip(path, {"frame_paths.json": b" " * 10_000_000, "a/1.png": packed(0)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(shards_module, "_LISTING_BYTES", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than 1 MB"):
        ShardFolder(path.parent, SIZE)


def test_digest_is_of_contents_and_names(tmp_path: Path) -> None:
    def digest(clips: dict[str, int], path: str) -> str:
        return clips_digest(index_shard(write_shard(tmp_path / path, clips)))

    first = digest({"a": 2, "b": 1}, "1.zip")
    assert digest({"b": 1, "a": 2}, "2.zip") == first  # where they lie does not matter
    assert len({first, digest({"a": 1, "b": 2}, "3.zip"), digest({"a": 2, "c": 1}, "4.zip")}) == 3
    with ShardWriter(tmp_path / "5.zip") as shard:
        for clip, number in (("a", 0), ("a", 1), ("b", 0)):
            shard.add(clip, encode_jpeg(frame(number)))
        shard.finish(b"said")
        assert shard.digest == first
        shard.commit()
    assert shard_comment(tmp_path / "5.zip") == b"said"
    assert shard_comment(tmp_path / "1.zip") == shard_comment(tmp_path / "none") == b""
