"""The command line, and what an imported checkpoint then does: sample, upscale, bundle, train on, be evaluated."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lvgan import checkpoint as ckpt
from lvgan.cli import app, commands  # noqa: F401  (registers)
from lvgan.errors import CheckpointError, ConfigError, LvganError
from lvgan.models.lr_discriminator import LrDiscriminator
from tests.official.published import dumps, published_lr_discriminator, published_lr_generator, tree
from tests.official.test_importing import FOOTPRINTS, small_lr


def lvgan(*arguments: object) -> str:
    """Run a command; its output, or the error that the user would read."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, LvganError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: Any) -> Path:
    """``lr.pkl``, a snapshot, and ``sr.pkl``, a generator: 9x16 -> 36x64."""
    folder = tmp_path_factory.mktemp("published files")
    file = golden("sres_generator_36x64_9x16")
    judge = LrDiscriminator(8, 9, 16, stem=4, widths=(6, 8), head=8)
    snapshot = {"G_ema": published_lr_generator(small_lr(), FOOTPRINTS), "D": published_lr_discriminator(judge)}
    (folder / "lr.pkl").write_bytes(dumps({**snapshot, "G": published_lr_generator(small_lr(seed=1), FOOTPRINTS)}))
    (folder / "sr.pkl").write_bytes(dumps(tree("VideoGenerator", file.group("state"), {"": file.call})))
    return folder


@pytest.fixture(scope="module")
def imported(folder: Path) -> tuple[Path, Path]:
    for stage in ("lr", "sr"):
        lvgan("import-official", folder / f"{stage}.pkl", "-o", folder / f"{stage}.pt")
    return folder / "lr.pt", folder / "sr.pt"


def test_import_with_a_look(folder: Path, tmp_path: Path) -> None:
    for stage, size in (("lr", (2 * 9, 8 * 16)), ("sr", (2 * 36, 2 * 64))):
        said = lvgan("import-official", folder / f"{stage}.pkl", "-o", tmp_path / f"{stage}.pt", "--verify")
        picture = tmp_path / f"{stage}-preview.png"
        assert f"preview: {picture}" in said
        with Image.open(picture) as opened:
            assert opened.size == size[::-1]
        assert hashlib.sha256((folder / f"{stage}.pkl").read_bytes()).hexdigest() in said
        assert "licence: The weights in this file were published by others" in said
        assert "standard deviation 0." in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lr-preview.png", "lr.pt", "sr-preview.png", "sr.pt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda t: t["to_rgb.bias"].fill_(float("nan")), "has weights that are no numbers"),
        (lambda t: t["to_rgb.bias"].fill_(100), "gives values that are out of range"),
        (lambda t: (t["to_rgb.weight"].zero_(), t["to_rgb.bias"].zero_()), "gives values that are constant"),
        (
            lambda t: [v.zero_() for k, v in t.items() if k.endswith("weight") and ("affine" in k or "w_to" in k)],
            "gives values that are the same whatever goes in",
        ),
    ],
)
def test_a_look_finds_what_is_broken(tmp_path: Path, break_it: Any, message: str) -> None:
    network = published_lr_generator(small_lr(), FOOTPRINTS)
    with torch.no_grad():
        break_it(dict(network.named_parameters()))
    (tmp_path / "x.pkl").write_bytes(dumps(network))
    with pytest.raises(CheckpointError, match=message):
        lvgan("import-official", tmp_path / "x.pkl", "-o", tmp_path / "x.pt", "--verify")
    assert not (tmp_path / "x.pt").exists()


def test_output_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    for name in ("x.pkl", "x", ""):
        with pytest.raises(ConfigError, match=r"a file of its own that ends in \.pt was expected"):
            lvgan("import-official", folder / "lr.pkl", "-o", tmp_path / name)
    with pytest.raises(CheckpointError, match="No such file"):
        lvgan("import-official", folder / "none.pkl", "-o", tmp_path / "x.pt")


def test_sampling_upscaling_and_bundling(imported: tuple[Path, Path], tmp_path: Path) -> None:
    lr, sr = imported
    lvgan("sample", lr, "-n", 70, "-o", tmp_path / "low.mp4")
    lvgan("upscale", tmp_path / "low.mp4", sr, "-o", tmp_path / "high.npy")
    assert np.load(tmp_path / "high.npy").shape == (70, 36, 64, 3)
    lvgan("bundle", lr, sr, "-o", tmp_path / "both.pt")
    lvgan("sample", tmp_path / "both.pt", "-n", 3, "-o", tmp_path / "v.npy")
    lvgan("sample", lr, "--sr", sr, "-n", 3, "-o", tmp_path / "w.npy")
    assert np.array_equal(np.load(tmp_path / "v.npy"), np.load(tmp_path / "w.npy"))
    published_data(tmp_path / "set", frames=40)
    lvgan("eval", "color-sim", lr, tmp_path / "set", "--clips", 2, "--frames", 32, "-o", tmp_path / "eval")
    assert json.loads((tmp_path / "eval" / "color-sim.json").read_text())
    said = lvgan("inspect", lr)
    assert "a low-resolution checkpoint" in said
    assert "discriminator" in said


def published_data(root: Path, frames: int = 12) -> Path:
    """Shards as they are published: ``HHHHxWWWW/partition_000N.zip``, JPEG, quality 100, 4:4:4, no manifest."""
    rng = np.random.default_rng(0)
    for height, width in ((36, 64), (9, 16)):
        folder = root / f"{height:04d}x{width:04d}"
        folder.mkdir(parents=True)
        for partition in range(2):
            names = [f"frame_{index:06d}.jpg" for index in range(frames)]
            with zipfile.ZipFile(folder / f"partition_{partition:04d}.zip", "w", zipfile.ZIP_STORED) as archive:
                for name in names:
                    picture = io.BytesIO()
                    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(picture, "JPEG", quality=100, subsampling=0)
                    archive.writestr(f"ride_{partition}/{name}", picture.getvalue())
                archive.writestr("frame_paths.json", json.dumps({f"ride_{partition}": names}))
    return root


def test_training_on_published_data_from_published_weights(
    imported: tuple[Path, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the flags that the import itself advises."""
    monkeypatch.chdir(tmp_path)
    data = published_data(tmp_path / "datasets" / "horseback")
    said = lvgan("import-official", folder / "lr.pkl", "-o", tmp_path / "lr.pt")
    advice = next(line for line in said.splitlines() if line.startswith("or train on: lvgan train-lr DATA "))
    flags = shlex.split(advice.removeprefix("or train on: lvgan train-lr DATA "))
    few = ("--steps", 1, "--batch", 2, "--set", "training.metric_clips=0", "--device", "cpu")
    said = lvgan("train-lr", "datasets/horseback", "--lr", "9x16", *flags, *few)
    (line,) = (line for line in said.splitlines() if line.startswith("starting from "))
    assert re.search(r"took (\d+) of \1 tensors of the generator and (\d+) of \2 tensors of the discriminator$", line)
    trained = ckpt.load(ckpt.find(tmp_path / "runs" / "lr-0001"), "lr")
    assert trained["step"] == 1
    record = trained["provenance"]
    assert record["published"]["sha256"] == hashlib.sha256((folder / "lr.pkl").read_bytes()).hexdigest()
    assert "read the terms" in record["licence"]
    assert data.is_dir()


def test_published_data_trains_as_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    published_data(tmp_path / "datasets" / "horseback", frames=40)
    few = ("--steps", 1, "--batch", 2, "--preset", "tiny", "--set", "training.metric_clips=0", "--device", "cpu")
    lvgan("train-lr", "datasets/horseback", "--lr", "36x64", *few)
    stored = ckpt.load(ckpt.find(tmp_path / "runs" / "lr-0001"), "lr")
    assert stored["config"]["data"]["lr"] == "36x64"


def test_nothing_that_was_there_is_lost(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "my own.pt"
    preview = tmp_path / "my own-preview.png"
    for there in (out, preview):
        there.write_text("mine")
        with pytest.raises(ConfigError, match=r"exists already; .* --overwrite"):
            lvgan("import-official", folder / "lr.pkl", "-o", out, "--verify")
        assert there.read_text() == "mine"
        there.unlink()
    assert f"lvgan sample '{out}' -n" in lvgan("import-official", folder / "lr.pkl", "-o", out)
    lvgan("import-official", folder / "lr.pkl", "-o", out, "--overwrite")
    other = tmp_path / "same.pt"
    other.hardlink_to(folder / "sr.pkl")
    with pytest.raises(ConfigError, match="is what is read, and would be lost"):
        lvgan("import-official", folder / "sr.pkl", "-o", other, "--overwrite")


def test_no_result_takes_the_place_of_its_source(folder: Path, tmp_path: Path) -> None:
    for stage in ("lr", "sr"):
        lvgan("import-official", folder / f"{stage}.pkl", "-o", tmp_path / f"{stage}.pt")
    (tmp_path / "link.pt").symlink_to("sr.pt")
    before = {path: path.read_bytes() for path in tmp_path.glob("?r.pt")}
    pair = (tmp_path / "lr.pt", tmp_path / "link.pt")
    for out in (*pair, tmp_path / "sr.pt"):
        with pytest.raises(ConfigError, match="is what is read, and would be lost"):
            lvgan("bundle", *pair, "-o", out, "--overwrite")
    with pytest.raises(ConfigError, match="is what is read, and would be lost"):
        lvgan("export", pair[0], "--format", "safetensors", "-o", pair[0], "--overwrite")
    assert before == {path: path.read_bytes() for path in before}
