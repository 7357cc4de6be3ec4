"""Building where the disk, the compiler or another process is at fault. No library is loaded here.

What is compiled is `trivial/cpu.cpp`, or nothing at all by a script that stands in for a compiler.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lvgan
from lvgan.cli.ops import parse_chips
from lvgan.errors import ConfigError
from lvgan.ops import building, compilers, native
from lvgan.ops import cache as folders

TRIVIAL = Path(__file__).parent / "trivial"
ROOT = Path(lvgan.__file__).parents[1]

# Writes where -o says, after the script's own part.
FAKE = """case "$*" in *--version*) echo fake; exit;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
{part}
echo built > "$out"
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of the cache (not there yet); the one that stands in is in tmp_path/tmp."""
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(building, "SOURCES", TRIVIAL)
    compilers.forget_answers()
    for name in ("LVGAN_OPS", "CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "ops"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Make ``$CXX`` a script that runs `part` and then writes a library."""

    def make(part: str = "") -> Path:
        path = tmp_path / "cxx"
        path.write_text("#!/bin/sh\n" + FAKE.replace("{part}", part))
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    return make


def stand_in(tmp_path: Path) -> Path:
    return tmp_path / "tmp" / f"lvgan-ops-{os.getuid()}"


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory, where this user may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- a full disk and its like -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "says",
    [
        'echo "fatal error: error writing to x.s: No space left on device" >&2; exit 1',
        'echo "x.cpp: fatal error: closing dependency file: Disk quota exceeded" >&2; exit 1',
        'echo "collect2: fatal error: ld terminated with signal 7 [Bus error]" >&2; exit 1',
        'echo "g++: internal error: File size limit exceeded signal terminated program cc1plus" >&2; exit 4',
        'echo "g++: fatal error: Killed signal terminated program cc1plus" >&2; exit 1',
        "kill -9 $$",
    ],
)
def test_a_machine_at_fault_is_left_for_the_next_folder_and_not_remembered(
    cache, compiler, tmp_path, says: str
) -> None:
    compiler(f'case "$out" in {cache}/*cpu-*) {says};; esac')
    said: list[str] = []
    library = building.build(building.recipe("cpu"), announce=lambda: said.append("compiling"))
    assert library.parent == stand_in(tmp_path)
    assert folders.intact(library)
    assert building.find(building.recipe("cpu")) == library
    assert said == ["compiling"]
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]
    library.unlink()
    compiler()  # the same compiler, on a machine that is well again: at once, and in the cache
    assert building.build(building.recipe("cpu")).parent == cache


def test_full_everywhere(cache, compiler, tmp_path) -> None:
    compiler('case "$out" in *cpu-*) echo "ld: final link failed: No space left on device" >&2; exit 1;; esac')
    for _ in range(2):  # the second time it is not "tried again by `lvgan ops build`"
        with pytest.raises(compilers.MachineFaultError) as caught:
            building.build(building.recipe("cpu"))
        why = f"{tmp_path / 'cxx'} failed (ld: final link failed: No space left on device)"
        assert str(caught.value) == f"no folder to build in ({cache}: {why}; {stand_in(tmp_path)}: {why})"
    left = [*cache.iterdir(), *stand_in(tmp_path).iterdir()]
    assert {path.suffix for path in left} == {".lock"}


def test_next_to_no_space_is_seen_before_the_compiler_runs(cache, compiler, tmp_path, monkeypatch) -> None:
    compiler(f'echo "$out" >> {tmp_path}/calls')
    usage = shutil.disk_usage(tmp_path)
    full = usage._replace(free=1000)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: full if Path(path) == cache else usage)
    assert building.build(building.recipe("cpu")).parent == stand_in(tmp_path)
    assert str(cache) not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_cannot_be_written_in_the_end(cache, compiler, tmp_path, monkeypatch, number: int) -> None:
    """The compiler came through, and the disk was full when its library was put into place."""
    compiler()
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).parent == cache and target.suffix == ".sha256":
            raise OSError(number, os.strerror(number))
        replace(source, target)

    monkeypatch.setattr(folders.os, "replace", full)
    assert building.build(building.recipe("cpu")).parent == stand_in(tmp_path)
    assert not list(cache.glob("*.failed"))
    assert building.find(building.recipe("cpu")).parent == stand_in(tmp_path)


def test_a_small_disk_that_runs_full(cache, tmp_path, monkeypatch) -> None:
    """A real one, with a real compiler."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(folders, "SPACE_NEEDED", 0)
    with mounted(tmp_path / "cache", "size=64k") as disk:
        library = building.build(building.recipe("cpu"))
        assert library.parent == stand_in(tmp_path)
        assert not list(disk.rglob("*.failed"))
        assert not list(disk.rglob("building-*"))


def test_a_disk_from_which_nothing_is_loaded(cache, compiler, tmp_path) -> None:
    compiler()
    with mounted(tmp_path / "cache", "size=80m,noexec"):
        library = building.build(building.recipe("cpu"))
        assert library.parent == stand_in(tmp_path)
        for path in (library, library.with_suffix(".sha256")):
            shutil.copy(path, cache)
        library.unlink()
        assert building.find(building.recipe("cpu")) is None


def test_noexec_without_mounting(cache, compiler, tmp_path, monkeypatch) -> None:
    compiler()
    monkeypatch.setattr(folders, "loadable", lambda folder: folder != cache)
    assert building.build(building.recipe("cpu")).parent == stand_in(tmp_path)


def test_a_folder_that_may_not_be_loaded_from_is_no_fault_of_the_library() -> None:
    said = b"it cannot be loaded: failed to map segment from shared object\n"
    with pytest.raises(compilers.MachineFaultError, match="failed to map segment"):
        native._judge(subprocess.CompletedProcess([], 3, said, b""))
    with pytest.raises(compilers.MachineFaultError, match="killed"):
        native._judge(subprocess.CompletedProcess([], -9, b"", b""))


@pytest.mark.parametrize("where", ["LVGAN_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_a_file_in_the_place_of_the_cache(cache, compiler, tmp_path, monkeypatch, where: str) -> None:
    compiler()
    (tmp_path / "file").write_text("mine")
    for name in ("LVGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(where, str(tmp_path / "file"))
    assert building.build(building.recipe("cpu")).parent == stand_in(tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_no_home(cache, compiler, tmp_path, monkeypatch) -> None:
    """As for a user whom the system does not know: `~` stands for nothing then."""
    compiler()
    for name in ("LVGAN_CACHE", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr(folders.os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert folders.cache_folder() is None
    assert building.build(building.recipe("cpu")).parent == stand_in(tmp_path)
    assert not (tmp_path / "~").exists()
    assert not (tmp_path / "not").exists()


def test_an_empty_home_is_none(monkeypatch) -> None:
    for name in ("LVGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    assert folders.cache_folder() is None


# --- compilers that do not answer, or fail ----------------------------------------------------------


def test_a_compiler_that_never_answers_is_asked_once(cache, tmp_path, monkeypatch) -> None:
    silent = tmp_path / "silent"
    silent.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nsleep 30 &\nwait\n')
    silent.chmod(0o755)
    monkeypatch.setenv("CXX", str(silent))
    monkeypatch.setattr(compilers, "ANSWER_LIMIT", 0.6)
    started = time.monotonic()
    problems = {building.recipe("cpu").missing for _ in range(3)}
    assert problems == {f"{silent} --version gave no answer in 1 s"}
    assert time.monotonic() - started < 3
    assert (tmp_path / "calls").read_text() == "--version\n"
    native.forget()  # the user may have mended it
    silent.write_text("#!/bin/sh\necho 12.2\n")
    assert building.recipe("cpu").compiler == compilers.Compiler((str(silent),), f"{silent}\n12.2\n")


def test_the_limit_of_an_answer_is_short() -> None:
    assert compilers.ANSWER_LIMIT <= 5


def test_a_program_that_cannot_be_run(cache, tmp_path, monkeypatch) -> None:
    (tmp_path / "text").write_text("not a program")
    (tmp_path / "text").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "text"))
    assert building.recipe("cpu").missing == f"cannot run {tmp_path / 'text'} (Exec format error)"


def test_the_whole_build_has_one_limit(cache, compiler) -> None:
    compiler("sleep 0.7")  # for each of two calls
    with pytest.raises(building.BuildError, match="was not done after 1 s"):
        building.build(building.recipe("cpu"), limit=1.0)


def test_without_a_log_the_sentence_has_the_reason(cache, compiler, tmp_path) -> None:
    path = compiler('echo "x.cpp:3: error: no type named X" >&2; exit 1')
    with pytest.raises(building.BuildError) as caught:
        building.compile_to(building.recipe("cpu"), tmp_path / "library.so")
    assert str(caught.value) == f"{path} failed (x.cpp:3: error: no type named X)"
    recipe = building.recipe("cpu")
    cache.mkdir(parents=True)
    (cache / f"{recipe.name()}.log").mkdir()
    with pytest.raises(building.BuildError, match=r"failed \(x.cpp:3: error: no type named X\)$"):
        building.build(recipe)


# --- CUDA's chips -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "chips"),
    [
        (["90"], (90,)),
        (["9.0"], (90,)),
        (["sm_90"], (90,)),
        (["SM_90a"], (90,)),
        (["compute_90"], (90,)),
        (["80,90"], (80, 90)),
        (["8.6, sm_120", "10.0"], (86, 120, 100)),
        (["12.1"], (121,)),
        ([], ()),
    ],
)
def test_chips_as_people_write_them(words: list[str], chips: tuple[int, ...]) -> None:
    assert parse_chips(words) == chips


@pytest.mark.parametrize(
    "word", ["potato", "", " ", "-1", "90,", "9", "0", "4.9", "9.00", "sm_9.0", "1e2", "9O", "٩٠", "90;80"]
)
def test_other_chips_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"--arch .* was given, but a CUDA chip such as 80, 9\.0 or sm_90 was"):
        parse_chips([word])


@pytest.fixture
def nvcc(cache, tmp_path, monkeypatch) -> Path:
    """Stands in for one that compiles for 75, 80 and 86."""
    path = tmp_path / "nvcc"
    path.write_text(
        '#!/bin/sh\ncase "$*" in *--list-gpu-arch*) printf "compute_%s\\n" 75 80 86;; *) echo nvcc 11;; esac\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(path))
    return path


def test_a_chip_that_nvcc_does_not_know(nvcc) -> None:
    recipe = building.recipe("cuda", archs=[80, 999])
    assert recipe.compiler is None
    assert recipe.missing == f"{nvcc} does not compile for chip 999, only for 75, 80, 86"
    assert building.recipe("cuda", archs=[86, 80]).variant == "80.86"


def test_the_default_chips_are_those_that_nvcc_knows(nvcc, monkeypatch) -> None:
    monkeypatch.setattr(building, "device_chips", lambda: [])
    assert building.recipe("cuda").variant == "80"
    monkeypatch.setattr(building, "device_chips", lambda: [75])
    assert building.recipe("cuda").variant == "75.80"
    monkeypatch.setattr(building, "device_chips", lambda: [70])
    assert "does not compile for chip 70" in building.recipe("cuda").missing
    nvcc.write_text("#!/bin/sh\necho some nvcc\n")  # one that does not say: it will when it compiles
    compilers.forget_answers()
    monkeypatch.setattr(building, "device_chips", lambda: [])
    assert building.recipe("cuda").variant == "80.90"


# --- several processes, machines and users ----------------------------------------------------------

BUILD = """
import sys
from pathlib import Path
from lvgan.ops import building
building.SOURCES = Path(sys.argv[1])
print(building.build(building.recipe("cpu")))
"""


def test_a_build_that_is_killed_leaves_no_lock(cache, compiler, tmp_path) -> None:
    mark = tmp_path / "started"
    path = compiler(f"case $out in *cpu-*) [ -e {mark} ] || {{ touch {mark}; sleep 3; }};; esac")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(TRIVIAL)], env=env)
    try:
        end = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert mark.exists()
        (lock,) = cache.glob("*.lock")
        with lock.open() as file, pytest.raises(BlockingIOError):  # it is being built
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    started = time.monotonic()
    library = building.build(building.recipe("cpu"))
    assert library.parent == cache
    assert time.monotonic() - started < 2.5  # without waiting for the dead one, or for its compiler
    assert path.exists()
    # What it has left goes a day later.
    (left,) = cache.glob("building-*")
    os.utime(left, (1, 1))
    library.unlink()
    building.build(building.recipe("cpu"))
    assert not left.exists()


def test_a_lock_that_is_held_for_ever_delays_and_does_not_hang(cache, compiler) -> None:
    compiler()
    recipe = building.recipe("cpu")
    cache.mkdir(parents=True)
    with (cache / f"{recipe.name()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert building.build(recipe, limit=0.5).parent == cache


def test_a_file_system_without_locks(cache, compiler, monkeypatch) -> None:
    compiler()

    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert folders.intact(building.build(building.recipe("cpu")))


def test_machines_that_share_a_cache_load_only_what_their_processor_runs(cache, compiler, monkeypatch) -> None:
    compiler()
    monkeypatch.setattr(building, "cpu_features", lambda: "fpu avx2 avx512f avx512dq")
    large = building.build(building.recipe("cpu"))
    monkeypatch.setattr(building, "cpu_features", lambda: "fpu avx2")
    assert building.find(building.recipe("cpu")) is None
    monkeypatch.setenv("CXX", "/nowhere/g++")  # also where any compiler's library would do
    assert building.find(building.recipe("cpu")) is None
    compiler()
    small = building.build(building.recipe("cpu"))
    assert small != large
    assert building.find(building.recipe("cpu")) == small
    monkeypatch.setattr(building, "cpu_features", lambda: "fpu avx2 avx512f avx512dq")
    assert building.find(building.recipe("cpu")) == large


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_library_that_may_not_be_read_is_built_again(cache, compiler) -> None:
    compiler()
    library = building.build(building.recipe("cpu"))
    for path in cache.iterdir():
        path.chmod(0)
    assert building.find(building.recipe("cpu")) is None
    assert building.build(building.recipe("cpu")) == library
    assert folders.intact(library)


def test_a_cache_of_another_user(cache, compiler, tmp_path, monkeypatch) -> None:
    """Copied whole, it serves; cut short on the way, its library is built again."""
    compiler()
    library = building.build(building.recipe("cpu"))
    shutil.copytree(cache, tmp_path / "copy" / "ops")
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "copy"))
    assert building.find(building.recipe("cpu")) == tmp_path / "copy" / "ops" / library.name
    (tmp_path / "copy" / "ops" / library.name).write_text("")
    assert building.find(building.recipe("cpu")) is None
    assert building.build(building.recipe("cpu")).read_text() == "built\n"


# --- a wheel's library ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "fits"),
    [
        ("fpu avx2 bmi1 bmi2 f16c fma abm movbe", True),
        ("fpu avx2 bmi1 f16c fma abm movbe", False),
        ("fpu sse4_2 avx", False),
    ],
)
def test_which_processors_a_wheel_is_for(monkeypatch, features: str, fits: bool) -> None:
    monkeypatch.setattr(building, "_is_x86", lambda: True)
    facts = building.bundle_facts(building.Recipe("cpu", building.SOURCES, "portable", None))
    assert facts["cpu"] == "AVX2"
    monkeypatch.setattr(building, "cpu_features", lambda: features)
    assert building.bundle_fits(facts, "cpu") == fits


def test_where_a_wheel_is_outgrown(monkeypatch) -> None:
    monkeypatch.setattr(building, "cpu_features", lambda: "fpu avx2 avx512f avx512dq")
    assert building.outgrows_bundle("cpu")
    assert not building.outgrows_bundle("cuda")
    monkeypatch.setattr(building, "cpu_features", lambda: "fpu avx2")
    assert not building.outgrows_bundle("cpu")


@pytest.fixture
def bundle(cache, tmp_path, monkeypatch) -> Path:
    """A wheel's library, on a processor that has more than it uses. Loading does nothing."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "cpu.so").write_text("from the wheel")
    recipe = building.Recipe("cpu", TRIVIAL, "portable", None)
    (folder / "cpu.json").write_text(json.dumps(building.bundle_facts(recipe)))
    monkeypatch.setattr(native, "BUNDLE", folder)
    monkeypatch.setattr(native, "_states", {})
    monkeypatch.setattr(native, "_load", lambda kind, path: None)
    monkeypatch.setattr(native, "check_apart", lambda kind: None)
    features = "fpu avx2 bmi1 bmi2 f16c fma abm movbe avx512f avx512dq"
    monkeypatch.setattr(building, "cpu_features", lambda: features)
    return folder


def activated() -> tuple[native.Status, list[str]]:
    said: list[str] = []
    native._states.clear()
    return native.activate("cpu", said.append), said


def test_a_wheel_that_is_outgrown_gives_way_to_a_library_built_here(cache, compiler, bundle) -> None:
    compiler()
    status, said = activated()
    assert status.active
    assert status.path is not None
    assert status.path.parent == cache
    assert said == ["operators: compiling those for the CPU, once for this machine"]
    status, said = activated()
    assert (status.path.parent, status.reason, said) == (cache, "compiled for this machine", [])


def test_a_wheel_that_is_outgrown_stands_in_for_what_cannot_be_built(cache, compiler, bundle, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    status, said = activated()
    assert (status.active, status.path, said) == (True, bundle / "cpu.so", [])
    assert status.reason == (
        "came with the installation; compiled here, for AVX-512, they would be up to twice as fast, "
        "but: CXX names /nowhere/g++, which is not a program"
    )
    path = compiler("exit 1")
    for tries in (1, 2):
        status, said = activated()
        assert (status.active, status.path) == (True, bundle / "cpu.so")
        assert f"but: {path} failed (log: {cache}/" in status.reason
        assert len(said) == (tries == 1)  # the second time nothing is compiled


def test_a_wheel_that_is_not_outgrown_is_used_as_it_is(cache, compiler, bundle, monkeypatch) -> None:
    compiler()
    monkeypatch.setattr(building, "outgrows_bundle", lambda kind: False)
    status, said = activated()
    assert (status.path, status.reason, said) == (bundle / "cpu.so", "came with the installation", [])
    assert not cache.exists()


def test_a_wheel_of_other_sources_is_not_used(cache, bundle, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    (bundle / "cpu.json").write_text(json.dumps({"source": "another"}))
    status, said = activated()
    assert (status.active, status.reason) == (False, "CXX names /nowhere/g++, which is not a program")
    assert len(said) == 1
