"""The command line as a program: help, version, exit codes, one-sentence errors."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest

from lvgan import cli
from tests.cli import program
from tests.cli.program import refused

COMMANDS = ["quickstart", "footage", "prepare", "train-lr", "train-sr", "sample", "upscale", "bundle", "inspect"]
COMMANDS += ["export", "hub", "data", "runs", "plot", "eval", "bench", "ops", "doctor"]


def lvgan(*arguments: object, cwd=None) -> subprocess.CompletedProcess[str]:
    """The program as it is started from a shell."""
    command = [sys.executable, "-m", "lvgan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_version_and_help() -> None:
    import lvgan as package

    assert lvgan("--version").stdout.strip() == f"lvgan {package.__version__}"
    text = lvgan("--help").stdout
    assert all(f" {command} " in text for command in COMMANDS)
    for command in COMMANDS:
        assert program.lvgan(command, "--help").returncode == 0


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch numpy scipy PIL yaml matplotlib tqdm rich"
    code = f"import sys; from lvgan.cli import commands; print([m for m in {heavy!r}.split() if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_unknown_command_and_option() -> None:
    for arguments in (("trainlr",), ("sample", "--nope"), ("train-lr",)):
        result = lvgan(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train-lr", "nowhere"), "nowhere is not a folder"),
        (("train-lr", ".", "--preset", "huge"), "no preset 'huge'"),
        (("train-lr", ".", "--set", "training.stepz=3"), "did you mean 'training.steps'"),
        (("train-lr", ".", "--set", "steps"), "key=value"),
        (("train-lr", ".", "--lr", "64"), "'64' is not a size"),
        (("train-sr", ".", "--device", "gpu"), "'gpu'"),
        (("sample", "none.pt", "-o", "v.mp4"), "no checkpoint none.pt"),
        (("sample", "bomb.pt", "-o", "v.mp4"), "run code"),
        (("sample", "picture.pt", "-o", "v.mp4"), "not a checkpoint"),
        (("sample", "none.pt", "-n", "0", "-o", "v.mp4"), "0 frames"),
        (("sample", "none.pt", "-n", "-5", "-o", "v.mp4"), "-5 frames"),
        (("sample", "none.pt", "-o", "v.xyz"), ".xyz"),
        (("sample", "none.pt", "-o", "v.mp4", "--fps", "0"), "--fps 0"),
        (("upscale", "none.mp4", "none.pt", "-o", "v.mp4"), "none.mp4"),
        (("upscale", "text.mp4", "none.pt", "-o", "v.mp4"), "text.mp4"),
        (("inspect", "."), "without checkpoints"),
        (("bundle", "none.pt", "none.pt", "-o", "b.pt"), "no checkpoint"),
        (("eval", "color-sim"), "no run"),
        (("eval", "color-sim", "nowhere"), "nowhere"),
        (("eval", "color-sim", "--clips", "0"), "--clips 0"),
        (("quickstart", "text.mp4"), "text.mp4 is a file"),
    ],
)
def test_refusals(tmp_path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(_Bomb()))
    (tmp_path / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "text.mp4").write_text("hello")
    before = sorted(os.listdir(tmp_path))
    assert words in refused(*arguments, cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == before  # nothing left behind, nothing run


def test_a_signal_waits_until_a_lock_is_taken() -> None:
    """Else the lock would stay taken. (This one sends the signal when it is taken.)"""
    lock = threading.Lock()
    taking = SimpleNamespace(
        acquire=lock.acquire,
        release=lock.release,
        __enter__=partial(signal.raise_signal, signal.SIGINT),
        __exit__=lambda *error: None,
    )
    inside: list[bool] = []

    def wait() -> None:
        with threading.Condition(taking):
            inside.append(True)
            time.sleep(20)

    before = signal.signal(signal.SIGINT, cli._leave)
    try:
        with pytest.raises(cli.Interrupted):
            wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert inside
