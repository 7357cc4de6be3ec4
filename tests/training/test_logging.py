"""The log's copies: TensorBoard's pictures and clips, Weights & Biases; and reading the log back."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from lvgan import config as cfg
from lvgan.errors import MachineError
from lvgan.training.logging import GIF_FRAMES, GIF_WIDTH, RunLog, animation, read_log
from lvgan.training.wandb_log import WandbLog, check_wandb
from tests.clips import make_video


def _picture(path: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_tensorboard_gives_back_pictures_and_clips(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pixels = _picture(tmp_path / "a.png")
    clip = make_video(tmp_path / "a.mp4", size="48x32", frames=30)
    log = RunLog(tmp_path, 0)
    log.write(7, {"metric/x": 0.5})
    log.show(7, {"preview/picture": tmp_path / "a.png", "preview/clip": clip})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"preview/picture", "preview/clip"}
    (picture,), (gif,) = events.Images("preview/picture"), events.Images("preview/clip")
    assert (picture.step, picture.height, picture.width) == (7, 12, 20)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), pixels)
    with Image.open(io.BytesIO(gif.encoded_image_string)) as moving:
        assert (moving.format, moving.size) == ("GIF", (48, 32))
        assert moving.n_frames > 10  # equal ones are stored once
        lasts = sum(frame.info["duration"] for frame in ImageSequence.Iterator(moving))
    assert lasts == pytest.approx(1000, rel=0.11)  # a GIF counts hundredths of a second: 0.03 for 1/30


def test_a_long_wide_clip_becomes_a_small_gif_that_lasts_as_long(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "long.mp4", size="800x40", frames=150)
    with Image.open(io.BytesIO(animation(clip))) as gif:
        assert gif.size[0] == GIF_WIDTH
        assert gif.n_frames == 50 <= GIF_FRAMES
        lasts = sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))
    assert lasts == pytest.approx(5000, rel=0.02)


def test_what_is_logged_for_one_step_is_one_record(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.write(5, {"loss/a": 1.0})
    log.write(10, {"loss/a": 2.0})
    log.write(10, {"metric/x": 0.5})
    log.write(10, {"event": "rolled back", "culprit": "x"})
    log.write(15, {"loss/a": 3.0})
    log.close()
    with log.path.open("ab") as file:
        file.write(b'{"step": 20, "lo\xff')
    assert read_log(log.path) == [
        {"step": 5, "loss/a": 1.0},
        {"step": 10, "loss/a": 2.0, "metric/x": 0.5},
        {"step": 10, "event": "rolled back", "culprit": "x"},
        {"step": 15, "loss/a": 3.0},
    ]
    RunLog(tmp_path, 10).close()  # going on from step 10: its metric stays, step 15 goes
    assert [line["step"] for line in read_log(log.path)] == [5, 10, 10]
    assert read_log(tmp_path / "none.jsonl") == []


class _FakeWandb(types.ModuleType):
    """Stands for the package: notes what it is told, fails where it is told to."""

    def __init__(self, fail: str = "", key: str | None = None) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[str, Any]] = []
        self.fail = fail
        self.api = types.SimpleNamespace(api_key=key)
        self.Image = lambda path: ("image", Path(path).name)
        self.Video = lambda path: ("video", Path(path).name)

    def login(self, *, prompt: bool = True) -> bool:
        assert not prompt
        if self.fail == "login":
            raise TypeError("no such argument: prompt")
        return bool(self.api.api_key)

    def init(self, **options: Any) -> _FakeWandb:
        self._note("init", options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self._note("log", (step, values))

    def finish(self) -> None:
        self._note("finish", None)

    def _note(self, name: str, what: Any) -> None:
        if name == self.fail:
            raise RuntimeError("the network is down")
        self.calls.append((name, what))


@pytest.fixture
def config() -> cfg.Config:
    return cfg.build("lr", {"training": {"wandb": "mine"}})


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("key", "mode"), [(None, "offline"), ("secret", "online")])
@pytest.mark.parametrize("release", ["new", "old"])
def test_wandb_gets_what_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: cfg.Config, key: str | None, mode: str, release: str
) -> None:
    fake = _FakeWandb("login" if release == "old" else "", key)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    told: list[str] = []
    _picture(tmp_path / "a.png")
    clip = make_video(tmp_path / "a.mp4", size="48x32", frames=4)
    for start in (0, 4):
        log = RunLog(tmp_path, start, WandbLog(config, tmp_path, told.append))
        log.write(start + 1, {"loss/a": 0.5, "loss/b": "nan"})
        log.show(start + 1, {"preview/picture": tmp_path / "a.png", "preview/clip": clip})
        log.close()
    assert [name for name, _ in fake.calls] == ["init", "log", "log", "finish"] * 2
    first, second = (what for name, what in fake.calls if name == "init")
    assert first == second  # the run is continued: one id
    assert (first["project"], first["name"], first["mode"], first["resume"]) == ("mine", tmp_path.name, mode, "allow")
    assert first["config"]["training"]["wandb"] == "mine"
    assert [what for name, what in fake.calls if name == "log"][:2] == [
        (1, {"loss/a": 0.5}),
        (1, {"preview/picture": ("image", "a.png"), "preview/clip": ("video", "a.mp4")}),
    ]
    assert len(told) == (2 if mode == "offline" else 0)


@pytest.mark.parametrize("fail", ["init", "log", "finish"])
def test_wandb_that_fails_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: cfg.Config, fail: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", _FakeWandb(fail, key="secret"))
    told: list[str] = []
    log = RunLog(tmp_path, 0, WandbLog(config, tmp_path, told.append))
    for step in (1, 2, 3):
        log.write(step, {"loss/a": 0.5})
    log.close()
    assert told == ["W&B failed (the network is down); training goes on without it"]
    assert len(read_log(log.path)) == 3


def test_missing_wandb_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ModuleNotFoundError
    with pytest.raises(MachineError, match=r"pip install 'lvgan\[wandb\]'"):
        check_wandb()


def test_only_a_user_who_asks_gets_wandb() -> None:
    assert cfg.build("lr", {}).training.wandb == ""
    values = cfg.merge({"training": {"wandb": "mine"}}, cfg.parse_override("training.wandb="))
    assert cfg.build("sr", values).training.wandb == ""
