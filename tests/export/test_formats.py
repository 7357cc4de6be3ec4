"""Exported files do what our networks do, without lvgan; and nothing is left where one does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import lvgan as library
from lvgan import checkpoint as ckpt
from lvgan.cli import Interrupted
from lvgan.errors import CheckpointError, ConfigError, DamagedCheckpointError, LvganError, MachineError
from lvgan.export import formats
from lvgan.models.build import generator_of
from lvgan.models.lr_generator import LrGenerator
from tests.export.conftest import lvgan

Exports = tuple[Path, dict[str, str]]


def _inputs(shapes: list[list[int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(77)  # other numbers than the export was checked with
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _ours(checkpoint: Path, inputs: list[Tensor], frames: int) -> Tensor:
    network = generator_of(ckpt.load(checkpoint))
    with torch.inference_mode():
        return network(inputs[0], frames) if isinstance(network, LrGenerator) else network(*inputs)


# What each file takes and gives: written down here, not read from it.
SHAPES = {
    "lr.onnx": (16, [("noise", [1, 8, 999 + 256 + 16])], [1, 3, 16, 16, 16]),
    "sr.onnx": (1, [("z", [1, 32]), ("frames", [1, 3, 9, 16, 16])], [1, 3, 1, 32, 32]),
    "lr.ts": (32, [("noise", [2, 8, 999 + 256 + 32])], [2, 3, 32, 16, 16]),
    "sr.ts": (3, [("z", [2, 32]), ("frames", [2, 3, 11, 16, 16])], [2, 3, 3, 32, 32]),
}


@pytest.mark.parametrize("name", ["lr.onnx", "sr.onnx"])
def test_onnx(exports: Exports, name: str) -> None:
    folder, _ = exports
    frames, inputs, output = SHAPES[name]
    model = onnx.load(str(folder / name))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}  # standard operators
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    assert [(given.name, given.shape) for given in session.get_inputs()] == inputs
    given = _inputs([shape for _, shape in inputs])
    feed = {n: tensor.numpy() for (n, _), tensor in zip(inputs, given, strict=True)}
    made = session.run(["video"], feed)[0]
    expected = _ours(folder / f"{name[:2]}.pt", given, frames).numpy()
    assert list(made.shape) == output
    assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["lr.ts", "sr.ts"])
def test_torchscript_in_a_process_without_lvgan(exports: Exports, tmp_path: Path, name: str) -> None:
    folder, _ = exports
    frames, inputs, output = SHAPES[name]
    given = _inputs([shape for _, shape in inputs])
    torch.save(given, tmp_path / "in.pt")
    code = (
        "import sys; sys.modules['lvgan'] = None\n"  # an import of it fails
        "import torch\n"
        "network = torch.jit.load(sys.argv[1])\n"
        "assert not hasattr(torch.ops.lvgan, 'bias_act')\n"
        "torch.save(network(*torch.load('in.pt')), 'out.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code, folder / name], cwd=tmp_path, check=True, timeout=100)
    made, expected = torch.load(tmp_path / "out.pt"), _ours(folder / f"{name[:2]}.pt", given, frames)
    with zipfile.ZipFile(folder / name) as archive:
        code = b"".join(archive.read(n) for n in archive.namelist() if n.endswith(".py"))
    assert code.count(b"torch.device(") <= 1  # of a scalar: all else follows `map_location`
    assert list(made.shape) == output
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", list(SHAPES))
def test_what_is_printed_is_stored_in_the_file(exports: Exports, name: str) -> None:
    folder, said = exports
    if name.endswith(".onnx"):
        model = onnx.load(str(folder / name))
        text = next(item.value for item in model.metadata_props if item.key == "lvgan")
    else:
        with zipfile.ZipFile(folder / name) as archive:
            text = archive.read(next(n for n in archive.namelist() if n.endswith("/extra/lvgan.json"))).decode()
    record = json.loads(text)
    frames, inputs, output = SHAPES[name]
    assert [(item["name"], item["shape"]) for item in record["inputs"]] == inputs
    assert (record["frames"], record["outputs"][0]["shape"]) == (frames, output)
    assert record["config"]["data"]["lr"] == "16x16"
    shown = lvgan("inspect", folder / name)
    for item in record["inputs"] + record["outputs"]:
        line = f"{item['name']:<7} float32 [{', '.join(map(str, item['shape']))}]  {item['meaning']}; {item['values']}"
        assert line in said[name]
        assert line in shown
    found = re.search(r"largest difference (\S+) \(allowed (\S+)\)", said[name])
    assert found is not None
    assert 0 < float(found[1]) < float(found[2]) / 10
    as_json = json.loads(lvgan("inspect", folder / name, "--json"))
    assert as_json["parts"] == [record]
    assert as_json["bytes"] == (folder / name).stat().st_size


def test_weights_read_back_bit_by_bit_and_make_the_same_video(exports: Exports) -> None:
    folder, _ = exports
    from safetensors import safe_open

    for stage in ("lr", "sr"):
        original = ckpt.load(folder / f"{stage}.pt")
        with safe_open(str(folder / f"{stage}.safetensors"), "pt") as file:
            assert set(file.keys()) == set(original["generator_ema"])
            for name, tensor in original["generator_ema"].items():
                assert torch.equal(file.get_tensor(name), tensor)
            assert json.loads(file.metadata()["config"]) == original["config"]
    theirs = library.load(folder / "lr.safetensors", folder / "sr.safetensors", seed=5)
    ours = library.load(folder / "lr.pt", folder / "sr.pt", seed=5)
    assert np.array_equal(theirs[3:6], ours[3:6])
    assert np.array_equal(library.load(folder / "world.pt", seed=5)[3:6], ours[3:6])


def test_damaged_and_foreign_weight_files(exports: Exports, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    content = (exports[0] / "lr.safetensors").read_bytes()
    path = tmp_path / "x.safetensors"
    for cut in (0, 5, 9, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"x\.safetensors is (empty|not a checkpoint|damaged)"):
            ckpt.load(path)
    flipped = bytearray(content)
    flipped[-1000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(DamagedCheckpointError, match="tensors changed"):
        ckpt.load(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="none that lvgan wrote"):
        ckpt.load(path)
    weights = ckpt.load(exports[0] / "lr.safetensors")["generator_ema"]
    good = {"lvgan_checkpoint": "1", "stage": "lr", "step": "3", "config": "{}", "data": "{}", "versions": "{}"}
    from lvgan.weight_file import digest

    for change in ({"step": "many"}, {"config": "{"}, {"config": "[" * 100_000}, {"lvgan_checkpoint": "99"}, {}):
        save_file(weights, path, {**good, "sha256": digest(weights), **change})
        with pytest.raises(CheckpointError, match=r"metadata that lvgan did not write|version 99|lacks parts"):
            ckpt.load(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("world.pt", "--format", "onnx"), "bundle of two networks"),
        (("world.pt", "--format", "onnx", "--part", "discriminator"), "not discriminators or training state"),
        (("lr.pt", "--format", "onnx", "--part", "sr"), "has no part sr"),
        (("lr.pt", "--format", "tflite"), "--format tflite was given"),
        (("lr.pt", "--format", "onnx", "--frames", "0"), "--frames 0 was given"),
        (("sr.pt", "--format", "torchscript", "--batch", "-1"), "--batch -1 was given"),
        (("sr.pt", "--format", "onnx", "--frames", "1000000"), "--frames 1000000 was given"),
        (("lr.pt", "--format", "onnx", "--frames", "17"), "give --frames 32"),
        (("lr.pt", "--format", "safetensors", "--batch", "2"), "leave them out"),
        (("none.pt", "--format", "onnx"), "there is no checkpoint"),
        (("lr.onnx", "--format", "onnx"), "ONNX file"),
        (("lr.ts", "--format", "onnx"), "TorchScript file"),
    ],
)
def test_refusals(exports: Exports, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    source, *options = arguments
    with pytest.raises(LvganError, match=re.escape(words)):
        lvgan("export", exports[0] / source, *options, "-o", tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_where_a_file_cannot_go(exports: Exports, tmp_path: Path) -> None:
    sr = exports[0] / "sr.pt"
    old = tmp_path / "old.safetensors"
    old.write_text("precious")
    with pytest.raises(ConfigError, match=r"exists already; .* --overwrite"):
        lvgan("export", sr, "--format", "safetensors", "-o", old)
    with pytest.raises(ConfigError, match="is a folder"):
        lvgan("export", sr, "--format", "safetensors", "-o", tmp_path)
    with pytest.raises(MachineError, match="cannot be written"):
        lvgan("export", sr, "--format", "safetensors", "-o", old / "below.safetensors")
    assert old.read_text() == "precious"
    lvgan("export", sr, "--format", "safetensors", "-o", old, "--overwrite")
    assert ckpt.load(old)["stage"] == "sr"
    assert os.listdir(tmp_path) == ["old.safetensors"]


@pytest.mark.parametrize("outcome", ["wrong", "shape", "stopped"])
def test_what_does_not_pass_its_check_is_not_put_in_place(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    run = formats.run_onnx
    seen = []

    def bent(path: Path, examples: list[tuple[Tensor, ...]]) -> list[np.ndarray]:
        seen.append(path)
        made = run(path, examples)
        if outcome == "stopped":
            raise Interrupted(15)
        return [m + 1e-3 * m.max() for m in made] if outcome == "wrong" else [m[:, :, :, 1:] for m in made]

    monkeypatch.setattr(formats, "run_onnx", bent)
    monkeypatch.setattr(formats, "_onnx", lambda what: (exports[0] / "sr.onnx").read_bytes())
    old = tmp_path / "sr.onnx"
    old.write_text("precious")
    words = {"wrong": "differs from the network by", "shape": "another shape", "stopped": "15"}[outcome]
    with pytest.raises((CheckpointError, Interrupted), match=words):
        lvgan("export", exports[0] / "sr.pt", "--format", "onnx", "-o", old, "--force")
    assert len(seen) == 1
    assert seen[0].parent == tmp_path
    assert seen[0] != old
    assert os.listdir(tmp_path) == ["sr.onnx"]
    assert old.read_text() == "precious"


def test_networks_that_make_no_numbers(exports: Exports, tmp_path: Path) -> None:
    broken = ckpt.load(exports[0] / "sr.pt")
    broken["generator_ema"]["layers.0.bias"][0] = float("nan")
    ckpt.save(tmp_path / "nan.pt", broken)
    with pytest.raises(CheckpointError, match="not finite"):
        lvgan("export", tmp_path / "nan.pt", "--format", "torchscript", "-o", tmp_path / "x.ts")
    assert os.listdir(tmp_path) == ["nan.pt"]


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxruntime"), ("safetensors", "safetensors.torch")])
def test_a_missing_package_is_one_sentence(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == package else "found")
    with pytest.raises(MachineError, match=r"pip install 'lvgan\[export\]'"):
        lvgan("export", exports[0] / "sr.pt", "--format", kind, "-o", tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_a_full_disk(exports: Exports, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "none", str(disk)]).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        for kind in ("safetensors", "torchscript"):
            with pytest.raises(MachineError, match="disk is full"):
                lvgan("export", exports[0] / "sr.pt", "--format", kind, "-o", disk / "x")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_large_frames_and_fixed_sizes(tmp_path: Path) -> None:
    """From 48x48 on, frames are filtered rather than multiplied."""
    from lvgan import config as cfg
    from lvgan.models import build

    torch.manual_seed(0)
    config = cfg.build("lr", cfg.merge(cfg.load_preset("tiny", "lr"), {"data": {"lr": "50x66"}}))
    assert isinstance(config, cfg.LrConfig)
    weights = build.lr_generator(config).state_dict()
    part = ckpt.new_checkpoint("lr", step=1, config=cfg.to_dict(config), generator_ema=weights, data={})
    for kind in ("onnx", "torchscript"):
        made = formats.export(part, "large", tmp_path / kind, kind, frames=16)
        assert made.record["outputs"][0]["shape"] == (1, 3, 16, 50, 66)
        assert made.difference < 1e-5 * made.largest
    graph = onnx.load(str(tmp_path / "onnx")).graph
    assert not {"If", "Loop"} & {node.op_type for node in graph.node}
    for given in (*graph.input, *graph.output):
        assert all(side.dim_value > 0 for side in given.type.tensor_type.shape.dim)


def test_grey_video(tmp_path: Path) -> None:
    from lvgan import config as cfg
    from lvgan.models import build

    torch.manual_seed(0)
    sizes = {"data": {"lr": "12x20", "hr": "24x40", "channels": 1, "context": 1}}
    config = cfg.build("sr", cfg.merge(cfg.load_preset("tiny", "sr"), sizes))
    assert isinstance(config, cfg.SrConfig)
    weights = build.sr_generator(config).state_dict()
    part = ckpt.new_checkpoint("sr", step=1, config=cfg.to_dict(config), generator_ema=weights, data={})
    made = formats.export(part, "grey", tmp_path / "grey.onnx", "onnx", frames=2)
    assert made.record["inputs"][1]["shape"] == (1, 1, 4, 12, 20)
    assert made.record["outputs"][0]["shape"] == (1, 1, 2, 24, 40)
    assert made.difference < 1e-5 * made.largest


def test_more_clips_than_memory_holds(exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.Exportable, "examples", lambda self, seed: (torch.empty(1 << 50),))  # 4 PB
    out = tmp_path / "x.ts"
    with pytest.raises(MachineError, match="3 clips of 2 frames at once do not fit into memory"):
        formats.export(ckpt.load(exports[0] / "sr.pt"), "sr.pt", out, "torchscript", batch=3, frames=2)
    assert not list(tmp_path.iterdir())
