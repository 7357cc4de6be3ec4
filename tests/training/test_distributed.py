"""Several ranks: the same training, however it is shared, and nobody left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from lvgan import config as cfg
from lvgan.errors import ConfigError, MachineError
from lvgan.training import launch
from lvgan.training.distributed import Ranks
from lvgan.training.logging import read_log
from lvgan.training.loop import train
from lvgan.training.runs import Run
from tests.training.ranks import COMMAND, ROOT, toy_config
from tests.training.test_tasks import SMALL
from tests.training.toy import ToyTask

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
PATIENCE = 240  # seconds; a machine may be busy


def _run(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(count, *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _command(count: int, *arguments: object) -> list[str]:
    # One process runs without a launcher, as it would for --gpus 1.
    return [*COMMAND, *(["launch", str(count)] if count > 1 else []), *map(str, arguments)]


@contextlib.contextmanager
def _started(count: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        _command(count, *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(folder: Path) -> list[int]:
    alive = []
    for path in folder.glob("pid-*"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(path.read_text()), 0)
            alive.append(int(path.read_text()))
    return alive


def _log(folder: Path) -> list[dict[str, float]]:
    return read_log(folder / "run" / "log.jsonl")


def _sentence(stderr: str) -> str:
    """The one sentence that all processes together have printed."""
    lines = [line for line in stderr.splitlines() if "error: " in line]
    assert len(lines) == 1, stderr
    return lines[0]


# --- the same training ------------------------------------------------------------------------------


def test_shares_of_a_batch() -> None:
    ranks = Ranks()
    assert ranks.share(5) == range(5)
    shares = []
    for ranks.rank in range(3):
        ranks.world = 3
        shares.append(ranks.share(8))
    assert shares == [range(3), range(3, 6), range(6, 8)]
    with pytest.raises(ConfigError, match="3 processes cannot share a batch of 2 clips"):
        ranks.share(2)


def _compare(shards: Path, tmp_path: Path, stage: str, counts: list[int], steps: int, double: bool) -> None:
    """Losses with several ranks against those of one (5 clips: shares of 3 + 2, or 2 + 1 + 1 + 1)."""
    values = []
    for count in [1, *counts]:
        out = tmp_path / f"{count}.json"
        done = _run(count, "losses", stage, shards, out, "--steps", steps, *(["--double"] if double else []))
        assert done.returncode == 0, done.stderr
        values.append(json.loads(out.read_text()))
    assert len(values[0]) == steps
    for several in values[1:]:
        for ours, expected in zip(several, values[0], strict=True):
            assert ours == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_two_ranks_train_as_one(stage: str, shards: Path, tmp_path: Path) -> None:
    _compare(shards, tmp_path, stage, [2], 5, double=stage == "lr")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_any_number_of_ranks_trains_as_one(stage: str, shards: Path, tmp_path: Path) -> None:
    # What limits the agreement is a leaky ReLU whose input is zero but for rounding: its slope jumps, and the
    # runs part from there (seen in 1 of 4 runs of 20 steps in float32, by up to 1 %). Hence float64 where possible.
    _compare(shards, tmp_path, stage, [2, 4], 20, double=stage == "lr")


def test_ranks_find_a_micro_batch_and_measure_together(shards: Path, tmp_path: Path) -> None:
    settings = cfg.merge(SMALL["sr"], {"training": {"batch": 3, "r1_every": 2}})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    done = _run(2, "train-sr", shards, "--config", tmp_path / "small.yaml", "--micro-batch", "auto", "--dry-run",
                "--run", "none", "--device", "cpu")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "micro-batches of 2 of a process's 2 clips fit into memory" in done.stdout
    assert "GB of RAM, in each of 2 processes" in done.stdout
    assert done.stdout.count("s/step") == 1
    assert not (ROOT / "runs" / "none").exists()


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    def alone(folder: Path) -> None:
        train(ToyTask(toy_config(steps=8)), Run(folder / "run"), progress=False)

    for name in "ab":
        (tmp_path / name).mkdir()
    done = _run(2, "toy", tmp_path / "a", "--steps", 4)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in _log(tmp_path / "a")] == [1, 2, 3, 4]
    alone(tmp_path / "a")
    alone(tmp_path / "b")
    ours, expected = _log(tmp_path / "a"), _log(tmp_path / "b")
    assert [line["step"] for line in ours] == list(range(1, 9))
    for one, two in zip(ours, expected, strict=True):
        kept = [key for key in two if not key.startswith("time/")]
        assert {k: one[k] for k in kept} == pytest.approx({k: two[k] for k in kept}, rel=1e-5)


# --- trouble ------------------------------------------------------------------------------------------


def _failed(tmp_path: Path, *arguments: object, count: int = 2) -> subprocess.CompletedProcess[str]:
    done = _run(count, "toy", tmp_path, "--steps", 1000, *arguments)
    assert not _alive(tmp_path)
    return done


def test_a_killed_rank_stops_the_others(tmp_path: Path) -> None:
    done = _failed(tmp_path, "--trouble", "killed", count=3)
    assert done.returncode == 1
    assert "rank 1 was ended by SIGKILL" in _sentence(done.stderr)
    assert "Traceback" not in done.stderr
    assert [line["step"] for line in _log(tmp_path)] == [1, 2, 3, 4]


def test_a_killed_rank_is_told_though_another_has_left_because_of_it(capsys) -> None:
    processes = [SimpleNamespace(poll=lambda code=code: code) for code in (1, -signal.SIGKILL, 1)]
    assert launch._wait(processes, []) == 1
    assert "rank 1 was ended by SIGKILL" in _sentence(capsys.readouterr().err)


def test_a_users_error_in_a_rank_is_one_sentence(tmp_path: Path) -> None:
    done = _failed(tmp_path, "--trouble", "data", "--rank", 2, count=3)
    assert done.returncode == 2
    assert _sentence(done.stderr) == (
        "lvgan: error: rank 2 of 3: no batch for step 5: the shard x.zip is damaged; prepare it again "
        "(stopped at step 4, no checkpoint written yet; with the data back, the same command goes on)"
    )
    assert "Traceback" not in done.stderr


def test_a_crash_in_a_rank_is_one_traceback(tmp_path: Path) -> None:
    done = _failed(tmp_path, "--trouble", "crash")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "ZeroDivisionError: one by nought" in done.stderr
    assert "lvgan: rank 1 of 2 has failed, the others stop" in done.stderr


def test_all_ranks_skip_the_step_that_overflows_on_one(tmp_path: Path) -> None:
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        done = _run(count, "toy", tmp_path / str(count), "--trouble", "overflow")
        assert done.returncode == 0, done.stderr
        events = [line for line in _log(tmp_path / str(count)) if line.get("event") == "non-finite gradient"]
        assert [(e["step"], e["culprit"].partition(" ")[0]) for e in events] == [(3, "generator"), (4, "discriminator")]
    one, two = (torch.load(tmp_path / c / "run/checkpoints/lr-step-000008.pt", weights_only=True) for c in ("1", "2"))
    for part in ("generator", "generator_ema", "discriminator"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-5, atol=1e-6)
    assert two["optimizers"][0]["state"][0]["step"] == 7  # of 8: one was skipped


def test_ranks_that_start_from_other_weights_are_found(tmp_path: Path) -> None:
    done = _failed(tmp_path, "--trouble", "differs")
    assert done.returncode == 2
    assert "rank 1 has other weights than rank 0" in _sentence(done.stderr)
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_clips(tmp_path: Path) -> None:
    done = _failed(tmp_path, "--batch", 1)
    assert done.returncode == 2
    assert "2 processes cannot share a batch of 1 clips" in _sentence(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dead", [0, 1])
def test_without_our_launcher_a_death_is_noticed_too(tmp_path: Path, dead: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = [*COMMAND, "toy", str(tmp_path), "--steps", "1000", "--trouble", "killed", "--rank", str(dead)]
    processes = [
        subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=ENVIRONMENT | place | {"RANK": str(r), "LOCAL_RANK": str(r)},
            text=True,
            stderr=subprocess.PIPE,
        )
        for r in range(2)
    ]
    words = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [-9 if r == dead else 1 for r in range(2)]
    assert f"rank {dead} has died without a word" in _sentence(words[1 - dead])


# --- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["launcher", "rank"])
def test_a_signal_stops_all_at_one_step(tmp_path: Path, target: str) -> None:
    with _started(2, "toy", tmp_path, "--steps", 100_000) as process:
        _until(lambda: len(_log(tmp_path)) > 2)
        signum = signal.SIGTERM if target == "launcher" else signal.SIGINT
        os.kill(process.pid if target == "launcher" else int((tmp_path / "pid-1").read_text()), signum)
        _, words = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signum
    assert not _alive(tmp_path)
    step = _log(tmp_path)[-1]["step"]
    assert words.count("checkpoint written; run the same command again") == 1
    assert f"stopped at step {step}" in words
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [f"lr-step-{step:06d}.pt"]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with _started(2, "toy", tmp_path, "--steps", 100, "--trouble", "stuck") as process:
        _until(lambda: len(_log(tmp_path)) == 4)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert not _alive(tmp_path)


def test_without_its_launcher_nobody_stays(tmp_path: Path) -> None:
    with _started(2, "toy", tmp_path, "--steps", 100_000) as process:
        _until(lambda: len(_log(tmp_path)) > 2)
        process.kill()
        _until(lambda: not _alive(tmp_path))
    step = _log(tmp_path)[-1]["step"]
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [f"lr-step-{step:06d}.pt"]


# --- what is asked for ---------------------------------------------------------------------------------


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    count = launch.count_processes
    assert [count("1"), count("auto"), count("auto", "cpu"), count("4", "cpu")] == [1, 1, 1, 4]
    with pytest.raises(MachineError, match="asked for 8 GPUs, found 1"):
        count("8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [count("auto"), count("auto", "cpu"), count("auto", "cuda:1"), count("3", "cuda")] == [4, 1, 1, 3]
    with pytest.raises(ConfigError, match="cuda:1, which is one device"):
        count("2", "cuda:1")
    for wrong in ("0", "-1", "two", ""):
        with pytest.raises(ConfigError, match="auto or a number from 1"):
            count(wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(MachineError, match=r"found none.*--device cpu for 2 processes"):
        count("2")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert [count("1"), count("auto"), count("4")] == [1, 1, 1]
    with pytest.raises(ConfigError, match="torchrun has started 4 processes here"):
        count("8")


def test_an_incomplete_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="LOCAL_RANK"):
        Ranks.join("cpu")
    for name, value in (("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1"), ("RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="RANK is 2, but WORLD_SIZE is 2"):
        Ranks.join("cpu")


@pytest.mark.slow
def test_the_commands_under_torchrun(shards: Path, tmp_path: Path) -> None:
    # Without `--` torchrun takes our --run for an abbreviation of an option of its own.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
                "--", sys.executable, "-m", "lvgan"]  # fmt: skip
    settings = ["--preset", "tiny", "--batch", "2", "--steps", "2", "--device", "cpu", "--run", "mine"]
    done = subprocess.run([*torchrun, "train-lr", str(shards), *settings, "--set", "data.frames=8"], cwd=tmp_path,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=PATIENCE, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "training on 2 x cpu" in done.stdout
    assert done.stdout.count("next: ") == 1
