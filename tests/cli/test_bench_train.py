"""`bench train`: what is compared is the same step, and the convolutions are all found."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch

from lvgan import config as cfg
from lvgan.cli import bench_train
from lvgan.cli.bench_ops import straightforward
from lvgan.errors import ConfigError
from lvgan.training.task import Task
from lvgan.training.trainer import Trainer
from tests.training.test_tasks import SMALL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards() -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_train, "CLIPS", 2)
        patch.setattr(bench_train, "FRAMES", 40)
        patch.setitem(bench_train.SIZES, "tiny", ("16x16", "32x32"))
        stack = contextlib.ExitStack()
        folder = stack.enter_context(bench_train.footage("tiny"))
    with stack:
        yield folder


def _config(stage: str, shards: Path) -> cfg.Config:
    values = cfg.merge(cfg.load_preset("tiny", stage), SMALL[stage])
    values = cfg.merge(values, {"data": {"path": str(shards), "lr": "16x16", "hr": "32x32"}, "training": {"batch": 2}})
    return cfg.build(stage, values)


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_the_plain_step_is_the_same_step(stage: str, shards: Path) -> None:
    config = _config(stage, shards)
    ours, plain = bench_train.make_task(config, CPU), bench_train.PlainTask(bench_train.make_task(config, CPU))
    with contextlib.closing(ours), contextlib.closing(plain):
        for mine, theirs in zip(ours.real(3), plain.real(3), strict=True):
            assert torch.equal(mine, theirs)
        values = Trainer(ours).run_step()
        with straightforward():
            expected = Trainer(cast(Task, plain)).run_step()
    for key in values:
        assert values[key] == pytest.approx(expected[key], rel=2e-3, abs=1e-4), key


def test_convolutions_are_found_and_run_again() -> None:
    x, weight = torch.randn(1, 2, 6, 7, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    with bench_train.Convolutions() as found:
        for _ in range(2):
            torch.nn.functional.conv2d(x, weight, padding=1).square().sum().backward()
    kinds = {call.function: count for call, count in found.calls.items()}
    assert kinds == {torch.ops.aten.convolution.default: 2, torch.ops.aten.convolution_backward.default: 2}
    forward = next(call for call in found.calls if call.function is torch.ops.aten.convolution.default)
    assert forward.arguments[0] == bench_train.Like((1, 2, 6, 7), (84, 42, 7, 1), torch.float32)
    assert forward.arguments[4] == (1, 1)
    taken = bench_train.alone(found.calls, CPU, 1)
    assert taken.wall > 0


def test_every_row_of_a_comparison(shards: Path) -> None:
    row = bench_train.step_row(_config("sr", shards), CPU, "x", 1)
    assert row["ratio"] == row["plain_cpu_seconds"] / row["cpu_seconds"] > 0
    assert row["ratio_wall"] == row["plain_seconds"] / row["seconds"] > 0
    row = bench_train.convolution_row(_config("lr", shards), CPU, "x", 1)
    assert row["ratio"] == row["cpu_seconds"] / row["convolution_cpu_seconds"] > 0
    assert row["convolutions"] > 10


def test_a_row_of_the_table(shards: Path) -> None:
    row = bench_train.setting_row(_config("sr", shards), CPU, "x", 1, print)
    assert row["seconds"] > 0
    assert row["ram_gb"] > 0.05
    assert row["gpu_gb"] is None
    assert 0 <= row["data_share"] <= 1


def test_a_row_does_not_see_what_this_process_holds(shards: Path) -> None:
    held = torch.zeros(150_000_000)  # 0.6 GB
    row = bench_train.row_alone(_config("lr", shards), CPU, "x", 1, print)
    here = bench_train.setting_row(_config("lr", shards), CPU, "x", 1, print)
    assert here["ram_gb"] - row["ram_gb"] > 0.8 * held.nbytes / 1e9
    assert row.keys() == here.keys()


def test_a_row_whose_process_is_killed_does_not_fit(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_train, "_send_row", _killed)
    row = bench_train.row_alone(_config("lr", shards), CPU, "x", 1, print)
    assert bench_train._setting_line(row).endswith("does not fit")
    monkeypatch.setattr(bench_train, "_send_row", _crashed)
    with pytest.raises(RuntimeError, match="measuring x has failed"):
        bench_train.row_alone(_config("lr", shards), CPU, "x", 1, print)


def _killed(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _crashed(*arguments: object) -> None:
    os._exit(1)


def test_settings_are_legal() -> None:
    for stage in ("lr", "sr"):
        for device in ("cpu", "cuda"):
            ways = bench_train.settings_of(stage, torch.device(device), True)
            assert {"precision": "fp32"} in ways
            for way in ways:
                training = cfg.build(stage, {"training": way}).training
                assert not (stage == "lr" and training.precision == "fp16")


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_not_compared_where_it_is_float32(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_train, "cpu_has_bfloat16", lambda: has)
    assert ({"precision": "bf16"} in bench_train.settings_of("lr", CPU, False)) == has
    assert {"precision": "bf16"} in bench_train.settings_of("lr", torch.device("cuda"), False)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="tiny, small, paper"):
        bench_train.run("huge", ["lr"], CPU, quick=True, table=False, compiled=False, say=print)
