"""`lvgan doctor` and `lvgan ops build` as programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lvgan.cli import doctor
from tests.cli import program


def lvgan(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return program.lvgan(*arguments, env=environment)


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


def findings(**environment: str) -> dict[str, doctor.Finding]:
    done = lvgan("doctor", "--json", **environment)
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    return {finding["name"].strip(): doctor.Finding(**finding) for finding in report["findings"]}


def test_native_that_is_asked_for_and_missing(tmp_path) -> None:
    found = findings(LVGAN_CACHE=str(tmp_path), CXX="/nowhere/g++", LVGAN_OPS="native")
    assert [finding.name for finding in found.values() if finding.remedy] == ["operators, cpu"]
    assert found["operators, cpu"].found == "reference: CXX names /nowhere/g++, which is not a program"
    assert "unset LVGAN_OPS" in found["operators, cpu"].remedy


def test_a_mode_that_does_not_exist(tmp_path) -> None:
    found = findings(LVGAN_CACHE=str(tmp_path), LVGAN_OPS="nonsense")
    assert found["operators"].found.startswith("LVGAN_OPS is 'nonsense', but one of auto, native, reference")
    assert found["operators"].remedy == "unset LVGAN_OPS, or correct it"
    assert "disk, here" in found


def test_a_file_in_the_place_of_the_cache(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    found = findings(LVGAN_CACHE=str(tmp_path / "file"), LVGAN_OPS="reference")
    assert f", but {tmp_path}/file is not a folder; " in found["disk, cache"].found
    assert found["disk, cache"].found.endswith(" stands in")
    assert not found["disk, cache"].remedy  # it is not needed


def test_a_full_disk_has_a_remedy(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**7))
    here, cache = doctor._disk()
    assert here.found.startswith("0.0 GB free in ")
    assert here.remedy == "free some space, or work in another folder"
    assert cache.found.endswith(" stands in")


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, how: False)
    here, cache = doctor._disk()
    assert here.found.endswith(f", but you may not write to {Path.cwd()}")
    assert f", but you may not write to {tmp_path}; " in cache.found


def test_a_folder_that_is_gone_and_a_user_without_a_home(tmp_path, monkeypatch) -> None:
    for name in ("LVGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    assert doctor._disk()[1].found.startswith("none: this user has no home folder")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (finding,) = doctor._disk()
    assert finding.remedy == "change to a folder that exists"


def test_packages_that_are_missing_end_the_examination(monkeypatch) -> None:
    monkeypatch.setitem(doctor._MODULES, "no_such_module", "its-package")
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["packages"].found == "missing: its-package"
    assert found["packages"].remedy == "pip install its-package"
    assert "operators, cpu" not in found


def test_why_there_is_no_cuda_device(monkeypatch) -> None:
    def unavailable() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old\n(found 11)", stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", unavailable)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    (finding,) = doctor._cuda()
    assert finding.found.startswith(
        "no device; The NVIDIA driver on your system is too old (found 11); CUDA_VISIBLE_DEVICES is '7'"
    )


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
