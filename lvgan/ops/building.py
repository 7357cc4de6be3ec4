"""Compile the operators with the user's compiler into the user's cache. Nothing here is loaded.

The sources use torch's stable ABI only, so that one library serves this torch, later ones and every
Python. A library is looked for before it is built; its file name says what it was built from::

    cpu-BASE-native-COMPILER.so        cuda-BASE-80.90-COMPILER.so

BASE is a hash of the sources, the flags, torch's release and (on the CPU) the processor's features,
COMPILER one of the compiler's version. Beside it lie the compiler's output (``.log``) and, after a
failure, why (``.failed``): the same compiler is not asked again for a day. What the disk or the memory
is to blame for is not remembered; the next folder stands in (see :mod:`lvgan.ops.cache`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lvgan.ops import cache
from lvgan.ops.compilers import BuildError, Compiler, MachineFaultError, find_compiler, nvcc_chips, run

KINDS = ("cpu", "cuda")
SOURCES = Path(__file__).parent / "csrc"
MAIN_SOURCE = {"cpu": "cpu.cpp", "cuda": "cuda.cu"}
OLDEST_TORCH = (2, 10)  # the first with everything that the sources use of the stable ABI
DEFAULT_ARCHS = (80, 90)  # with PTX of the last for what comes later
TIME_LIMIT = {"cpu": 120.0, "cuda": 300.0}  # seconds of an automatic build; then the reference runs

_HEADERS = {".h", ".hpp", ".cuh", ".inl"}
_COMMON = (
    "-std=c++17",
    "-O3",
    "-shared",
    f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}{0:012x}",
)
_CPU = ("-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
_CUDA = ("-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static", "-DUSE_CUDA", "--threads", "0")


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
    compiler, missing = None, ""
    try:
        compiler = find_compiler(kind)
    except BuildError as error:
        missing = str(error)
    if kind == "cuda":
        supported = nvcc_chips(compiler) if compiler else []
        chips = sorted(set(archs or _default_archs(supported)))
        refused = [chip for chip in chips if supported and chip not in supported]
        if compiler and refused:
            missing = (
                f"{shlex.join(compiler.command)} does not compile for chip {_listed(refused)}, "
                f"only for {_listed(supported)}"
            )
            compiler = None
        variant = ".".join(map(str, chips))
    return Recipe(kind, sources or SOURCES, variant, compiler, missing)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _default_archs(supported: Sequence[int]) -> tuple[int, ...]:
    """Those of the default that nvcc knows, and any older one in this machine."""
    usual = tuple(chip for chip in DEFAULT_ARCHS if chip in supported) or DEFAULT_ARCHS
    return (*usual, *(chip for chip in device_chips() if chip < usual[0]))


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


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _processor_flags(variant: str) -> list[str]:
    if variant == "portable":
        return ["-march=x86-64-v3"] if _is_x86() else []
    return ["-march=native"] if _is_x86() else ["-mcpu=native"]


# --- the cache ------------------------------------------------------------------------------------


def find(recipe: Recipe) -> Path | None:
    """The newest library in the cache that this machine's compiler built, or any if there is no compiler."""
    compiler = "*" if recipe.compiler is None else _digest(recipe.compiler.version.encode())
    variant = recipe.variant if recipe.kind == "cpu" else "*"
    for folder in cache.folders(make=False):
        with contextlib.suppress(OSError):
            if not cache.loadable(folder):
                continue
            files = folder.glob(f"{recipe.kind}-{recipe.base}-{variant}-{compiler}.so")
            fitting = [path for path in files if recipe.kind == "cpu" or covers(path.name.split("-")[2])]
            for path in sorted(fitting, key=lambda path: path.stat().st_mtime, reverse=True):
                if cache.intact(path):
                    return path
    return None


def covers(variant: str) -> bool:
    """Whether a CUDA library for the chips `variant` runs on every GPU of this machine.

    Code runs on later chips of the same major version, and the PTX of the last on all later ones.
    """
    chips = [int(chip) for chip in variant.split(".")]
    return all(
        any(chip // 10 == own // 10 and chip <= own for chip in chips) or max(chips) <= own for own in device_chips()
    )


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
    within a day, `force` also builds again what is there. A folder that is full, or does not do for
    another reason, is left for the next; that is not remembered as a failure of these sources.

    Raises:
        BuildError: why there is none; the compiler's output is in a file that it names.
    """
    if recipe.compiler is None:
        raise BuildError(recipe.missing)
    limit = TIME_LIMIT[recipe.kind] if limit is None else limit
    once = functools.cache(announce or (lambda: None))
    problems = []
    for folder in cache.folders(make=True):
        try:
            with cache.workplace(folder) as work:
                target = folder / f"{recipe.name()}.so"
                with cache.turn(target.with_suffix(".lock"), limit):
                    if force or not cache.intact(target):
                        _build(recipe, work / target.name, target, check, once, limit, retry or force)
                    return target
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
        except MachineFaultError as error:
            problems.append(f"{folder}: {error}")
    raise MachineFaultError("no folder to build in (" + "; ".join(problems or ["none can be written to"]) + ")")


def _build(
    recipe: Recipe,
    new: Path,
    target: Path,
    check: Callable[[Path], None] | None,
    announce: Callable[[], object],
    limit: float,
    retry: bool,
) -> None:
    """Build `target` by way of `new`, a file in a folder of its own."""
    record = target.with_suffix(".failed")
    before = "" if retry else cache.remembered(record)
    if before:
        raise BuildError(f"{before}; `lvgan ops build` tries again")
    announce()
    try:
        _compile(recipe, new, limit, target.with_suffix(".log"))
        if check is not None:
            check(new)
    except MachineFaultError:
        raise
    except BuildError as error:
        cache.write(record, str(error))
        raise
    cache.keep(new, target)
    record.unlink(missing_ok=True)


def compile_to(recipe: Recipe, target: Path, *, limit: float = 1200.0) -> None:
    """Build a library as the file `target` (for wheels). Raises BuildError."""
    with tempfile.TemporaryDirectory() as work:
        _compile(recipe, Path(work) / target.name, limit, None)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(work) / target.name, target)


def _compile(recipe: Recipe, target: Path, limit: float, log: Path | None) -> None:
    include = Path(torch.__file__).parent / "include"
    if not (include / "torch" / "csrc" / "stable").is_dir():
        raise BuildError(f"this torch has no headers of the stable ABI in {include}")
    if recipe.compiler is None:
        raise BuildError(recipe.missing)
    end = time.monotonic() + limit
    command = [*recipe.compiler.command, *recipe.flags(), f"-I{include}", str(recipe.source), "-o", str(target)]
    program = recipe.compiler.command[0]
    try:
        command += _link_flags(recipe.compiler, recipe.kind, target.parent, end)
        status, output = run(command, end - time.monotonic(), target.parent)
    except subprocess.TimeoutExpired:
        text = f"{shlex.join(command)}\n\nstopped after {limit:.0f} s\n"
        raise BuildError(f"{program} was not done after {limit:.0f} s{_logged(log, text)}") from None
    if status == 0 and target.exists():
        _logged(log, f"{shlex.join(command)}\n\n{output}")
        return
    if status in _KILLED or any(words in output for words in _MACHINE_FAULTS) or cache.full(target.parent):
        raise MachineFaultError(f"{program} failed{_telling(output, _MACHINE_FAULTS)}")
    text = f"{shlex.join(command)}\n\n{output}\nexit status {status}\n"
    raise BuildError(f"{program} failed{_logged(log, text) or _telling(output, ('error',))}")


_KILLED = (-9, 137)  # for want of memory, as a rule
_MACHINE_FAULTS = (  # what a compiler says, LC_ALL=C
    "No space left on device",
    "Disk quota exceeded",
    "File size limit exceeded",
    "File too large",
    "Read-only file system",
    "Input/output error",
    "Stale file handle",
    "Bus error",  # a linker that maps its output, on a full disk
    "Cannot allocate memory",
    "virtual memory exhausted",
    "out of memory",
    "Killed signal",
)


def _logged(log: Path | None, text: str) -> str:
    """Keep the compiler's output; where it is, as part of a sentence, if it could be kept."""
    return f" (log: {log})" if log is not None and cache.write(log, text) else ""


def _telling(output: str, words: Sequence[str]) -> str:
    """The first line with one of `words`, else the last, as part of a sentence."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in words)] or lines[-1:]
    return f" ({telling[0][:200]})" if telling else ""


def _link_flags(compiler: Compiler, kind: str, work: Path, end: float) -> list[str]:
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
        command = [*compiler.command, "-shared", str(empty), "-o", str(work / f"lib{name}.so"), *soname]
        run(command, end - time.monotonic(), work)
    return ["-Xlinker", "--no-as-needed", f"-L{work}", *(f"-l{name}" for name in names)]


# --- in a wheel -----------------------------------------------------------------------------------


def bundle_facts(recipe: Recipe) -> dict[str, str]:
    """What is kept beside a library in a wheel: what it was built from, and what it needs to run."""
    return {
        "source": source_hash(recipe.kind, recipe.sources),
        "machine": platform.machine(),
        "cpu": "AVX2" if recipe.kind == "cpu" and _is_x86() else "",
        "chips": recipe.variant if recipe.kind == "cuda" else "",
    }


def bundle_fits(facts: dict[str, str], kind: str) -> bool:
    """Whether a library with such facts belongs to these sources and runs on this machine."""
    if facts.get("source") != source_hash(kind) or facts.get("machine") != platform.machine():
        return False
    if facts.get("cpu") and not _runs_x86_64_v3():
        return False
    return not facts.get("chips") or covers(facts["chips"])


def _runs_x86_64_v3() -> bool:
    features = set(cpu_features().split())
    if "fpu" in features:  # Linux's names
        return features >= {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
    return torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "AVX512"))


def outgrows_bundle(kind: str) -> bool:
    """Whether a library compiled on this machine is much faster than the one in a wheel (see csrc/vec.h)."""
    return kind == "cpu" and {"avx512f", "avx512dq"} <= set(cpu_features().split())
