"""Checkpoint files: what is read, what is refused, and that nothing runs or tears."""

from __future__ import annotations

import os
import pickle
import random
import subprocess

import pytest
import torch
from PIL import Image

from lvgan import checkpoint as ckpt
from lvgan.errors import CheckpointError, DamagedCheckpointError, MachineError


def _checkpoint(stage: str = "lr", lr: str = "32x32") -> dict:
    return ckpt.new_checkpoint(
        stage,
        step=3,
        config={"data": {"lr": lr, "channels": 3}, "training": {}},
        generator_ema={"w": torch.arange(4.0)},
        data={},
    )


def test_round_trip(tmp_path) -> None:
    path = tmp_path / "sub" / "a.pt"
    ckpt.save(path, _checkpoint())
    loaded = ckpt.load(path, "lr")
    assert loaded["step"] == 3
    assert torch.equal(loaded["generator_ema"]["w"], torch.arange(4.0))
    assert os.listdir(path.parent) == ["a.pt"]
    torch.load(path, weights_only=True)


class _Bomb:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_file_does_not_run(tmp_path, how: str) -> None:
    flag, path = tmp_path / "ran", tmp_path / "a.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Bomb(flag)))
    else:
        torch.save({"format": ckpt.FORMAT, "x": _Bomb(flag)}, path)
    with pytest.raises(CheckpointError, match="run code"):
        ckpt.load(path)
    assert not flag.exists()


def test_refusals(tmp_path) -> None:
    picture = tmp_path / "picture.pt"
    Image.new("RGB", (4, 4)).save(picture, format="png")
    empty = tmp_path / "empty.pt"
    empty.touch()
    cut = tmp_path / "cut.pt"
    ckpt.save(cut, _checkpoint())
    cut.write_bytes(cut.read_bytes()[:-200])
    foreign = tmp_path / "foreign.pt"
    torch.save({"a": torch.ones(1)}, foreign)
    later = tmp_path / "later.pt"
    torch.save({**_checkpoint(), "version": 99}, later)
    bare = tmp_path / "bare.pt"
    torch.save({"format": ckpt.FORMAT, "version": 1}, bare)
    half = tmp_path / "half.pt"
    half.write_bytes(cut.read_bytes()[:700])
    for path, words in (
        (bare, "lacks parts"),
        (half, "damaged"),
        (picture, "not a checkpoint"),
        (empty, "empty"),
        (cut, "damaged"),
        (foreign, "not a checkpoint written by lvgan"),
        (later, "version 99"),
        (tmp_path / "none.pt", "no checkpoint"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(CheckpointError, match=words):
            ckpt.load(path)


def test_wrong_stage_and_wrong_pair(tmp_path) -> None:
    path = tmp_path / "a.pt"
    ckpt.save(path, _checkpoint("lr"))
    with pytest.raises(CheckpointError, match="low-resolution checkpoint, but a super-resolution"):
        ckpt.load(path, "sr")
    with pytest.raises(CheckpointError, match=r"32x32, but .* 64x64"):
        ckpt.check_pair(_checkpoint("lr"), _checkpoint("sr", "64x64"))
    both = ckpt.bundle(_checkpoint("lr"), _checkpoint("sr"))
    assert both["stage"] == "bundle"
    assert both["lr"]["stage"] == "lr"


def test_full_disk_leaves_the_old_file(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        path = disk / "a.pt"
        ckpt.save(path, _checkpoint())
        before = path.read_bytes()
        with pytest.raises(MachineError, match="disk is full"):
            ckpt.save(path, {**_checkpoint(), "big": torch.randn(1_000_000)})
        assert os.listdir(disk) == ["a.pt"]
        assert path.read_bytes() == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_find_takes_the_newest_of_a_run(tmp_path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (100, 20, 3):
        ckpt.save(folder / f"lr-step-{step:06d}.pt", _checkpoint())
    assert ckpt.find(tmp_path).name == "lr-step-000100.pt"
    assert ckpt.find(folder).name == "lr-step-000100.pt"
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="without checkpoints"):
        ckpt.find(tmp_path / "none")


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path) -> None:
    path, bad = tmp_path / "a.pt", tmp_path / "b.pt"
    ckpt.save(path, {**_checkpoint(), "optimizers": torch.randn(300)})
    good, content = ckpt.load(path), path.read_bytes()
    noticed = 0
    rng = random.Random(0)
    for place in rng.sample(range(4, len(content)), 250):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        bad.write_bytes(flipped)
        try:
            loaded = ckpt.load(bad)
        except DamagedCheckpointError:
            noticed += 1
        else:  # padding, dates and such: what is read is right
            assert torch.equal(loaded["optimizers"], good["optimizers"])
            assert loaded["step"] == good["step"]
    assert noticed > 100
    # A tensor's bytes are noticed wherever they lie.
    for place in range(content.index(good["optimizers"].numpy().tobytes()), len(content), 400)[:3]:
        flipped = bytearray(content)
        flipped[place] ^= 1
        bad.write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError, match=r"b\.pt is damaged or cut short; use another checkpoint"):
            ckpt.load(bad)


def test_prune_keeps_the_newest_and_what_is_protected(tmp_path) -> None:
    paths = [tmp_path / f"lr-step-{step:06d}.pt" for step in (1, 20, 3, 4, 5)]
    for path in paths:
        ckpt.save(path, _checkpoint())
    paths[0].write_bytes(paths[0].read_bytes()[:-50])  # damaged: left
    ckpt.save(tmp_path / "best.pt", _checkpoint())
    ckpt.protect(paths[2], "a run started from it")
    ckpt.prune(tmp_path, 0)
    assert len(list(tmp_path.glob("*.pt"))) == 6
    ckpt.prune(tmp_path, 2)
    kept = ["best.pt", "lr-step-000001.pt", "lr-step-000003.pt", "lr-step-000005.pt", "lr-step-000020.pt"]
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == kept
    ckpt.unprotect(paths[2])
    ckpt.prune(tmp_path, 2)
    assert not paths[2].exists()
