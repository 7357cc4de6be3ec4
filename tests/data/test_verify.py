"""What a set holds, and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from lvgan.cli import app, commands  # noqa: F401
from lvgan.data.cache import open_cache
from lvgan.data.dataset import ClipDataset
from lvgan.data.prepare import prepare
from lvgan.data.shards import ShardFolder
from lvgan.data.verify import describe, length_histogram, sample_grid, verify
from lvgan.errors import DataError
from lvgan.sizes import Size
from tests.clips import make_video
from tests.data.sets import HIGH, LOW, identify, make_set


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "user"))
    return make_set(tmp_path / "set")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    make_video(folder / "raw" / "a.mp4", frames=24)
    prepare(folder / "raw", folder / "out", lr=Size(8, 8), hr=Size(16, 16))
    return folder / "out"


def test_info(root: Path, prepared: Path) -> None:
    open_cache(ShardFolder(root / LOW.folder(), LOW))
    found = describe(root)
    assert found.frames == (10, 20, 3)
    assert found.fps is None
    assert found.hours == pytest.approx(33 / 30 / 3600)
    low, high = found.resolutions
    assert (low.size, low.shards, high.size) == (LOW, 3, HIGH)
    assert low.bytes == sum(p.stat().st_size for p in (root / LOW.folder()).glob("*.zip"))
    assert low.decoded == 128 + 33 * 4 * 6 * 3 + 4 * 3  # header, frames, checksums
    assert high.decoded == 0
    assert describe(prepared).fps == 30
    said = call("info", root).output
    for words in (
        "3 clips, 33 frames",
        "if it has 30 fps",
        "0004x0006  3 shards",
        "decoded frames",
        "3 to 20, median 10",
    ):
        assert words in said
    assert "24 frames, 0.00 hours at 30 fps" in call("info", prepared).output


def test_histogram() -> None:
    lines = [line.split() for line in length_histogram([1, 127, 128, 128, 255, 600, 128, 200], width=10)]
    assert [(int(line[0]), int(line[2]), int(line[-1])) for line in lines] == [
        (1, 1, 1), (2, 3, 0), (4, 7, 0), (8, 15, 0), (16, 31, 0), (32, 63, 0), (64, 127, 1),
        (128, 255, 5), (256, 511, 0), (512, 1023, 1),
    ]  # fmt: skip
    assert [line[3] for line in lines if len(line) == 5] == ["##", "##", "#" * 10, "##"]
    assert length_histogram([]) == []


def test_grid(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "grid.png"
    size = sample_grid(root, path)
    picture = np.asarray(Image.open(path))
    assert picture.shape == (*size, 3) == (3 * 8, 8 * 12, 3)
    tiles = picture.reshape(3, 8, 8, 12, 3).transpose(0, 2, 1, 3, 4)  # [clip, frame, H, W, C]
    assert [identify(row)[0] for row in tiles] == [0, 1, 2]
    numbers = [identify(row)[1] for row in tiles]
    assert numbers[0] == [0, 1, 3, 4, 5, 6, 8, 9]
    assert numbers[2][0] == 0
    assert numbers[2][-1] == 2
    assert os.listdir(path.parent) == ["grid.png"]
    assert sample_grid(root, path, side=1) == Size(3 * 4, 8 * 6)
    assert "24x96 pixels" in call("info", root, "--grid", path).output


def test_a_whole_set(root: Path, prepared: Path) -> None:
    found = verify(root)
    assert (found.resolutions, found.clips, found.frames, found.problems) == ((LOW, HIGH), 3, 66, ())
    result = call("verify", prepared)
    assert result.exit_code == 0, result.output
    assert "every frame decodes, and all agree" in result.output


def flip_byte(root: Path, size: Size, clip: str, number: int) -> Path:
    stored = ShardFolder(root / size.folder(), size).clips[clip]
    content = bytearray(stored.shard.read_bytes())
    content[int(stored.members[number, 0]) + 120] ^= 255
    stored.shard.write_bytes(content)
    return stored.shard


def test_every_kind_of_damage_is_a_line(root: Path) -> None:
    flip_byte(root, HIGH, "b/c", 17)
    broken = root / LOW.folder() / "partition_0000.zip"
    broken.write_bytes(broken.read_bytes()[:500])
    make_set(root / "other", (HIGH,), {"x": 1, "y": 1, "d": 5})
    os.replace(root / "other" / HIGH.folder() / "partition_0002.zip", root / HIGH.folder() / "partition_0002.zip")
    problems = verify(root).problems
    expected = ["partition_0000.zip is damaged", "frame 17 of 'b/c'", "'a' is in 0008x0012 and not in 0004x0006"]
    expected += ["'d' has 3 frames in 0004x0006 and 5 in 0008x0012"]
    assert len(problems) == len(expected)
    for words in expected:
        assert sum(words in line for line in problems) == 1, words
    result = call("verify", root)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "4 problems in 3 clips at 4x6, 8x12" in result.output


def test_the_manifest_is_compared(prepared: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "out"

    def after(change: object) -> tuple[str, ...]:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(prepared, root)
        change()  # type: ignore[operator]
        return verify(root).problems

    shard = root / "0008x0008" / "partition_0000.zip"

    def other_frames() -> None:
        """The same size and number of frames, the checksums right, and yet not what was prepared."""
        with zipfile.ZipFile(shard) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        names = [name for name in members if name.endswith(".jpg")]
        members |= dict(zip(names, [members[name] for name in reversed(names)], strict=True))
        os.remove(shard)
        with zipfile.ZipFile(shard, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    def edit(**changes: object) -> None:
        path = root / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    assert after(lambda: None) == ()
    (line,) = after(other_frames)
    assert "its digest differs" in line
    assert "was stopped" in after(lambda: edit(complete=False))[0]
    assert "not a manifest" in after(lambda: edit(format="x"))[0]
    lines = after(lambda: shutil.rmtree(shard.parent))
    assert len(lines) == 2
    assert "partition_0000.zip is not there" in lines[0]
    assert "0008x0008 is not there" in lines[1]
    lines = after(lambda: shutil.copy(shard, shard.with_name("partition_0001.zip")))
    assert any("partition_0001.zip is not in manifest.json" in line for line in lines)


def test_nothing_to_look_at(tmp_path: Path) -> None:
    for command in (("info",), ("verify",), ("resize", "--size", "4x4")):
        result = call(command[0], tmp_path, *command[1:])
        assert isinstance(result.exception, DataError), command
    with pytest.raises(DataError, match="is not a folder"):
        verify(tmp_path / "none")
    (tmp_path / "0004x0004").mkdir()
    assert "holds no zip files" in verify(tmp_path).problems[0]


def test_resize_command(root: Path) -> None:
    result = call("resize", root, "--size", "4x4", "--from", "8x12")
    assert result.exit_code == 0, result.output
    assert "3 shards made from 8x12" in result.output
    assert "the centre, 8x8, is used" in result.output
    assert verify(root).problems == ()
    assert "0 shards made from 8x12, 3 were there" in call("resize", root, "--size", "4x4", "--from", "8x12").output


def test_preparing_at_other_sizes_removes_decoded_frames(prepared: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "out"
    shutil.copytree(prepared, root)
    open_cache(ShardFolder(root / "0008x0008", Size(8, 8)))
    prepare(prepared.parent / "raw", root, lr=Size(4, 4), hr=Size(8, 8), overwrite=True)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["0004x0004", "0008x0008"]
    assert [path.name for path in (root / "0008x0008").iterdir()] == ["partition_0000.zip"]


def edit_shard(path: Path, change: Callable[[dict[str, list[str]]], object], *, again: str | None = None) -> None:
    """Write a shard anew, with another list of frames, and with one of its files stored twice."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    listed = json.loads(held.pop("frame_paths.json"))
    change(listed)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in [*held.items(), *((again, held[again]) for _ in range(1) if again is not None)]:
            archive.writestr(name, content)
        archive.writestr("frame_paths.json", json.dumps(listed))


def swap(listed: dict[str, list[str]]) -> None:
    names = listed["b/c"]
    names[3], names[4] = names[4], names[3]


def slip(listed: dict[str, list[str]]) -> None:
    listed["b/c"][5:7] = [listed["b/c"][5]] * 2


@pytest.mark.parametrize(("change", "frame"), [(swap, 3), (slip, 6)])
def test_frames_that_do_not_belong_together(root: Path, change: Callable[..., object], frame: int) -> None:
    edit_shard(root / HIGH.folder() / "partition_0001.zip", change)
    words = f"frame {frame} is 'frame_{frame:06d}.jpg' in 0004x0006 and"
    problems = verify(root).problems
    assert any(words in line and "'b/c'" in line for line in problems)
    assert any("lists 1 frame of clip 'b/c' twice" in line for line in problems) == (change is slip)
    with pytest.raises(DataError, match=re.escape(words)):
        ClipDataset(root)


def test_names_with_other_suffixes_or_of_another_kind_are_no_difference(root: Path) -> None:
    path = root / HIGH.folder() / "partition_0002.zip"
    with zipfile.ZipFile(path) as archive:
        frames = [archive.read(f"d/frame_{i:06d}.jpg") for i in range(3)]
    for form in ("frame_{:06d}.jpeg", "other{}.jpg"):
        with zipfile.ZipFile(path, "w") as archive:
            for i, frame in enumerate(frames):
                archive.writestr("d/" + form.format(i), frame)
        assert verify(root).problems == ()
        assert len(ClipDataset(root).clips) == 3


def test_a_file_stored_twice(root: Path) -> None:
    path = root / LOW.folder() / "partition_0002.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        edit_shard(path, lambda _: None, again="d/frame_000001.jpg")
    assert verify(root).problems == (f"{path} holds the file 'd/frame_000001.jpg' more than once",)


@pytest.mark.parametrize("name", ["\ud800x", "a\x1b[2J\nb"])
def test_names_that_are_not_for_the_screen(root: Path, name: str) -> None:
    change = lambda listed: listed.update({name: listed.pop("d")})  # noqa: E731
    for size in (LOW, HIGH):
        edit_shard(root / size.folder() / "partition_0002.zip", change)
    result = call("verify", root)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert all(line.startswith(("decoding", str(root), "clip 'd'")) for line in result.output.splitlines() if line)
    for command in (("info",), ("resize", "--size", "2x3")):
        error = call(command[0], root, *command[1:]).exception
        assert isinstance(error, DataError)
        assert str(error).isprintable()


def test_info_of_a_set_that_is_not_complete(prepared: Path, tmp_path: Path) -> None:
    assert "not complete" not in call("info", prepared).output
    shutil.copytree(prepared, tmp_path / "part")
    manifest = json.loads((prepared / "manifest.json").read_text())
    (tmp_path / "part" / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    assert "not complete: `lvgan prepare` was stopped" in call("info", tmp_path / "part").output
    for shard in tmp_path.glob("part/0*/*.zip"):
        shard.unlink()
    assert "0 clips, 0 frames" in call("info", tmp_path / "part").output
