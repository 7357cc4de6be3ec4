"""A missing resolution made from a larger one."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lvgan.data.dataset import ClipDataset
from lvgan.data.resize import crop_resize, resize
from lvgan.data.shards import ShardWriter
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size
from tests.data.sets import HIGH, LOW, make_set

SMALL = Size(4, 6)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def make_published(root: Path) -> Path:
    """Two partitions, JPEG and PNG, members in any order."""
    rng = np.random.default_rng(0)
    folder = root / "0024x0032"
    folder.mkdir(parents=True)
    for index, clips in enumerate(({"v/one": ["b.jpg", "a.png"]}, {"two": ["frame_000000.jpg"]})):
        with zipfile.ZipFile(folder / f"partition_{index:04d}.zip", "w") as archive:
            archive.writestr("frame_paths.json", json.dumps(clips))
            for clip, names in clips.items():
                for name in reversed(names):
                    buffer = io.BytesIO()
                    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
                    image.save(buffer, "PNG" if name.endswith("png") else "JPEG", quality=100, subsampling=0)
                    archive.writestr(f"{clip}/{name}", buffer.getvalue())
    return root


def test_same_names_and_pillow_s_pictures(tmp_path: Path) -> None:
    root = make_published(tmp_path)
    done = resize(root, Size(12, 12))
    assert (done.source, done.part, done.made, done.kept) == (Size(24, 32), Size(24, 24), 2, 0)
    source = {p.name: zipfile.ZipFile(p) for p in sorted((root / "0024x0032").iterdir())}
    for path in sorted((root / "0012x0012").iterdir()):
        with zipfile.ZipFile(path) as archive, source[path.name] as original:
            assert archive.testzip() is None
            assert json.loads(archive.read("frame_paths.json")) == json.loads(original.read("frame_paths.json"))
            assert sorted(archive.namelist()) == sorted(original.namelist())
            for name in set(archive.namelist()) - {"frame_paths.json"}:
                before = Image.open(io.BytesIO(original.read(name))).convert("RGB")
                expected = before.crop((4, 0, 28, 24)).resize((12, 12), Image.Resampling.LANCZOS)
                after = Image.open(io.BytesIO(archive.read(name)))
                assert after.format == ("PNG" if name.endswith("png") else "JPEG")
                difference = np.abs(np.asarray(after).astype(int) - np.asarray(expected))
                assert difference.max() <= (0 if after.format == "PNG" else 6), name
    data = ClipDataset(root)
    assert (data.lr, data.hr) == (Size(12, 12), Size(24, 32))
    assert [clip.name for clip in data.clips] == ["two", "v/one"]


def test_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, other = make_set(tmp_path / "a", (HIGH,)), make_set(tmp_path / "b", (HIGH,))
    resize(other, SMALL)
    whole = contents(other / SMALL.folder())
    written = 0
    original = ShardWriter.add

    def stops(self: ShardWriter, *arguments: Any) -> None:
        nonlocal written
        written += 1
        if written > 25:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(ShardWriter, "add", stops)
    with pytest.raises(KeyboardInterrupt):
        resize(root, SMALL)
    monkeypatch.undo()
    kept = contents(root / SMALL.folder())
    assert list(kept) == ["partition_0000.zip"]  # complete, and no half of the second
    done = resize(root, SMALL)
    assert (done.made, done.kept) == (2, 1)
    assert contents(root / SMALL.folder()) == whole
    assert resize(root, SMALL).made == 0
    make_set(root, (HIGH,), {"new": 4})  # the first shard of the source changes
    assert resize(root, SMALL).made == 1
    assert [clip.name for clip in ClipDataset(root, SMALL, HIGH).clips] == ["b/c", "d", "new"]
    (root / HIGH.folder() / "partition_0002.zip").unlink()
    resize(root, SMALL)
    assert [clip.name for clip in ClipDataset(root, SMALL, HIGH).clips] == ["b/c", "new"]


def test_refusals(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"16x24 cannot be made from 4x6, 8x12: pictures are never enlarged"):
        resize(root, Size(16, 24))
    with pytest.raises(ConfigError, match="9x9 cannot be made from"):
        resize(root, Size(9, 9))
    with pytest.raises(ConfigError, match="holds no 5x5 to make 2x2 from, but 4x6, 8x12"):
        resize(root, Size(2, 2), source=Size(5, 5))
    with pytest.raises(ConfigError, match="cannot be made from 4x6"):
        resize(root, Size(6, 6), source=LOW)
    before = contents(root / LOW.folder())
    with pytest.raises(DataError, match="was not made by this command; give --overwrite"):
        resize(root, LOW)
    assert contents(root / LOW.folder()) == before
    assert resize(root, LOW, overwrite=True).made == 3
    assert resize(root, Size(3, 3)).source == LOW  # the smallest that is enough
    with pytest.raises(DataError, match="holds no folders of shards"):
        resize(tmp_path, LOW)
    shard = next((root / HIGH.folder()).iterdir())
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DataError, match="is damaged"):
        resize(root, Size(5, 5))
    assert not (root / "0005x0005").exists()


def test_golden_crop_resize(golden: Any) -> None:
    tensors = golden("crop_resize").tensors
    cases = [name.split("/")[0] for name in tensors if name.startswith("crop") and name.endswith("/in")]
    assert len(cases) == 8
    for case in cases:
        expected = tensors[f"{case}/out"].numpy()
        found = crop_resize(tensors[f"{case}/in"].numpy(), Size(*expected.shape[:2]))
        assert np.array_equal(found, expected), case
