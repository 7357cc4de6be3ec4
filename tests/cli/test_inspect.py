"""``lvgan inspect``, and bundles wherever a checkpoint is expected."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lvgan as library
from lvgan import checkpoint as ckpt
from lvgan.cli import app, commands  # noqa: F401
from lvgan.data.footage import write_footage
from lvgan.errors import CheckpointError, ConfigError
from tests import checkpoints

REMINDER = "Published by others, for research only."
ORIGIN = {"source": "published pickle", "file": "horseback_lres.pkl", "sha256": "ab" * 32}


def lvgan(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lr.pt with the marks of an import, sr.pt with training state, and world.pt, a bundle."""
    monkeypatch.chdir(tmp_path)
    checkpoints.make(tmp_path)
    lr, sr = ckpt.load(Path("lr.pt")), ckpt.load(Path("sr.pt"))
    ckpt.save(Path("lr.pt"), {**lr, "provenance": ORIGIN, "licence": REMINDER})
    state = {"discriminator": {"w": torch.ones(3, 4)}, "optimizers": [{}], "ada": {"p": 0.25}, "loop": {"health": 1}}
    ckpt.save(Path("sr.pt"), {**sr, "step": 70, "data": {"fingerprint": "f" * 64}, **state})
    lvgan("bundle", "lr.pt", "sr.pt", "-o", "world.pt")
    return tmp_path


def test_text(folder: Path) -> None:
    said = lvgan("inspect", "lr.pt")
    assert "lr.pt: a low-resolution checkpoint, 1.2 MB" in said
    for line in ("provenance     source: published pickle", "provenance     file: horseback_lres.pkl",
                 f"licence        {REMINDER}", "generator      303,822 values",
                 "frames         16x16, 3 channels"):  # fmt: skip
        assert f"\n  {line}" in said
    said = lvgan("inspect", "sr.pt")
    for line in ("step           70 of 240", "frames         16x16 -> 32x32", "discriminator  12 values",
                 "augmentation   p = 0.2500", "training       holds discriminator, optimizers, ada, loop",
                 "data           unknown (ffffffffffff)"):  # fmt: skip
        assert f"\n  {line}" in said
    assert "licence" not in said
    said = lvgan("inspect", "world.pt")
    assert "a bundle of both networks" in said
    assert said.count("training       the averaged generator only") == 2
    assert said.count(REMINDER) == 1


def test_json(folder: Path) -> None:
    found = json.loads(lvgan("inspect", "world.pt", "--json"))
    assert (found["kind"], found["format"], found["path"]) == ("a bundle of both networks", "pt", "world.pt")
    assert found["bytes"] == Path("world.pt").stat().st_size
    lr, sr = found["parts"]
    assert (lr["stage"], sr["stage"], lr["lr"], sr["hr"]) == ("lr", "sr", "16x16", "32x32")
    assert (lr["provenance"], lr["licence"], sr["licence"]) == (ORIGIN, REMINDER, "")
    assert (sr["step"], sr["training_state"], sr["discriminator_values"]) == (70, [], None)
    one = json.loads(lvgan("inspect", "sr.pt", "--json"))["parts"][0]
    assert one["training_state"] == ["discriminator", "optimizers", "ada", "loop"]
    assert (one["augmentation"], one["discriminator_values"]) == (0.25, 12)
    assert one["generator_values"] == sum(t.numel() for t in ckpt.load(Path("sr.pt"))["generator_ema"].values())


def test_marks_travel_through_weight_files_and_runs_that_started_from_them(folder: Path) -> None:
    lvgan("export", "world.pt", "--part", "lr", "--format", "safetensors", "-o", "lr.safetensors")
    found = json.loads(lvgan("inspect", "lr.safetensors", "--json"))
    assert found["format"] == "safetensors"
    assert (found["parts"][0]["provenance"], found["parts"][0]["licence"]) == (ORIGIN, REMINDER)
    tuned = ckpt.load(Path("sr.pt"))
    tuned["provenance"] = {"path": "first.pt", "step": 1, "licence": REMINDER, "published": ORIGIN}
    ckpt.save(Path("tuned.pt"), tuned)
    assert f"licence        {REMINDER}" in lvgan("inspect", "tuned.pt")
    assert ckpt.bundle(ckpt.load(Path("lr.pt")), tuned)["sr"]["licence"] == REMINDER
    said = lvgan("export", "tuned.pt", "--format", "torchscript", "-o", "tuned.ts")
    assert f"licence: {REMINDER}" in said
    assert f"licence        {REMINDER}" in lvgan("inspect", "tuned.ts")


def test_files_of_others(folder: Path) -> None:
    import onnx

    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.save(model, "foreign.onnx")
    Path("text.onnx").write_text("hello")
    Path("empty.onnx").touch()
    for name, words in (
        ("foreign.onnx", "was not exported by lvgan"),
        ("text.onnx", "no ONNX file"),
        ("empty.onnx", "was not exported by lvgan"),
        ("none.onnx", "there is no checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=words):
            lvgan("inspect", name)


def test_a_bundle_is_not_written_over_a_file_or_of_a_pair_that_does_not_fit(folder: Path) -> None:
    before = Path("world.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"world\.pt exists already"):
        lvgan("bundle", "lr.pt", "sr.pt", "-o", "world.pt")
    assert Path("world.pt").read_bytes() == before
    lvgan("bundle", "lr.pt", "sr.pt", "-o", "world.pt", "--overwrite")
    names = sorted(os.listdir("."))
    for change, words in (({"lr": "8x16"}, "frames of 16x16, but .* on 8x16"), ({"channels": 1}, "channels: 3, but")):
        other = ckpt.load(Path("sr.pt"))
        other["config"]["data"] |= change
        ckpt.save(Path("other.pt"), other)
        with pytest.raises(CheckpointError, match=words):
            lvgan("bundle", "lr.pt", "other.pt", "-o", "new.pt")
        with pytest.raises(CheckpointError, match=words):
            library.load("lr.pt", "other.pt")
    with pytest.raises(CheckpointError, match="super-resolution checkpoint, but a low-resolution"):
        lvgan("bundle", "sr.pt", "lr.pt", "-o", "new.pt")
    with pytest.raises(CheckpointError, match="a bundle of both networks, but a low-resolution"):
        lvgan("bundle", "world.pt", "sr.pt", "-o", "new.pt")
    assert sorted(os.listdir(".")) == sorted([*names, "other.pt"])


def test_bundles_do_wherever_a_checkpoint_is_expected(folder: Path) -> None:
    expected = library.load("lr.pt", "sr.pt", seed=2)[0:4]
    lvgan("sample", "world.pt", "-n", 4, "--seed", 2, "-o", "made.npy")
    assert np.array_equal(np.load("made.npy"), expected)
    assert np.array_equal(library.load("world.pt", seed=2)[0:4], expected)
    lvgan("hub", "push", "world.pt", "me/world", "--dry-run", "published")  # its folder will do, too
    lvgan("sample", "lr.pt", "-n", 6, "-o", "low.mp4")
    for name in ("sr.pt", "world.pt", "published"):
        lvgan("upscale", "low.mp4", name, "-o", f"{name}.npy")
        assert np.array_equal(np.load(f"{name}.npy"), np.load("sr.pt.npy"))
    found = json.loads(lvgan("inspect", "published", "--json"))
    assert (found["format"], [part["stage"] for part in found["parts"]]) == ("safetensors", ["lr", "sr"])
    said = lvgan("eval", "color-sim", "world.pt", "low.mp4+world.pt", "--clips", 1, "--frames", 6, "-o", "scores")
    assert "world" in said
    write_footage(Path("raw"), videos=1, seconds=2.0, seed=0)
    lvgan("prepare", "raw", "out", "--lr", "16x16", "--hr", "32x32")
    for stage in ("lr", "sr"):
        tiny = ("--preset", "tiny", "--batch", 1, "--steps", 0, "--set", "training.metric_clips=0")
        said = lvgan(f"train-{stage}", "out", *tiny, "--init", "world.pt")
        tensors = len(ckpt.load(Path("world.pt"))[stage]["generator_ema"])
        assert f"took {tensors} of {tensors} tensors of the generator" in said


@pytest.mark.parametrize(
    "wrong",
    [{"provenance": "me"}, {"provenance": torch.zeros(2)}, {"licence": 5}, {"licence": torch.zeros(2)},
     {"generator_ema": {"x": 1}}],
    ids=str,
)  # fmt: skip
def test_parts_of_another_kind(folder: Path, wrong: dict[str, object]) -> None:
    ckpt.save(Path("odd.pt"), {**ckpt.load(Path("lr.pt")), **wrong})
    with pytest.raises(CheckpointError, match="lacks parts of a checkpoint"):
        lvgan("inspect", "odd.pt")


def test_what_a_file_says_forges_no_lines(folder: Path) -> None:
    licence = "Mine.\n  licence        Public domain \x1b[2J"
    ckpt.save(Path("odd.pt"), {**ckpt.load(Path("lr.pt")), "licence": licence, "provenance": {"a\nb": "c\x07\nd"}})
    said = lvgan("inspect", "odd.pt")
    assert "\n  licence        Mine.   licence        Public domain ?[2J\n  configuration" in said
    assert "\n  provenance     a b: c? d\n" in said
    assert lvgan("export", "odd.pt", "--format", "safetensors", "-o", "odd.safetensors").count("\x1b") == 0


def test_archives_that_unpack_to_more(folder: Path) -> None:
    """A compressed record of 300 MB, as what an export says of itself, and in a checkpoint."""
    for name, message in (("x/extra/lvgan.json", "was not exported by lvgan"), ("x/data.pkl", "compressed inside")):
        with zipfile.ZipFile("odd.pt", "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as record:
            for _ in range(300):
                record.write(bytes(1 << 20))
        tracemalloc.start()
        with pytest.raises(CheckpointError, match=message):
            lvgan("inspect", "odd.pt")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        tracemalloc.stop()


def test_records_of_exports_that_lack_something(folder: Path) -> None:
    noise = {"name": "noise", "shape": [1], "values": "any", "meaning": "noise"}
    record: dict[str, object] = {"format": "lvgan-export", "stage": "lr", "step": 1, "batch": 1, "frames": 8}
    record |= {"fps": 30, "versions": {}, "outputs": [], "inputs": [noise]}

    def write(value: object) -> None:
        with zipfile.ZipFile("x.ts", "w") as archive:
            archive.writestr("x/extra/lvgan.json", json.dumps(value))

    write(record)
    assert "input  noise   float32 [1]  noise; any" in lvgan("inspect", "x.ts")
    odd = [{k: v for k, v in record.items() if k != key} for key in record]
    odd += [{**record, key: value} for key in record for value in (None, "x", [1])]
    odd += [{**record, "provenance": 5}, {**record, "inputs": [{**noise, "shape": 3}]}]
    for value in odd:
        write(value)
        with pytest.raises(CheckpointError, match="was not exported by lvgan"):
            lvgan("inspect", "x.ts")
