"""Published-form pickles, written here, become checkpoints that compute the same."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lvgan import checkpoint as ckpt
from lvgan.errors import CheckpointError
from lvgan.models import build
from lvgan.models.lr_discriminator import LrDiscriminator
from lvgan.models.lr_generator import BlockSpec, LrGenerator
from lvgan.models.noise import frame_noise
from lvgan.official.importing import import_file
from tests.helpers import assert_close_to_max
from tests.official.published import (
    EasyDict,
    Published,
    dumps,
    lr_generator_fields,
    lr_generator_tensors,
    published_lr_discriminator,
    published_lr_generator,
    published_modules,
    tree,
)

FOOTPRINTS = (12.5, 40)
BLOCKS = tuple(BlockSpec.parse(text) for text in ("12 t", "12 t s", "10 t s", "8", "6 1x3x3 s", "6 1x3x3"))


def small_lr(height: int = 9, width: int = 16, seed: int = 0) -> LrGenerator:
    torch.manual_seed(seed)
    network = LrGenerator(
        height, width, noise_channels=3, filters=5, footprint_min=FOOTPRINTS[0], footprint_max=FOOTPRINTS[1],
        latent=16, input_channels=12, blocks=BLOCKS,
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "bias" in name or "mean_square" in name:  # nothing that a default could replace
                tensor.add_(torch.rand(tensor.shape) * 0.3)
    return network


def write(folder: Path, value: Any, protocol: int = 4) -> Path:
    path = folder / "net.pkl"
    path.write_bytes(dumps(value, protocol))
    return path


def video(network: LrGenerator, frames: int = 11) -> Tensor:
    before, after = network.noise_margin(frames)
    with torch.no_grad():
        return network(frame_noise(3, -before, before + frames + after, network.noise_channels)[None], frames)


@pytest.mark.parametrize("protocol", range(6))
def test_a_low_resolution_generator_alone(tmp_path: Path, protocol: int) -> None:
    network = small_lr()
    checkpoint = import_file(write(tmp_path, published_lr_generator(network, FOOTPRINTS), protocol))
    imported = build.generator_of(checkpoint)
    assert isinstance(imported, LrGenerator)
    assert (imported.size, imported.specs) == (network.size, network.specs)
    assert_close_to_max(video(imported), video(network))
    assert checkpoint["config"]["model"]["generator"]["footprint_min"] == 12.5
    assert "LVGAN_SOURCE_RAN" not in os.environ


def test_settings_that_only_tensors_give(tmp_path: Path) -> None:
    """Without the filters' rates; the size is stated by a block in the middle."""
    torch.manual_seed(0)
    blocks = tuple(BlockSpec.parse(text) for text in ("4 t", "4 1x3x3 s", "4 1x3x3"))
    small = {"filters": 3, "footprint_min": 9, "footprint_max": 30, "latent": 4, "input_channels": 4}
    network = LrGenerator(7, 10, blocks=blocks, **small)  # type: ignore[arg-type]
    fields = {"spatial_layers.0": {"out_height": 7, "out_width": 10}}
    path = write(tmp_path, tree("G", lr_generator_tensors(network), fields))
    imported = build.generator_of(import_file(path))
    assert_close_to_max(video(imported), video(network))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["64_16", "36x64_9x16", "fourfeats"])
def test_a_super_resolution_generator_gives_the_reference_output(golden: Any, tmp_path: Path, name: str) -> None:
    file = golden(f"sres_generator_{name}")
    tensors = {f"SG3.{key}": value for key, value in file.group("state").items()}  # as in the full-size files
    whole = {"G_ema": tree("VideoGenerator", tensors, {"": file.call, "SG3": {"channel_base": 512}})}
    checkpoint = import_file(write(tmp_path, EasyDict(whole)))
    network = build.generator_of(checkpoint)
    with torch.no_grad():
        assert_close_to_max(network(file.tensors["in/z"], file.tensors["in/cond"]), file.tensors["out/y"])
    data, call = checkpoint["config"]["data"], file.call
    assert data["hr"] == f"{call['img_height']}x{call['img_width']}"
    assert data["lr"] == f"{call['cond_height']}x{call['cond_width']}"
    assert data["context"] == call["cond_context"]
    assert checkpoint["config"]["model"]["generator"]["fourier"] is (name == "fourfeats")


@pytest.mark.parametrize("name", ["64_16", "36x64_9x16"])
def test_a_super_resolution_snapshot(golden: Any, tmp_path: Path, name: str) -> None:
    g, d = golden(f"sres_generator_{name}"), golden(f"sresD_{name}")
    raw = {key: value + 0.5 if key.endswith("bias") else value for key, value in g.group("state").items()}
    snapshot = {
        "G": tree("VideoGenerator", raw, {"": g.call}),
        "D": tree("VideoDiscriminator", d.group("state"), {"": d.call}),
        "G_ema": tree("VideoGenerator", g.group("state"), {"": g.call}),
        "augment_pipe": tree("AugmentPipe", {"p": torch.tensor(0.25)}),
    }
    path = write(tmp_path, snapshot)
    checkpoint = import_file(path)
    ckpt.save(tmp_path / "sr.pt", checkpoint)
    loaded = ckpt.load(tmp_path / "sr.pt", "sr")
    config = build.cfg.build("sr", loaded["config"])
    judge = build.sr_discriminator(config)  # type: ignore[arg-type]
    build.load_weights(judge, loaded["discriminator"], "it")
    with torch.no_grad():
        assert_close_to_max(judge(d.tensors["in/lr"], d.tensors["in/hr"]), d.tensors["out/logits"])
    assert torch.equal(loaded["generator"]["layers.0.bias"], loaded["generator_ema"]["layers.0.bias"] + 0.5)
    assert loaded["provenance"]["networks"] == {
        "generator_ema": "VideoGenerator", "generator": "VideoGenerator", "discriminator": "VideoDiscriminator",
    }  # fmt: skip
    assert "horseback riding is for non-commercial research only" in loaded["licence"]


def snapshot_of(network: LrGenerator, judge: LrDiscriminator) -> dict[str, Any]:
    """All that a training snapshot may hold."""
    optimizer = torch.optim.Adam(network.parameters())
    video(network).sum()
    network.constant.grad = torch.ones_like(network.constant)
    optimizer.step()
    return {
        "training_set_kwargs": EasyDict(path="data", height=9, width=16, mean=np.float32(0.5), edges=np.arange(6.0)),
        "G": published_lr_generator(small_lr(seed=1), FOOTPRINTS),
        "D": published_lr_discriminator(judge),
        "G_ema": published_lr_generator(network, FOOTPRINTS),
        "G_opt_state": optimizer.state_dict(),
        "G_opt": optimizer,
        "step": 1200,
        "none": None,
        "device": torch.device("cpu"),
        "others": [slice(1, 4), complex(1, 2), {"a", 1}, frozenset(("b",)), bytearray(b"12")],
        "ordered": OrderedDict(a=torch.Size([1])),
    }


def test_a_low_resolution_snapshot(tmp_path: Path) -> None:
    network = small_lr()
    judge = LrDiscriminator(16, 9, 16, stem=4, widths=(6, 8), head=8)
    checkpoint = import_file(write(tmp_path, snapshot_of(network, judge)))
    config = build.cfg.build("lr", checkpoint["config"])
    assert isinstance(config, build.cfg.LrConfig)
    assert config.data.frames == 16
    imported = build.lr_discriminator(config)
    build.load_weights(imported, checkpoint["discriminator"], "it")
    clip = torch.randn(2, 3, 16, 9, 16)
    with torch.no_grad():
        assert_close_to_max(imported(clip), judge(clip))
    assert_close_to_max(video(build.generator_of(checkpoint)), video(network))  # type: ignore[arg-type]
    assert checkpoint["step"] == 1200
    raw = build.generator_of({**checkpoint, "generator_ema": checkpoint["generator"]})
    assert_close_to_max(video(raw), video(small_lr(seed=1)))  # type: ignore[arg-type]


class _NewerStorages(pickle.Pickler):
    """Storages within the pickle as ZIP archives, which torch.save writes since 1.6."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return NotImplemented
        archive = io.BytesIO()
        torch.save(value, archive)
        return torch.storage._load_from_bytes, (archive.getvalue(),)


@pytest.mark.parametrize("form", ["a torch file", "storages as archives"])
def test_other_forms_of_storages(tmp_path: Path, form: str) -> None:
    network = small_lr()
    value = {"G_ema": published_lr_generator(network, FOOTPRINTS)}
    with published_modules(), (tmp_path / "net.pkl").open("wb") as file:
        if form == "a torch file":
            torch.save(value, file)
        else:
            _NewerStorages(file, 4).dump(value)
    imported = build.generator_of(import_file(tmp_path / "net.pkl"))
    assert_close_to_max(video(imported), video(network))  # type: ignore[arg-type]


def test_the_names_are_the_published_ones(golden: Any) -> None:
    for size in ((64, 64), (36, 64)):
        table = golden.json("lres_shapes")["{}x{}".format(*size)]
        with torch.device("meta"):
            network = LrGenerator(*size, footprint_min=125)
        network.bank = LrGenerator(8, 8, footprint_min=125, blocks=BLOCKS).bank
        shapes = {name: list(tensor.shape) for name, tensor in lr_generator_tensors(network).items()}
        assert shapes == table["state"]


# --- what does not fit ------------------------------------------------------------------------------


def refused(tmp_path: Path, tensors: dict[str, Tensor], fields: dict[str, Any] | None = None) -> str:
    fields = lr_generator_fields(small_lr(), FOOTPRINTS) if fields is None else fields
    with pytest.raises(CheckpointError) as caught:
        import_file(write(tmp_path, tree("VideoGenerator", tensors, fields)))
    assert str(caught.value).startswith(f"{tmp_path / 'net.pkl'} was refused: ")
    return str(caught.value)


def test_every_tensor_is_used_or_named(tmp_path: Path) -> None:
    tensors = lr_generator_tensors(small_lr())
    message = refused(tmp_path, {**tensors, "temporal_layers.1.bias_2": torch.zeros(4), "extra": torch.zeros(2, 3)})
    assert "left over in the file: extra 2x3, temporal_layers.1.bias_2 4; not found for ours: nothing" in message
    del tensors["to_rgb.affine.bias"]
    message = refused(tmp_path, {**tensors, "to_rgb.affine.biases": torch.zeros(6)})
    assert "left over in the file: to_rgb.affine.biases 6; not found for ours: rgb.affine.bias 6" in message
    tensors = lr_generator_tensors(small_lr())
    tensors["temporal_layers.0.bias_0"] = torch.zeros(5)
    message = refused(tmp_path, tensors)
    assert "file: temporal_layers.0.bias_0 5; not found for ours: blocks.0.bias_0 12" in message


@pytest.mark.parametrize(
    "name",
    [
        "temporal_emb.blur_filters", "temporal_emb.output_scale", "temporal_downsample_latent.filter",
        "temporal_layers.1.spatial_upsample.filter", "temporal_layers.0.temporal_upsample.filter",
    ],
)  # fmt: skip
def test_filters_are_compared(tmp_path: Path, name: str) -> None:
    tensors = lr_generator_tensors(small_lr())
    tensors[name] = tensors[name] * (1 + 1e-6)  # rounding
    import_file(write(tmp_path, tree("G", tensors, lr_generator_fields(small_lr(), FOOTPRINTS))))
    tensors[name] = tensors[name] * 1.001
    assert f"its filter {name} differs from the one here, by 1.0e-03" in refused(tmp_path, tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    tensors = lr_generator_tensors(small_lr())
    name = next(name for name in tensors if name.endswith("weight_0"))
    tensors[name].view(-1)[-1] = value
    assert "has weights that are no numbers" in refused(tmp_path, tensors)


@pytest.mark.parametrize("name", ["synthesis.L3_36_36_16.up_filter", "resamples.9.filter"])
def test_filters_of_super_resolution_are_compared(golden: Any, tmp_path: Path, name: str) -> None:
    file = golden("sres_generator_64_16")
    tensors = file.group("state")
    tensors[name] = tensors[name].flip(0) + torch.arange(len(tensors[name])) * 1e-3
    with pytest.raises(CheckpointError, match=f"its filter {name} differs"):
        import_file(write(tmp_path, tree("VideoGenerator", tensors, {"": file.call})))


def test_settings_that_are_not_ours_are_refused(golden: Any, tmp_path: Path) -> None:
    file = golden("sres_generator_64_16")
    other = tree("VideoGenerator", file.group("state"), {"": {**file.call, "conv_clamp": 128}})
    with pytest.raises(CheckpointError, match="its setting conv_clamp is 128, but networks here have 256"):
        import_file(write(tmp_path, other))
    fields = lr_generator_fields(small_lr(), FOOTPRINTS)
    fields["latent_mapping"] = {"activation": "relu"}
    message = refused(tmp_path, lr_generator_tensors(small_lr()), fields)
    assert "its setting latent_mapping.activation is relu, but networks here have lrelu" in message
    fields = lr_generator_fields(small_lr(), FOOTPRINTS)
    fields["spatial_layers.1"] = {"out_height": 20, "out_width": 16}
    message = refused(tmp_path, lr_generator_tensors(small_lr()), fields)
    assert "does not say the size of its frames, of which the coarsest are 2x2" in message


@pytest.mark.parametrize(
    ("stage", "name", "fields"),
    [
        ("sr", "resamples.x.filter", {}), ("sr", "resamples.9", {}), ("sr", f"synthesis.L{10**4000}_1_1_1.weight", {}),
        ("sr", f"synthesis.L{'9' * 5000}_1_1_1.weight", {}), ("sr", "synthesis.L1.weight", {}),
        ("sr", "synthesis.input.weight", {}), ("sr", "\x1b[31m\nred", {}), ("sr", "x" * 100_000, {}),
        ("sr", "", {"num_critical": 2**80}),
        ("sr", "", {"channel_base": 2**2000}), ("sr", "", {"channel_max": True}),
        ("lr", "temporal_layers.7.weight_0", {}), ("lr", "spatial_layers.0.weight_1", {}), ("lr", "spatial_input", {}),
        ("lr", "latent_mapping.layer_1.weight", {}), ("lr", "temporal_emb.blur_filters", {}),
        ("lr", "", {"min_sampling_rate": float("inf")}), ("lr", "", {"max_sampling_rate": 10**400}),
        ("lr", "", {"min_sampling_rate": float("nan")}), ("lr", "", {"out_height": 2**90, "out_width": 16}),
    ],
)  # fmt: skip
def test_odd_tensors_and_settings(golden: Any, tmp_path: Path, stage: str, name: str, fields: dict[str, Any]) -> None:
    """Each either changes nothing or is refused in one sentence."""
    if stage == "sr":
        file = golden("sres_generator_64_16")
        tensors, call = file.group("state"), {**file.call, **fields}
    else:
        tensors, call = lr_generator_tensors(small_lr()), fields
    tensors = {key: value for key, value in tensors.items() if not (name and key.startswith(name + "."))}
    if name:
        tensors[name] = torch.zeros(())
    others = {} if stage == "sr" else {k: v for k, v in lr_generator_fields(small_lr(), FOOTPRINTS).items() if k}
    path = write(tmp_path, tree("G", tensors, {**others, "": call}))
    message = ""
    try:
        import_file(path)
    except CheckpointError as error:
        message = str(error)
    assert message or not name  # a setting may be without consequence, a tensor is not
    assert message.isprintable()
    assert len(message) < 1200


def test_what_holds_no_generator(tmp_path: Path) -> None:
    judge = published_lr_discriminator(LrDiscriminator(8, 8, 8, stem=4, widths=(4,), head=4))
    for value, message in (
        ({"D": judge, "x": 1}, r"holds no generator of low or super-resolution \(but D, x\)"),
        (judge, "holds no generator"),
        ([1, 2], r"holds no generator of low or super-resolution \(but list\)"),
        (Published("Empty"), "holds no generator"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_file(write(tmp_path, value))
    (tmp_path / "net.pkl").write_bytes(b"")
    with pytest.raises(CheckpointError, match="refused: it is empty"):
        import_file(tmp_path / "net.pkl")
    with pytest.raises(CheckpointError, match=r"cannot read .*none\.pkl: No such file or directory"):
        import_file(tmp_path / "none.pkl")


def test_a_generator_and_a_discriminator_of_two_stages(golden: Any, tmp_path: Path) -> None:
    d = golden("sresD_64_16")
    value = {"G_ema": published_lr_generator(small_lr(), FOOTPRINTS), "D": tree("D", d.group("state"), {"": d.call})}
    with pytest.raises(CheckpointError, match="its D is no discriminator of the same kind as its G_ema"):
        import_file(write(tmp_path, value))


def test_frames_of_any_size_are_not_believed(golden: Any, tmp_path: Path) -> None:
    """The names of layers say the size, and nothing else: 60 KB could ask for frames of 9000x9000."""
    file = golden("sres_generator_64_16")
    last = "synthesis.L14_64_64_3."
    tensors = {name.replace(last, "synthesis.L14_9000_9000_3."): t for name, t in file.group("state").items()}
    with pytest.raises(CheckpointError, match="its frames are 9000x9000 by the names of its layers"):
        import_file(write(tmp_path, tree("VideoGenerator", tensors, {"": file.call})))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="a pipe or a device"):
            import_file(path)
