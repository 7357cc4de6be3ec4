"""`lvgan doctor` and `lvgan ops build` as programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lvgan as package
from lvgan.cli import doctor

ROOT = Path(package.__file__).parents[1]


def lvgan(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "lvgan", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_everything_is_here(tmp_path) -> None:
    done = lvgan("doctor", "--json", LVGAN_CACHE=str(tmp_path), LVGAN_OPS="reference")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    found = {finding["name"].strip(): finding["found"] for finding in report["findings"]}
    assert report["ok"]
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["operators, cpu"] == "reference: LVGAN_OPS=reference"
    assert found["filtered_lrelu"] == "reference cpu, reference cuda"
    assert "GB free" in found["disk, cache"]
    assert not list(tmp_path.iterdir())


def test_no_ffmpeg_is_something_missing(tmp_path) -> None:
    done = lvgan("doctor", LVGAN_CACHE=str(tmp_path), LVGAN_OPS="reference", LVGAN_FFMPEG="/nowhere/ffmpeg")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("x ffmpeg"))
    assert lines[at].endswith("missing")
    assert lines[at + 1].strip() == (
        "-> LVGAN_FFMPEG names /nowhere/ffmpeg, which is not a program; correct it or unset it"
    )
    assert lines[-1] == "something needed is missing"
    assert "Traceback" not in done.stderr


def test_no_compiler_is_not(tmp_path) -> None:
    done = lvgan("doctor", LVGAN_CACHE=str(tmp_path), CXX="/nowhere/g++")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference: CXX names /nowhere/g++, which is not a program" in done.stdout


def test_an_old_torch_has_a_remedy(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.8.0")
    (finding,) = (f for f in doctor.examine() if f.remedy)
    assert (finding.name, finding.found) == ("torch", "2.8.0")
    assert "pip install 'torch>=2.11'" in finding.remedy


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--arch", "7"], {}, "--arch '7' was given, but a CUDA chip such as 80, 9.0 or sm_90 was expected"),
        (["--cpu", "--arch", "90"], {}, "--arch was given with --cpu, but it names CUDA chips"),
        (["--cpu"], {"CXX": "/nowhere/g++"}, "the cpu library cannot be built: CXX names /nowhere/g++"),
        (["--cuda"], {"CUDACXX": "/nowhere/nvcc"}, "the cuda library cannot be built: "),
        (["--cpu"], {"CXX": "false"}, "the cpu library cannot be built: false failed (log: "),
    ],
)
def test_builds_that_fail(tmp_path, arguments: list[str], environment: dict[str, str], words: str) -> None:
    done = lvgan("ops", "build", *arguments, LVGAN_CACHE=str(tmp_path), **environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("lvgan: error: ")
    assert words in line
