"""A set in the published layout, exactly as spec 3-data says, trains as downloaded."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lvgan import config as cfg
from lvgan.cli.train import _flags
from lvgan.data.cache import cache_files
from lvgan.errors import ConfigError
from lvgan.sizes import Size
from lvgan.training.session import Request, train_stage
from tests.training.test_tasks import SMALL

LOW, HIGH = Size(8, 16), Size(16, 32)
CLIPS = {  # partition: clip: frames and their names' ending
    0: {"rides/2019/bike ride-01": (30, ".jpg"), "ünï": (9, ".png")},
    7: {"a": (26, ".png"), "z/b": (5, ".jpg")},
    12: {"single": (28, ".jpg")},
}


def picture(size: Size, clip: str, number: int) -> Image.Image:
    """The same scene at every size: a gradient whose colours say clip and frame."""
    y, x = np.meshgrid(np.linspace(0, 1, size.height), np.linspace(0, 1, size.width), indexing="ij")
    scene = np.stack([x, y, np.full_like(x, (len(clip) % 7 + number / 40) / 8)], axis=2)
    return Image.fromarray((255 * scene).round().astype(np.uint8))


def make_published(root: Path) -> Path:
    """Uncompressed partitions, quality 100, 4:4:4, JPEG and PNG, members shuffled, no manifest."""
    for size in (LOW, HIGH):
        folder = root / size.folder()
        folder.mkdir(parents=True)
        for partition, clips in CLIPS.items():
            names = {c: [f"frame_{i:06d}{ending}" for i in range(n)] for c, (n, ending) in clips.items()}
            members = {"frame_paths.json": json.dumps(names).encode()}
            for clip, files in names.items():
                for number, name in enumerate(files):
                    buffer = io.BytesIO()
                    image = picture(size, clip, number)
                    if name.endswith(".jpg"):
                        image.save(buffer, "JPEG", quality=100, subsampling=0)
                    else:
                        image.save(buffer, "PNG")
                    members[f"{clip}/{name}"] = buffer.getvalue()
            order = sorted(members)
            random.Random(partition).shuffle(order)
            with zipfile.ZipFile(folder / f"partition_{partition:04d}.zip", "w", zipfile.ZIP_STORED) as archive:
                for name in order:
                    archive.writestr(name, members[name])
    return root


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return make_published(tmp_path / "set")


def request(stage: str, data: Path, tmp_path: Path, *overrides: str, sampling: str | None = None) -> Request:
    file = tmp_path / f"{stage}.yaml"
    file.write_text(json.dumps({"stage": stage, **SMALL[stage]}))
    flags = _flags({"sampling": sampling}, steps=1)
    return Request(stage, data, "tiny", file, [*overrides, "training.batch=2"], flags)


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_it_trains_a_step(published: Path, tmp_path: Path, stage: str) -> None:
    said: list[str] = []
    run = train_stage(
        request(stage, published, tmp_path), root=tmp_path / "runs", device="cpu", say=said.append, progress=False
    )
    assert run.step == 1
    stored = run.config().data
    assert (stored.lr, stored.hr) == (LOW, HIGH)
    kept = "kept 4 of 5 clips: 1 is shorter" if stage == "lr" else "kept all 5 clips"
    assert any(kept in line for line in said), said
    (cache,) = cache_files(published / LOW.folder())
    frames = np.load(cache)
    assert frames.shape == (98, 3, *LOW)
    expected = np.asarray(picture(LOW, "a", 3)).transpose(2, 0, 1)  # clips lie by name: "a" is the first, as PNG
    assert np.array_equal(frames[3], expected)


def test_settings_reach_the_windows(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    from lvgan.training.lr import LrTask

    original = LrTask.real

    def spy(self: LrTask, step: int) -> tuple[torch.Tensor, ...]:
        found = original(self, step)
        seen.append(found[0])
        assert (self._batches._sampling, self._batches._windows.stride) == ("frame", 3)
        return found

    monkeypatch.setattr(LrTask, "real", spy)
    monkeypatch.setattr(LrTask, "preview", lambda *_: None)
    wanted = request("lr", published, tmp_path, "data.stride=3", "data.frames=8", "data.cache=memory", sampling="frame")
    train_stage(wanted, root=tmp_path / "runs", device="cpu", say=lambda _: None, progress=False)
    # The blue of these clips rises by 1/320 a frame: with the stride, by 3/320.
    rise = (seen[0][:, 2].diff(dim=1) / 2).mean()
    assert rise == pytest.approx(3 / 320, rel=0.2)
    assert cache_files(published / LOW.folder()) == []


def test_settings_are_checked_and_old_runs_load() -> None:
    with pytest.raises(ConfigError, match=r"data\.sampling is 'clip', but one of video, frame"):
        cfg.build("lr", {"data": {"sampling": "clip"}})
    with pytest.raises(ConfigError, match=r"data\.stride is 0"):
        cfg.build("sr", {"data": {"stride": 0}})
    with pytest.raises(ConfigError, match=r"data\.cache is 'disk'"):
        cfg.build("sr", {"data": {"cache": "disk"}})
    for stage in ("lr", "sr"):
        values = cfg.to_dict(cfg.build(stage, {}))
        for key in ("sampling", "stride", "cache"):  # as a run of an earlier version stored it
            del values["data"][key]
        old = cfg.build(stage, values)
        assert (old.data.sampling, old.data.stride, old.data.cache) == ("video", 1, "auto")
        assert cfg.differences(old, cfg.build(stage, {"data": {"cache": "off"}})) == {}
        assert "data.stride" in cfg.differences(old, cfg.build(stage, {"data": {"stride": 2}}))
