"""Precision, layout, recomputed activations: none changes a short training run beyond rounding."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from lvgan import config as cfg
from lvgan.config import build
from lvgan.errors import ConfigError
from lvgan.training import precision
from lvgan.training.session import Request, train_stage
from lvgan.training.trainer import Trainer
from tests.training.test_tasks import _task

CPU = torch.device("cpu")
STEPS = 5  # with R1 at two of them

# Largest differences of losses and logits from float32's, over the steps: of 1, or of the value if larger.
# bfloat16 rounds to 8 bits, so single logits are off by a few per cent; float16 rounds to 11.
TOLERANCE = {"tf32": 0.0, "fp32": 0.0, "bf16": 0.05, "fp16": 0.005}


def _losses(stage: str, data: Path, **settings: object) -> list[dict[str, float]]:
    task = _task(stage, data, r1_every=3, **settings)
    said: list[str] = []
    with precision.computing(task.config, task.generator, task.discriminator, CPU, said.append):
        trainer = Trainer(task)
        values = [trainer.run_step() for _ in range(STEPS)]
    task.close()
    return values


@pytest.fixture(scope="module")
def exact(shards: Path) -> dict[str, list[dict[str, float]]]:
    return {stage: _losses(stage, shards) for stage in ("lr", "sr")}


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in bfloat16, whatever the CPU."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("lr", {"precision": "bf16"}),
        ("sr", {"precision": "bf16"}),
        ("sr", {"precision": "fp16"}),
        ("lr", {"precision": "tf32"}),
        ("lr", {"checkpoint_activations": True}),
        ("sr", {"checkpoint_activations": True}),
        ("lr", {"channels_last": True}),
        ("sr", {"channels_last": True}),
        ("sr", {"precision": "bf16", "channels_last": True, "checkpoint_activations": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_short_run_is_the_same_but_for_rounding(
    stage: str,
    settings: dict[str, object],
    shards: Path,
    exact: dict[str, list[dict[str, float]]],
) -> None:
    tolerance = TOLERANCE[str(settings.get("precision", "fp32"))]
    if settings.get("channels_last"):
        tolerance = max(tolerance, 1e-3)  # sums in another order, and Adam's first steps are signs
    for step, (ours, expected) in enumerate(zip(_losses(stage, shards, **settings), exact[stage], strict=True)):
        for key in expected:
            if key.startswith(("loss/", "logits/")):
                limit = tolerance * max(1.0, abs(expected[key]))
                assert abs(ours[key] - expected[key]) <= limit, (step, key, ours[key], expected[key])


@pytest.mark.usefixtures("bfloat16")
def test_half_precision_is_another_computation(shards: Path, exact: dict[str, list[dict[str, float]]]) -> None:
    assert _losses("sr", shards, precision="bf16")[0] != exact["sr"][0]


def test_rounding_is_put_back() -> None:
    config = build("lr", {"training": {"precision": "tf32"}})
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    network = torch.nn.Linear(2, 2)
    with precision.computing(config, network, network, CPU, lambda line: None):
        assert [place.allow_tf32 for place in places] == [True, True]
        assert torch.get_float32_matmul_precision() == "high"  # what torch.compile asks
    assert [place.allow_tf32 for place in places] == before
    with precision.computing(build("lr", {}), network, network, CPU, print):
        assert [place.allow_tf32 for place in places] == [False, False]  # whatever torch's default is
    assert [place.allow_tf32 for place in places] == before


def test_what_does_nothing_here_is_said() -> None:
    network = torch.nn.Linear(2, 2)
    for chosen, words in (("tf32", "the same as fp32"), ("fp16", "many times as long as fp32")):
        said: list[str] = []
        with precision.computing(build("sr", {"training": {"precision": chosen}}), network, network, CPU, said.append):
            pass
        assert len(said) == 1
        assert words in said[0]


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_float32_on_a_cpu_without(has: bool, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    said: list[str] = []
    task = _task("lr", shards, precision="bf16")
    networks = (task.generator, task.discriminator)
    with precision.computing(task.config, *networks, CPU, said.append):
        assert [network.half_type for network in networks] == [torch.bfloat16 if has else None] * 2
    task.close()
    assert has == (not said)
    assert has or "bf16 is the same as fp32 here" in said[0]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="what tells of bfloat16 is known of x86 only")
def test_the_cpu_is_asked_for_bfloat16() -> None:
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists():
        pytest.skip("this system does not list what its CPU can do")
    flags = set(next(line for line in cpu.read_text().splitlines() if line.startswith("flags")).split())
    if {"avx512bw", "avx512vl", "avx512dq"} <= flags:
        assert precision.cpu_has_bfloat16()
    elif "avx_ne_convert" not in flags:
        assert not precision.cpu_has_bfloat16()


def test_float16_is_refused_at_low_resolution() -> None:
    network = torch.nn.Linear(2, 2)
    config = build("lr", {"training": {"precision": "fp16"}})
    with pytest.raises(ConfigError, match="use bf16"), precision.computing(config, network, network, CPU, print):
        pass


def test_an_unknown_precision_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: bf16"):
        build("lr", {"training": {"precision": "bfloat16"}})


def test_a_run_may_go_on_otherwise() -> None:
    how = {
        "precision": "bf16",
        "checkpoint_activations": True,
        "channels_last": True,
        "compile": True,
        "micro_batch": 1,
    }
    assert cfg.differences(build("sr", {}), build("sr", {"training": how})) == {}
    assert build("sr", {"training": {"micro_batch": "auto"}}).training.micro_batch is None


def test_without_a_compiler_the_networks_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no C++ compiler here\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    said: list[str] = []
    network = torch.nn.Linear(2, 2)
    config = build("lr", {"training": {"compile": True}})
    with precision.computing(config, network, network, CPU, said.append):
        assert network(torch.ones(2)).shape == (2,)
    assert said == ["the networks are not compiled, because the compiler does not work here (no C++ compiler here)"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_networks_train_alike(shards: Path, exact: dict[str, list[dict[str, float]]]) -> None:
    from torch._dynamo.utils import counters

    for stage in ("lr", "sr"):
        counters.clear()
        compiled = _losses(stage, shards, compile=True)
        assert counters["stats"]["unique_graphs"] > 5
        assert not counters["graph_break"], counters["graph_break"]
        for ours, expected in zip(compiled, exact[stage], strict=True):
            for key in expected:
                if key.startswith(("loss/", "logits/")):
                    assert ours[key] == pytest.approx(expected[key], rel=2e-3, abs=2e-3), key


def test_a_dry_run_writes_nothing_and_auto_is_recorded(shards: Path, tmp_path: Path) -> None:
    from tests.training.test_tasks import SMALL

    said: list[str] = []
    flags = cfg.merge(SMALL["sr"], {"training": {"micro_batch": "auto", "steps": 2, "sample_every": 10**6}})
    request = Request("sr", shards, flags=flags)
    train_stage(request, root=tmp_path / "runs", device="cpu", say=said.append, progress=False, dry_run=True)
    assert not (tmp_path / "runs").exists()
    text = "\n".join(said)
    assert "micro-batches of" in text
    assert "s/step" in text
    assert "checkpoints:" in text
    run = train_stage(request, root=tmp_path / "runs", device="cpu", say=said.append, progress=False)
    assert run.step == 2
    found = run.config().training.micro_batch
    assert isinstance(found, int)
    assert 1 <= found <= 4
