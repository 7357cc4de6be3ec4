"""Decoded frames: what shards hold, once, whole, wherever there is room."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lvgan.data import cache as cache_module
from lvgan.data.cache import FrameCache, cache_files, open_cache, user_folder
from lvgan.data.dataset import ClipDataset
from lvgan.data.shards import ShardFolder
from lvgan.errors import DataError
from tests.data.sets import CLIPS, LOW, make_set


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardFolder:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "user"))
    return ShardFolder(make_set(tmp_path / "set", (LOW,)) / LOW.folder(), LOW)


def same(cache: FrameCache | None, shards: ShardFolder, channels: int = 3) -> bool:
    """Whether a cache holds what Pillow decodes."""
    assert cache is not None
    return all(
        np.array_equal(cache.read(name, 0, count).transpose(0, 2, 3, 1), shards.read(name, 0, count, channels))
        for name, count in CLIPS.items()
    )


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardFolder, "_decode", lambda *_: pytest.fail("a frame was decoded"))


def test_made_once_and_found_again(shards: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    made = open_cache(shards, say=said.append)
    assert same(made, shards)
    assert said == []
    (path,) = cache_files(shards.folder)
    assert path == made.path
    assert np.load(path).shape == (33, 3, *LOW)  # any program can read it
    with pytest.raises(ValueError, match="read-only"):
        made.frames[0] = 0
    assert ShardFolder(shards.folder, LOW).clips.keys() == shards.clips.keys()  # it is no shard
    forbid_decoding(monkeypatch)
    for again in (open_cache(ShardFolder(shards.folder, LOW)), pickle.loads(pickle.dumps(made))):
        assert np.array_equal(again.frames, made.frames)
        assert isinstance(again.frames, np.memmap)


def test_grey_has_its_own(shards: ShardFolder) -> None:
    assert same(open_cache(shards, channels=1), shards, channels=1)
    assert same(open_cache(shards), shards)
    assert [p.name.split("_")[1] for p in cache_files(shards.folder)] == ["grey", "rgb"]


def test_memory_and_off(shards: ShardFolder) -> None:
    assert open_cache(shards, "off") is None
    held = open_cache(shards, "memory")
    assert same(held, shards)
    assert cache_files(shards.folder) == []
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(held)
    data = ClipDataset(shards.folder.parent)
    data.open_cache("memory")
    copy = pickle.loads(pickle.dumps(data))
    assert (data.cached, copy.cached) == (True, False)
    assert np.array_equal(copy.read("a", 2, 3), data.read("a", 2, 3))


def test_changed_shards_are_decoded_again(shards: ShardFolder) -> None:
    before = open_cache(shards)
    root = shards.folder.parent
    first = sorted(shards.folder.glob("*.zip"))[0]
    content = first.read_bytes()
    make_set(root, (LOW,), {"z": 10})  # another clip in the first shard
    changed = ShardFolder(shards.folder, LOW)
    after = open_cache(changed)
    assert after.path != before.path
    assert cache_files(shards.folder) == [after.path]  # the stale one is gone
    assert np.array_equal(after.read("z", 3, 2).transpose(0, 2, 3, 1), changed.read("z", 3, 2))
    assert before.read("a", 0, 10).any()  # who has it open keeps it
    first.write_bytes(content)
    assert same(open_cache(shards), shards)


@pytest.mark.parametrize("content", [b"", b"nothing", b"half"])
def test_a_damaged_file_is_replaced(shards: ShardFolder, content: bytes) -> None:
    path = open_cache(shards).path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    assert same(open_cache(shards), shards)
    assert path.read_bytes() == whole


def refuse(monkeypatch: pytest.MonkeyPatch, *places: Path, code: int = errno.EROFS) -> None:
    """Make folders unwritable for a test that may run as root."""
    original = os.open

    def guarded(path: object, flags: int, *rest: int, **more: int) -> int:
        if any(str(path).startswith(str(place)) for place in places) and flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path))
        return original(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module.os, "open", guarded)


def test_shards_that_cannot_be_written_to(shards: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, shards.folder)
    said: list[str] = []
    made = open_cache(shards, say=said.append)
    assert same(made, shards)
    assert made.path.parent == user_folder(shards.folder)
    assert len(said) == 1
    assert "Read-only file system" in said[0]
    assert str(made.path.parent) in said[0]
    forbid_decoding(monkeypatch)
    assert open_cache(shards).path == made.path


def test_no_room_but_memory(shards: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, shards.folder, user_folder(shards.folder), code=errno.ENOSPC)
    said: list[str] = []
    held = open_cache(shards, say=said.append)
    assert same(held, shards)
    assert held.path is None
    assert "kept in memory" in said[0]
    monkeypatch.setattr(cache_module, "_free_memory", lambda: 100)
    assert open_cache(shards, say=said.append) is None
    assert "No space left" in said[1]
    assert "free some space" in said[1]


def test_a_disk_that_fills_up_while_writing(shards: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.os, "fsync", full)
        said: list[str] = []
        assert open_cache(shards, say=said.append).path is None
    assert "No space left" in said[0]
    assert cache_files(shards.folder) == cache_files(user_folder(shards.folder)) == []
    usage = cache_module.shutil.disk_usage(shards.folder)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert open_cache(shards, say=said.append).path is None  # known beforehand
    assert "are free" in said[1]


def test_a_damaged_shard_leaves_nothing(shards: ShardFolder) -> None:
    clip = shards.clips["b/c"]
    content = bytearray(clip.shard.read_bytes())
    content[int(clip.members[7, 0]) + 100] ^= 255
    clip.shard.write_bytes(content)
    with pytest.raises(DataError, match="checksum differs"):
        open_cache(shards)
    assert cache_files(shards.folder) == []


def build(folder: Path, barrier: object, queue: object) -> None:
    shards = ShardFolder(folder, LOW)
    barrier.wait()  # type: ignore[attr-defined]
    made = open_cache(shards)
    queue.put((same(made, shards), made.path.stat().st_ino))  # type: ignore[attr-defined]


def test_processes_at_once(shards: ShardFolder) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=build, args=(shards.folder, barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    (path,) = cache_files(shards.folder)
    assert found == [(True, path.stat().st_ino)] * 3  # one made it, the others took it


SLOW = """
import sys, time
from pathlib import Path
from lvgan.data.cache import open_cache
from lvgan.data.shards import ShardFolder
from lvgan.sizes import Size
original = ShardFolder._decode
def slow(self, content, channels, clip, number):
    if clip.name == "d":
        print("half", flush=True)
        time.sleep(60)
    return original(self, content, channels, clip, number)
ShardFolder._decode = slow
open_cache(ShardFolder(Path(sys.argv[1]), Size(4, 6)))
"""


def test_a_killed_process_leaves_nothing_that_counts(shards: ShardFolder) -> None:
    command = [sys.executable, "-c", SLOW, str(shards.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout.readline() == b"half\n"
        said: list[str] = []
        started = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [p.suffix for p in cache_files(shards.folder)] == [".partial"]
    assert same(open_cache(shards, say=said.append), shards)
    assert time.monotonic() - started < 30
    assert [p.suffix for p in cache_files(shards.folder)] == [".npy"]


def test_a_byte_that_has_changed_is_found_and_the_frames_are_decoded_again(shards: ShardFolder) -> None:
    made = open_cache(shards)
    assert made is not None
    assert made.path is not None
    sound, first = made.path.read_bytes(), int(made.frames.offset)
    for at in (first, first + made.frames.nbytes // 2, first + made.frames.nbytes - 1, len(sound) - 1):
        wrong = bytearray(sound)
        wrong[at] ^= 4
        made.path.write_bytes(wrong)
        said: list[str] = []
        assert same(open_cache(shards, say=said.append), shards)
        assert len(said) == 1
        assert f"{made.path} are damaged" in said[0]
        assert made.path.read_bytes() == sound
    for wrong_length in (sound[:-4], sound + bytes(4), sound[:first], b""):
        made.path.write_bytes(wrong_length)
        assert same(open_cache(shards), shards)
        assert made.path.read_bytes() == sound
