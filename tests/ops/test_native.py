"""Building and loading the compiled operators: every way in which it can go wrong ends in one line.

The library under test is `trivial/cpu.cpp`, in processes of their own where it is loaded: a library
cannot be unloaded.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

import lvgan
from lvgan.errors import ConfigError, MachineError
from lvgan.ops import bias_act, building, compilers, filtered_lrelu, native, setup_filter
from lvgan.ops import cache as folders
from tests.forked import Forked

TRIVIAL = Path(__file__).parent / "trivial"
ROOT = Path(lvgan.__file__).parents[1]
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


def _activate(sources: Path) -> None:
    """Print what `activate` says, the status, and the value of an operator that the library has."""
    building.SOURCES = sources
    assert not native.native_ops("cpu")["bias_act"]  # nothing happens at import
    status = native.activate("cpu", lambda line: print("said:", line))
    print("status:", "native" if status.active else "reference", "|", status.reason, "|", status.path)
    native.activate("cpu", lambda line: print("said again:", line))
    print("value:", bias_act(torch.tensor([[-1.0, 2.0]]), activation="lrelu", gain=1.0).tolist())
    print("registered:", native.native_ops("cpu")["bias_act"])


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, an empty folder for temporary files, no memory of earlier tests, the trivial source."""
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(building, "SOURCES", TRIVIAL)
    monkeypatch.setattr(native, "_states", {})
    compilers.forget_answers()
    for name in ("LVGAN_OPS", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "ops"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def start(sources: Path = TRIVIAL, **environment: str) -> Forked:
    return Forked(_activate, sources, env={"OMP_NUM_THREADS": "1", **environment})


def outcome(process: Forked) -> str:
    done = process.finish()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "value: [[-0.2" in said
    assert ", 2.0]]" in said
    return said


def refused() -> str:
    """The one line said by a command that finds no library; the reference runs."""
    said: list[str] = []
    status = native.activate(torch.device("cpu"), said.append)
    assert (status.kind, status.active, status.path) == ("cpu", False, None)
    line = said.pop()
    assert line == f"operators: the PyTorch reference runs, which is slower, because of: {status.reason}"
    assert "\n" not in line
    assert all(line.startswith("operators: compiling") for line in said)
    native.activate(torch.device("cpu"), said.append)  # once is enough
    assert len(said) <= 1
    return status.reason


# --- no library -------------------------------------------------------------------------------------


def test_without_a_compiler(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused() == "no C++ compiler on PATH (g++, c++ or clang++; CXX may name one)"


def test_a_compiler_that_is_not_there(cache, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++ -m64")
    assert refused() == "CXX names /nowhere/g++, which is not a program"


def test_a_compiler_that_fails(cache, tmp_path, monkeypatch) -> None:
    counter = tmp_path / "calls"
    broken = script(tmp_path / "broken", f'echo "$@" >> {counter}; echo "cannot find cc1plus" >&2; exit 1')
    monkeypatch.setenv("CXX", broken)
    reason = refused()
    (log,) = cache.glob("*.log")
    assert reason == f"{broken} failed (log: {log})"
    assert "cannot find cc1plus" in log.read_text()
    assert str(TRIVIAL / "cpu.cpp") in log.read_text()
    # The next process does not try again, and says the same; the user can.
    tries = counter.read_text().count("-o")
    monkeypatch.setattr(native, "_states", {})
    assert refused() == f"{reason}; `lvgan ops build` tries again"
    assert counter.read_text().count("-o") == tries
    with pytest.raises(building.BuildError, match="failed"):
        building.build(building.recipe("cpu"), retry=True)
    assert counter.read_text().count("-o") > tries
    assert not list(cache.glob("building-*"))


def test_a_compiler_that_hangs(cache, tmp_path, monkeypatch) -> None:
    mark = tmp_path / "alive"
    slow = script(tmp_path / "slow", f'case "$*" in *--version) ;; *) (sleep 3; touch {mark}) & wait;; esac')
    monkeypatch.setenv("CXX", slow)
    monkeypatch.setitem(building.TIME_LIMIT, "cpu", 0.5)
    started = time.monotonic()
    assert refused().startswith(f"{slow} was not done after 0 s (log: ")
    assert time.monotonic() - started < 2.5
    time.sleep(3.2 - (time.monotonic() - started))
    assert not mark.exists()  # what it started is gone too


def test_an_old_torch(cache, monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert refused() == "torch 2.9.1+cpu is too old for compiled operators; 2.10 or later has what they need"


def test_no_place_to_build_in(cache, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert refused() == f"no folder to build in ({tmp_path}/file/ops: Not a directory)"


def test_a_temporary_folder_of_somebody_else_is_not_trusted(cache, tmp_path) -> None:
    folder = folders.temporary_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="not a folder of this user alone"):
        folders.temporary_folder()


def test_reference_is_neither_looked_for_nor_built(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LVGAN_OPS", "reference")
    monkeypatch.setenv("CXX", script(tmp_path / "cxx", f"touch {tmp_path}/called"))
    said: list[str] = []
    status = native.activate("cpu", said.append)
    assert (status.active, status.reason, said) == (False, "LVGAN_OPS=reference", [])
    assert not (tmp_path / "called").exists()
    assert not cache.exists()


def test_native_makes_a_missing_library_an_error(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LVGAN_OPS", "native")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"LVGAN_OPS=native, but .* no C"):
        native.activate("cpu", print)


def test_other_values_are_refused(cache, monkeypatch) -> None:
    monkeypatch.setenv("LVGAN_OPS", "nativ")
    with pytest.raises(ConfigError, match="LVGAN_OPS is 'nativ', but one of auto, native, reference"):
        native.activate("cpu", print)


def test_devices_without_compiled_operators(cache, monkeypatch) -> None:
    said: list[str] = []
    assert native.activate("mps", said.append).reason == "there are no compiled operators for mps"
    assert said == []
    if not torch.cuda.is_available():
        assert not native.activate("cuda", said.append).active
        assert "CUDA" in said[0]


def test_the_name_follows_what_it_is_built_from(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "cxx", "echo 1"))
    sources = tmp_path / "csrc"
    shutil.copytree(TRIVIAL, sources)
    names = [building.recipe("cpu", sources=sources).name()]
    (sources / "more.h").write_text("// changed")
    names.append(building.recipe("cpu", sources=sources).name())
    script(tmp_path / "cxx", "echo 2")
    compilers.forget_answers()
    names.append(building.recipe("cpu", sources=sources).name())
    monkeypatch.setattr(building, "cpu_features", lambda: "another")
    names.append(building.recipe("cpu", sources=sources).name())
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    names.append(building.recipe("cpu", sources=sources).name())
    names.append(building.recipe("cpu", sources=sources, portable=True).name())
    assert len(set(names)) == len(names)
    (sources / "notes.md").write_text("not a source")
    assert building.recipe("cpu", sources=sources, portable=True).name() == names[-1]


@pytest.mark.parametrize(
    ("variant", "chips", "fits"),
    [
        ("80.90", [80], True),
        ("80.90", [86, 90], True),
        ("80.90", [120], True),  # through PTX
        ("80.90", [75], False),
        ("90", [80], False),
        ("86", [80, 86], False),
        ("80", [90], True),
    ],
)
def test_which_gpus_a_cuda_library_covers(monkeypatch, variant: str, chips: list[int], fits: bool) -> None:
    monkeypatch.setattr(building, "device_chips", lambda: chips)
    assert building.covers(variant) == fits


# --- a library --------------------------------------------------------------------------------------


@needs_compiler
def test_built_once_by_several_processes_and_found_by_the_next(cache, tmp_path) -> None:
    counter = tmp_path / "calls"
    assert COMPILER is not None
    compiler = script(
        tmp_path / "cxx",
        f'case "$*" in *cpu.cpp*) echo x >> {counter};; esac\nexec {shlex.quote(COMPILER)} "$@"',
    )
    together = [outcome(process) for process in [start(CXX=compiler) for _ in range(2)]]
    for said in together:
        assert "status: native | compiled for this machine" in said
        assert "registered: True" in said
    assert sum("said: operators: compiling those for the CPU, once for this machine" in said for said in together) == 1
    assert counter.read_text() == "x\n"
    (library,) = cache.glob("*.so")
    assert not list(cache.glob("building-*"))
    # Later: no build, nothing said; also where the compiler is gone.
    said = outcome(start(CXX="/nowhere/g++"))
    assert f"status: native | compiled for this machine | {library}" in said
    assert "said" not in said
    # A damaged library is built again.
    library.write_bytes(b"\x7fELF")
    assert "status: native | compiled for this machine, in " in outcome(start(CXX=compiler))
    assert counter.read_text() == "x\nx\n"


@needs_compiler
def test_a_cache_that_cannot_be_written(cache, tmp_path) -> None:
    readonly = tmp_path / "readonly"
    readonly.mkdir()
    readonly.chmod(0o500)
    if os.access(readonly, os.W_OK):  # root: permissions do not bind, a file in the way does
        readonly.rmdir()
        readonly.write_text("")
    said = outcome(start(LVGAN_CACHE=str(readonly)))
    assert "status: native | compiled for this machine" in said
    assert str(tmp_path / "tmp" / "lvgan-ops-") in said


@needs_compiler
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("in[i] +", "1 + in[i] +"), "(bias_act computes something else than the reference)"),
        (
            ("STABLE_TORCH_LIBRARY_IMPL(", "int missing(); int i = missing();\nSTABLE_TORCH_LIBRARY_IMPL("),
            "(it cannot be loaded: undefined symbol: ",
        ),
        (("int64_t inner = 1", "int64_t inner = *(volatile int*)0"), "(it crashes: SIGSEGV)"),
        (('m.impl("bias_act"', 'if (false) m.impl("bias_act"'), "(it has none of the operators)"),
    ],
    ids=["wrong numbers", "unresolved symbol", "crash", "empty"],
)
def test_a_library_that_does_not_work(cache, tmp_path, change: tuple[str, str], words: str) -> None:
    sources = tmp_path / "csrc"
    sources.mkdir()
    text = (TRIVIAL / "cpu.cpp").read_text()
    assert change[0] in text
    (sources / "cpu.cpp").write_text(text.replace(*change))
    said = outcome(start(sources))
    assert "status: reference | the compiled library does not work (" in said
    assert words in said
    assert "Error" not in said  # no name of a class, and no path of a file that is gone
    assert "building-" not in said
    assert "said again" not in said
    assert not list(cache.glob("*.so"))


@needs_compiler
def test_wrong_numbers_of_a_library_that_was_trusted(cache, tmp_path) -> None:
    """It lies in the cache under the right name: the reference, or a new library, takes its place all the same."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "cpu.cpp").write_text((TRIVIAL / "cpu.cpp").read_text().replace("in[i] +", "1 + in[i] +"))
    library = building.build(building.recipe("cpu", sources=wrong))
    place = cache / f"{building.recipe('cpu').name()}.so"
    _put(library, place)
    assert "status: reference | CXX names /nowhere/g++" in outcome(start(CXX="/nowhere/g++"))
    _put(library, place)
    assert "status: native | compiled for this machine, in " in outcome(start())


def _put(library: Path, place: Path) -> None:
    """Into the cache, as if it had been built there."""
    for suffix in (".so", ".sha256"):
        shutil.copy(library.with_suffix(suffix), place.with_suffix(suffix))


@pytest.mark.parametrize("harm", ["cut short", "overwritten", "without its digest"])
def test_a_damaged_library_is_built_again_and_never_loaded(cache, harm: str) -> None:
    recipe = building.recipe("cpu")
    library = building.build(recipe)
    content = library.read_bytes()
    if harm == "cut short":
        library.write_bytes(content[: len(content) // 2])
    elif harm == "overwritten":
        library.write_bytes(bytes(b ^ 0x5A if k % 64 == 0 else b for k, b in enumerate(content)))
    else:
        library.with_suffix(".sha256").unlink()
    assert building.find(recipe) is None
    assert building.build(recipe) == library
    assert folders.intact(library)
    assert building.find(recipe) == library


def test_a_compiler_variable_that_is_no_command(cache, monkeypatch) -> None:
    monkeypatch.setenv("CXX", '"')
    recipe = building.recipe("cpu")
    assert recipe.compiler is None
    assert "CXX is '\"', which is no command" in recipe.missing


def test_disabled_is_the_reference(cache) -> None:
    """Whatever runs outside of it: inside, the numbers are those of the reference, with gradients."""
    taps = setup_filter([1.0, 2, 3, 3, 2, 1], separable=True)
    x = torch.linspace(-1, 1, 2 * 3 * 8 * 9).reshape(2, 3, 8, 9).requires_grad_()
    with native.disabled(), native.disabled("cpu"):
        y = filtered_lrelu(x, taps, taps, up=2, down=2, padding=6, clamp=0.5)
        (dx,) = torch.autograd.grad(y.square().sum(), [x])
    exact = x.detach().double().requires_grad_()
    z = filtered_lrelu(exact, taps, taps, up=2, down=2, padding=6, clamp=0.5)
    (dz,) = torch.autograd.grad(z.square().sum(), [exact])
    assert (y - z).abs().max() <= 1e-6
    assert (dx - dz).abs().max() <= 1e-5
    assert torch.equal(bias_act(torch.ones(2), torch.ones(2), dim=0), torch.full((2,), 2.0))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
@pytest.mark.slow
def test_cuda_compiles_without_a_gpu(tmp_path) -> None:
    command = [sys.executable, "-m", "lvgan", "ops", "build", "--cuda", "--arch", "90"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LVGAN_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (library,) = (tmp_path / "ops").glob("cuda-*-90-*.so")
    assert f"cuda: {library}" in done.stdout
    if not torch.cuda.is_available():
        assert "compiled, not run" in done.stdout


# --- in a wheel -------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
def test_a_wheel_with_libraries_needs_no_compiler(tmp_path) -> None:
    """Built here, unpacked elsewhere: `doctor` says native with nothing on PATH and no cache."""
    import venv

    env = {**os.environ, "LVGAN_BUILD_LIBS": "1"}
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", ".venv", "build", "dist")
    )
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run(wheel, check=True, env=env, capture_output=True, timeout=900)
    (file,) = tmp_path.glob("lvgan-*-py3-none-*.whl")
    assert "any" not in file.name
    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean" / "bin" / "python"
    (site,) = (tmp_path / "clean" / "lib").glob("python3*/site-packages")
    shutil.unpack_archive(file, site, "zip")
    (site / "rest.pth").write_text(str(Path(torch.__file__).parents[1]))  # torch and the other dependencies
    (tmp_path / "empty").mkdir()
    bare = {"PATH": str(tmp_path / "empty"), "LVGAN_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(python), "-m", "lvgan", "doctor"], env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"native ({site}/lvgan/ops/_lib/cpu.so): came with the installation" in done.stdout
    assert not (tmp_path / "cache").exists()
