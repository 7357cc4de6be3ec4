"""Operands of `lvgan eval`: how they are read, what is opened, and at which size."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lvgan.errors import CheckpointError, ConfigError, DataError
from lvgan.evaluation.models import ModelSource, UpscaledSource
from lvgan.evaluation.operands import Operand, is_checkpoint, native_size, open_operands, parse_all
from lvgan.evaluation.protocol import describe
from lvgan.evaluation.sources import ClipSource, ShardSource, VideoSource
from lvgan.sizes import Size
from tests import checkpoints
from tests.clips import make_video
from tests.evaluation.test_sources import stamped, write_frames, write_shards

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards (16x16, 32x32), both networks, runs, a video, frames."""
    folder = tmp_path_factory.mktemp("operands")
    write_shards(folder / "out", [12, 14], ((16, 16), (32, 32)))
    lr, sr = checkpoints.make(folder)
    for stage, file in (("lr", lr), ("sr", sr)):
        checkpoint = folder / "runs" / f"{stage}-0001" / "checkpoints"
        checkpoint.mkdir(parents=True)
        shutil.copy(file, checkpoint / f"{stage}-step-000000.pt")
    make_video(folder / "videos" / "a b.mp4", size="64x48", frames=20)
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    write_frames(folder / "frames" / "v", stamped(1, 12, 40, 60))
    return folder


def opened(place: Path, *texts: str, size: Size | None = None) -> list[ClipSource]:
    return open_operands([text.replace("@", f"{place}/") for text in texts], CPU, size)


def first_clip(source: ClipSource, frames: int = 3) -> np.ndarray:
    return next(source.clips(2, frames, 0))


def test_operands_are_taken_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "k=1.mp4").touch()
    (place / "a+b").mkdir(exist_ok=True)
    texts = ["out", "real=out", "lr.pt+sr.pt", "x=out+runs/sr-0001", "k=1.mp4", "a+b", "a+b+sr.pt", "n=k=1.mp4"]
    found = {text: Operand.parse(text) for text in [*texts, "gone+sr.pt"]}
    assert {text: (op.label, str(op.what), op.sr and str(op.sr), op.is_model) for text, op in found.items()} == {
        "out": ("out", "out", None, False),
        "real=out": ("real", "out", None, False),
        "lr.pt+sr.pt": ("lr + sr", "lr.pt", "sr.pt", True),
        "x=out+runs/sr-0001": ("x", "out", "runs/sr-0001", True),
        "k=1.mp4": ("k=1", "k=1.mp4", None, False),
        "a+b": ("a+b", "a+b", None, False),
        "a+b+sr.pt": ("a+b + sr", "a+b", "sr.pt", True),
        "n=k=1.mp4": ("n", "k=1.mp4", None, False),
        "gone+sr.pt": ("gone + sr", "gone", "sr.pt", True),
    }
    assert [is_checkpoint(Path(name)) for name in ("runs", "runs/lr-0001", "lr.pt", "out", "videos", "frames")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_labels_differ() -> None:
    assert [op.label for op in parse_all(["a/v.mp4", "b/v.mp4", "x=c"])] == ["a/v.mp4", "b/v.mp4", "x"]
    for texts in (["x=a", "x=b"], ["a", "a"]):
        with pytest.raises(ConfigError, match="2 operands are called"):
            parse_all(texts)


@pytest.mark.parametrize("text", ["", "+", "a+", "+b", "x="])
def test_operands_without_a_path_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="was expected"):
        parse_all([text])
    with pytest.raises(ConfigError, match="nothing to measure"):
        parse_all([])


def test_every_kind_comes_at_the_size_of_the_smallest_network(place: Path) -> None:
    texts = ["@out", "@runs/lr-0001", "@lr.pt+@sr.pt", "@runs", "sr=@out+@sr.pt", "v=@videos+@runs/sr-0001"]
    sources = opened(place, *texts, "@videos", "f=@frames", "high=@out/0032x0032")
    assert [type(source) for source in sources[:6]] == [ShardSource, *[ModelSource] * 3, *[UpscaledSource] * 2]
    assert isinstance(sources[6], VideoSource)
    for source in sources:
        assert first_clip(source).shape == (3, 16, 16, 3), source.label
        record = describe(source)
        assert record["size"] == "16x16"
        assert record["fingerprint"].startswith("sha256:")
    natives = ["16x16", "16x16", "32x32", "32x32", "32x32", "32x32", "48x64", "40x60", "32x32"]
    assert [describe(source)["native_size"] for source in sources] == natives
    assert describe(sources[6])["codecs"] == ["h264"]
    assert describe(sources[4])["input"]["kind"] == "shards"


def test_the_pair_of_a_folder_of_runs_is_the_pair_of_its_files(place: Path) -> None:
    runs, pair = opened(place, "@runs", "@lr.pt+@sr.pt")
    assert native_size(runs) == Size(32, 32)
    np.testing.assert_array_equal(first_clip(runs), first_clip(pair))
    assert describe(runs)["fingerprint"] == describe(pair)["fingerprint"]


def test_networks_are_resized_as_pillow_does(place: Path) -> None:
    (whole,) = opened(place, "@lr.pt+@sr.pt")
    (fitted,) = opened(place, "@lr.pt+@sr.pt", size=Size(8, 16))
    for native, frame in zip(first_clip(whole), first_clip(fitted), strict=True):
        expected = Image.fromarray(native[8:24]).resize((16, 8), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(frame, np.asarray(expected))


def test_without_networks_the_smallest_source_decides(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = opened(place, "@out", "@videos", "@frames")
    assert {source.size for source in sources} == {Size(32, 32)}  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        (large,) = opened(place, "@out", size=Size(20, 40))
    assert first_clip(large).shape == (3, 20, 40, 3)
    assert "out is 32x32 and is enlarged to 20x40" in caplog.text


def test_super_resolution_of_what_is_named(place: Path) -> None:
    (source,) = opened(place, "x=@out+@sr.pt")
    assert isinstance(source, UpscaledSource)
    assert first_clip(source).shape == (3, 32, 32, 3)
    with pytest.raises(DataError, match="name low-resolution frames, as in SHARDS"):
        opened(place, "@sr.pt")  # its data never was


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        (["@nowhere"], DataError, "nowhere does not exist"),
        (["@out+@nowhere.pt"], DataError, r"nowhere\.pt does not exist"),
        (["@out+@lr.pt"], CheckpointError, "is a low-resolution checkpoint, but a super-resolution one"),
        (["@lr.pt+@out"], CheckpointError, "a folder without checkpoints"),
        (["@videos/broken.mp4"], DataError, r"broken\.mp4"),
        (["@out+@videos/broken.mp4"], CheckpointError, r"broken\.mp4"),
    ],
)
def test_what_cannot_be_opened_is_told(place: Path, texts: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        opened(place, *texts)
