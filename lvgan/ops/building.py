"""Compile the operators with the user's compiler into the user's cache. Nothing here is loaded.

The sources use torch's stable ABI only, so that one library serves this torch, later ones and every
Python. A library is looked for before it is built; its file name says what it was built from::

    cpu-BASE-native-COMPILER.so        cuda-BASE-80.90-COMPILER.so

BASE is a hash of the sources, the flags, torch's release and (on the CPU) the processor's features,
COMPILER one of the compiler's version. Beside it lie the compiler's output (``.log``) and, after a
failure, why (``.failed``): the same compiler is not asked again for a day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

KINDS = ("cpu", "cuda")
SOURCES = Path(__file__).parent / "csrc"
MAIN_SOURCE = {"cpu": "cpu.cpp", "cuda": "cuda.cu"}
OLDEST_TORCH = (2, 10)  # the first with everything that the sources use of the stable ABI
DEFAULT_ARCHS = (80, 90)  # with PTX of the last for what comes later
TIME_LIMIT = {"cpu": 60.0, "cuda": 240.0}  # seconds of an automatic build; then the reference runs
RETRY_AFTER = 24 * 3600.0  # seconds for which a failure is remembered

_HEADERS = {".h", ".hpp", ".cuh", ".inl"}
_COMMON = (
    "-std=c++17",
    "-O3",
    "-shared",
    f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}{0:012x}",
)
_CPU = ("-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
_CUDA = ("-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static", "-DUSE_CUDA", "--threads", "0")


class BuildError(Exception):
    """There is no library, for a reason that one line can give."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler or nvcc: its command line and the version it states."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Recipe:
    """What a library is built from; `compiler` is None if there is none (see `missing`)."""

    kind: str
    sources: Path
    variant: str  # "native", "portable", or "80.90": the chips of a CUDA library
    compiler: Compiler | None
    missing: str = ""

    @property
    def source(self) -> Path:
        """The one file to compile."""
        return self.sources / MAIN_SOURCE[self.kind]

    @property
    def base(self) -> str:
        """Hash of everything but the compiler (and the chips of a CUDA library)."""
        facts: list[Any] = [
            source_hash(self.kind, self.sources),
            _COMMON,
            torch_release(),
            platform.machine(),
            sys.platform,
        ]
        facts += [_CPU, cpu_features()] if self.kind == "cpu" else [_CUDA]
        return _digest(json.dumps(facts).encode())

    def name(self) -> str:
        """The file's name without its suffix."""
        assert self.compiler is not None
        return f"{self.kind}-{self.base}-{self.variant}-{_digest(self.compiler.version.encode())}"

    def flags(self) -> list[str]:
        """The flags of the compiler, without paths."""
        if self.kind == "cuda":
            chips = self.variant.split(".")
            codes = [flag for chip in chips for flag in ("-gencode", f"arch=compute_{chip},code=sm_{chip}")]
            codes += ["-gencode", f"arch=compute_{chips[-1]},code=compute_{chips[-1]}"]
            return [*_COMMON, *_CUDA, *codes]
        return [*_COMMON, *_CPU, *_processor_flags(self.variant)]


def recipe(kind: str, *, sources: Path | None = None, portable: bool = False, archs: Sequence[int] = ()) -> Recipe:
    """What a library of `kind` would be built from on this machine.

    `portable` is for wheels: x86-64-v3 (AVX2) instead of this very processor. `archs` are CUDA chips
    (default: those of :data:`DEFAULT_ARCHS` and any older one in this machine).
    """
    variant = "portable" if portable else "native"
    if kind == "cuda":
        variant = ".".join(str(arch) for arch in sorted(set(archs or _default_archs())))
    try:
        return Recipe(kind, sources or SOURCES, variant, find_compiler(kind))
    except BuildError as error:
        return Recipe(kind, sources or SOURCES, variant, None, str(error))


def _default_archs() -> tuple[int, ...]:
    return (*DEFAULT_ARCHS, *(chip for chip in device_chips() if chip < DEFAULT_ARCHS[0]))


def device_chips() -> list[int]:
    """The compute capabilities of this machine's GPUs, such as 90."""
    if not torch.cuda.is_available():
        return []
    pairs = (torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    return sorted({major * 10 + minor for major, minor in pairs})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def source_hash(kind: str, sources: Path | None = None) -> str:
    """Hash of the source of `kind` and of all headers."""
    files = [
        path
        for path in sorted((sources or SOURCES).iterdir())
        if path.suffix in _HEADERS or path.name == MAIN_SOURCE[kind]
    ]
    return _digest(b"".join(path.name.encode() + b"\0" + path.read_bytes() + b"\0" for path in files))


def torch_release() -> tuple[int, int]:
    """Major and minor version of torch."""
    major, minor, *_ = str(torch.__version__).split("+")[0].split(".")
    return int(major), int(minor)


def cpu_features() -> str:
    """What this processor can do, as text."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.partition(":")[0].strip() in ("flags", "Features"):
                return line.partition(":")[2].strip()
    return f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def _processor_flags(variant: str) -> list[str]:
    x86 = platform.machine() in ("x86_64", "AMD64")
    if variant == "portable":
        return ["-march=x86-64-v3"] if x86 else []
    return ["-march=native"] if x86 else ["-mcpu=native"]


# --- the compiler ---------------------------------------------------------------------------------


def find_compiler(kind: str) -> Compiler:
    """``$CXX``, or g++, c++ or clang++ on PATH; for CUDA ``$CUDACXX``, ``$CUDA_HOME``, PATH.

    Raises:
        BuildError: there is none, or it does not answer.
    """
    command = _command(kind)
    try:
        answer = _run([*command, "--version"], 10.0)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{shlex.join(command)} --version gave no answer in 10 s") from None
    except OSError as error:
        raise BuildError(f"no folder for temporary files ({error.strerror})") from None
    return Compiler(tuple(command), f"{shlex.join(command)}\n{answer[1]}")


def _command(kind: str) -> list[str]:
    variable = "CXX" if kind == "cpu" else "CUDACXX"
    try:
        named = shlex.split(os.environ.get(variable) or "")
    except ValueError as error:
        raise BuildError(
            f"{variable} is {os.environ[variable]!r}, which is no command ({error}); correct it"
        ) from error
    if named:
        if shutil.which(named[0]) is None:
            raise BuildError(f"{variable} names {named[0]}, which is not a program")
        return named
    if kind == "cpu":
        candidates = ["g++", "c++", "clang++"]
        missing = "no C++ compiler on PATH (g++, c++ or clang++; CXX may name one)"
    else:
        homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
        candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
        candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
        missing = "no nvcc on PATH (CUDACXX or CUDA_HOME may name one)"
    for candidate in candidates:
        if shutil.which(candidate):
            return [candidate]
    raise BuildError(missing)


def _run(command: Sequence[str], limit: float, temporary: Path | None = None) -> tuple[int, str]:
    """Exit status and output. All that it started is gone when this returns, also after an exception."""
    environment = dict(os.environ, LC_ALL="C")
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    with tempfile.TemporaryFile(dir=temporary) as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise BuildError(f"cannot run {command[0]} ({error.strerror})") from None
        try:
            status = process.wait(limit)
        finally:
            with contextlib.suppress(OSError):  # the compiler's children too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return status, output.read().decode("utf-8", "replace")


# --- the cache ------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where libraries are kept: ``$LVGAN_CACHE/ops``, or ``lvgan/ops`` in the user's cache folder."""
    named = os.environ.get("LVGAN_CACHE")
    if named:
        return Path(named) / "ops"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lvgan" / "ops"


def temporary_folder(*, make: bool = True) -> Path:
    """Stands in for a cache that cannot be written to. Only this user can put a library there.

    Raises OSError where there is no such folder.
    """
    folder = Path(tempfile.gettempdir()) / f"lvgan-ops-{os.getuid()}"
    if make:
        folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def _folders(*, make: bool) -> Iterator[Path]:
    yield cache_folder()
    with contextlib.suppress(OSError):
        yield temporary_folder(make=make)


def find(recipe: Recipe) -> Path | None:
    """The newest library in the cache that this machine's compiler built, or any if there is no compiler."""
    compiler = "*" if recipe.compiler is None else _digest(recipe.compiler.version.encode())
    variant = recipe.variant if recipe.kind == "cpu" else "*"
    for folder in _folders(make=False):
        with contextlib.suppress(OSError):
            files = folder.glob(f"{recipe.kind}-{recipe.base}-{variant}-{compiler}.so")
            fitting = [path for path in files if recipe.kind == "cpu" or covers(path.name.split("-")[2])]
            for path in sorted(fitting, key=lambda path: path.stat().st_mtime, reverse=True):
                if intact(path):
                    return path
    return None


def intact(path: Path) -> bool:
    """Whether a library in the cache is byte for byte what was built: loading a damaged one ends the process."""
    try:
        return path.with_suffix(".sha256").read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


def covers(variant: str) -> bool:
    """Whether a CUDA library for the chips `variant` runs on every GPU of this machine.

    Code runs on later chips of the same major version, and the PTX of the last on all later ones.
    """
    chips = [int(chip) for chip in variant.split(".")]
    return all(
        any(chip // 10 == own // 10 and chip <= own for chip in chips) or max(chips) <= own for own in device_chips()
    )


def _workplace() -> tuple[Path, Path]:
    """A folder that can be written to, and an empty folder in it."""
    problems = []
    for folder in _folders(make=True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return folder, Path(tempfile.mkdtemp(prefix="building-", dir=folder))
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
    raise BuildError("no folder to build in (" + "; ".join(problems) + ")")


@contextlib.contextmanager
def _turn(path: Path, limit: float) -> Iterator[None]:
    """Wait until no other process builds the same; at most `limit` seconds, as two builds do no harm."""
    try:
        import fcntl

        file = path.open("w")
    except (ImportError, OSError):
        yield
        return
    with file:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield


# --- building -------------------------------------------------------------------------------------


def build(
    recipe: Recipe,
    check: Callable[[Path], None] | None = None,
    *,
    announce: Callable[[], object] | None = None,
    limit: float | None = None,
    retry: bool = False,
    force: bool = False,
) -> Path:
    """Build a library unless it is there, and return its path.

    It appears under its name only when it is whole and `check` (which raises BuildError) has passed it.
    `announce` is called before the compiler is; `limit` is in seconds. `retry` tries again what failed
    within a day, `force` also builds again what is there.

    Raises:
        BuildError: why there is none; the compiler's output is in a file that it names.
    """
    if recipe.compiler is None:
        raise BuildError(recipe.missing)
    limit = TIME_LIMIT[recipe.kind] if limit is None else limit
    folder, work = _workplace()
    try:
        target = folder / f"{recipe.name()}.so"
        with _turn(target.with_suffix(".lock"), limit):
            if not force:
                if intact(target):
                    return target
                if not retry:
                    _raise_if_failed(target.with_suffix(".failed"))
            if announce is not None:
                announce()
            try:
                _compile(recipe, work / target.name, limit, target.with_suffix(".log"))
                if check is not None:
                    check(work / target.name)
            except BuildError as error:
                _write(target.with_suffix(".failed"), str(error))
                raise
            digest = hashlib.sha256((work / target.name).read_bytes()).hexdigest()
            os.replace(work / target.name, target)
            _write(target.with_suffix(".sha256"), digest)
            target.with_suffix(".failed").unlink(missing_ok=True)
            return target
    except OSError as error:
        raise BuildError(f"cannot write to {folder} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def compile_to(recipe: Recipe, target: Path, *, limit: float = 1200.0) -> None:
    """Build a library as the file `target` (for wheels). Raises BuildError."""
    with tempfile.TemporaryDirectory() as work:
        _compile(recipe, Path(work) / target.name, limit, target.with_suffix(".log"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(work) / target.name, target)


def bundle_facts(recipe: Recipe) -> dict[str, str]:
    """What is kept beside a library in a wheel: what it was built from, and what it needs to run."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return {
        "source": source_hash(recipe.kind, recipe.sources),
        "machine": platform.machine(),
        "cpu": "AVX2" if recipe.kind == "cpu" and x86 else "",
        "chips": recipe.variant if recipe.kind == "cuda" else "",
    }


def bundle_fits(facts: dict[str, str], kind: str) -> bool:
    """Whether a library with such facts belongs to these sources and runs on this machine."""
    if facts.get("source") != source_hash(kind) or facts.get("machine") != platform.machine():
        return False
    if facts.get("cpu") and not torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "AVX512")):
        return False
    return not facts.get("chips") or covers(facts["chips"])


def _compile(recipe: Recipe, target: Path, limit: float, log: Path) -> None:
    include = Path(torch.__file__).parent / "include"
    if not (include / "torch" / "csrc" / "stable").is_dir():
        raise BuildError(f"this torch has no headers of the stable ABI in {include}")
    if recipe.compiler is None:
        raise BuildError(recipe.missing)
    command = [*recipe.compiler.command, *recipe.flags(), f"-I{include}", str(recipe.source), "-o", str(target)]
    try:
        command += _link_flags(recipe.compiler, recipe.kind, target.parent, limit)
        status, output = _run(command, limit, target.parent)
    except subprocess.TimeoutExpired:
        _write(log, f"{shlex.join(command)}\n\nstopped after {limit:.0f} s\n")
        raise BuildError(f"{recipe.compiler.command[0]} was not done after {limit:.0f} s (log: {log})") from None
    _write(log, f"{shlex.join(command)}\n\n{output}\nexit status {status}\n")
    if status != 0 or not target.exists():
        raise BuildError(f"{recipe.compiler.command[0]} failed (log: {log})")


def _link_flags(compiler: Compiler, kind: str, work: Path, limit: float) -> list[str]:
    """Name torch's libraries as needed, without having them: they are loaded already when ours is.

    Empty libraries of the right names do; a CUDA library can thus be built beside a CPU torch.
    """
    if sys.platform == "darwin":
        return ["-undefined", "dynamic_lookup"]
    empty = work / "empty.cpp"
    empty.write_text("")
    names = ["torch_cpu"] if kind == "cpu" else ["torch_cpu", "torch_cuda"]
    for name in names:
        soname = ["-Xlinker", "-soname", "-Xlinker", f"lib{name}.so"]
        _run([*compiler.command, "-shared", str(empty), "-o", str(work / f"lib{name}.so"), *soname], limit, work)
    return ["-Xlinker", "--no-as-needed", f"-L{work}", *(f"-l{name}" for name in names)]


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        path.write_text(text, encoding="utf-8")


def _raise_if_failed(record: Path) -> None:
    with contextlib.suppress(OSError):
        age = time.time() - record.stat().st_mtime
        if 0 <= age < RETRY_AFTER:
            raise BuildError(record.read_text(encoding="utf-8") + "; `lvgan ops build` tries again")
