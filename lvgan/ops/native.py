"""The compiled operators: find or build them, load them, check them, switch them off.

Nothing happens at import. A command that gains calls :func:`activate` once; without a library the
reference runs, and one line says why. ``LVGAN_OPS`` decides: ``auto`` (the default) loads a library, and
builds the one that is missing; ``reference`` does neither; ``native`` makes a missing library an error.

The library of the CPU and that of CUDA add kernels under the names of the operators in this folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvgan.errors import ConfigError, MachineError
from lvgan.ops import bias_act, building, compilers, filtered_lrelu, upfirdn2d
from lvgan.ops.bias_act import bias_act_backward_reference, bias_act_reference
from lvgan.ops.building import Recipe
from lvgan.ops.compilers import BuildError, MachineFaultError
from lvgan.ops.filtered_lrelu import filtered_lrelu_reference, filtered_mask_reference
from lvgan.ops.upfirdn2d import setup_filter, upfirdn2d_reference

REFERENCES: dict[str, Callable[..., Any]] = {
    "bias_act": bias_act_reference,
    "bias_act_backward": bias_act_backward_reference,
    "filtered_lrelu": filtered_lrelu_reference,
    "filtered_mask": filtered_mask_reference,
    "upfirdn2d": upfirdn2d_reference,
}
BUNDLE = Path(__file__).parent / "_lib"  # libraries inside a wheel, see hatch_build.py
MODES = ("auto", "native", "reference")

_KEYS = {"cpu": "CPU", "cuda": "CUDA"}  # dispatch keys
_NAMES = {"cpu": "the CPU", "cuda": "CUDA"}


@dataclass(frozen=True)
class Status:
    """Whether the compiled operators of `kind` ("cpu" or "cuda") run, from which file, and why (not)."""

    kind: str
    active: bool
    path: Path | None
    reason: str


class _RejectedError(Exception):
    """A library that cannot be loaded or computes something else: which, as half a sentence without its path."""


_states: dict[str, Status] = {}
_lock = threading.RLock()


def mode() -> str:
    """``LVGAN_OPS``: auto, native or reference. Raises ConfigError for anything else."""
    chosen = os.environ.get("LVGAN_OPS") or "auto"
    if chosen not in MODES:
        raise ConfigError(
            f"LVGAN_OPS is {chosen!r}, but one of {', '.join(MODES)} was expected; correct it or unset it"
        )
    return chosen


def activate(device: torch.device | str, say: Callable[[str], object]) -> Status:
    """Load the operators that `device` gains from, building them if need be; says one line if that fails.

    Commands call this before their first use of the operators. It neither hangs nor fails: the
    reference runs instead. Only with ``LVGAN_OPS=native`` it raises MachineError.
    """
    kind = torch.device(device).type
    if kind not in building.KINDS:
        return Status(kind, False, None, f"there are no compiled operators for {kind}")
    known = kind in _states
    status = ensure(kind, say)
    if not status.active:
        if mode() == "native":
            raise MachineError(f"LVGAN_OPS=native, but there are no compiled operators: {status.reason}")
        if not known and mode() == "auto":
            say(f"operators: the PyTorch reference runs, which is slower, because of: {status.reason}")
    return status


def ensure(kind: str = "cpu", say: Callable[[str], object] | None = None) -> Status:
    """Load the library of `kind`, from the cache or the wheel, else build it; the reason if there is none.

    One from the wheel is for any recent processor. Where this one can do more and a compiler is here, a
    library is built all the same, and the wheel's stands in if that fails.

    The answer is remembered for the life of the process. `say` hears of a build.
    """
    with _lock:
        if kind not in _states:
            _states[kind] = _activate(kind, say or (lambda _: None))
        return _states[kind]


def active_library(kind: str) -> Path | None:
    """The library of `kind` that :func:`ensure` has loaded, if any; looks for none."""
    status = _states.get(kind)
    return status.path if status is not None and status.active else None


def forget() -> None:
    """Let the next :func:`ensure` look again where there was no library (after building one)."""
    compilers.forget_answers()
    with _lock:
        for kind in [kind for kind, status in _states.items() if not status.active]:
            del _states[kind]


def _activate(kind: str, say: Callable[[str], object]) -> Status:
    reason = unavailable(kind)
    if reason:
        return Status(kind, False, None, reason)
    try:
        recipe = building.recipe(kind)
        return _from_cache(recipe) or _from_wheel(recipe, say) or _built(recipe, say)
    except BuildError as error:
        return Status(kind, False, None, str(error))
    except Exception as error:  # whatever it is, the reference works
        return Status(kind, False, None, f"{type(error).__name__}: {error}")


def unavailable(kind: str, *, to_run: bool = True) -> str:
    """Why this process cannot have a library of `kind`, or (``to_run=False``) build one; empty if it can."""
    if to_run and mode() == "reference":
        return "LVGAN_OPS=reference"
    if building.torch_release() < building.OLDEST_TORCH:
        oldest = ".".join(map(str, building.OLDEST_TORCH))
        return f"torch {torch.__version__} is too old for compiled operators; {oldest} or later has what they need"
    if sys.platform == "win32":
        return "there are no compiled operators for Windows"
    if to_run and kind == "cuda" and not torch.cuda.is_available():
        return "no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    if not (building.SOURCES / building.MAIN_SOURCE[kind]).exists():
        return f"the source {building.SOURCES / building.MAIN_SOURCE[kind]} is missing"
    return ""


def _from_cache(recipe: Recipe) -> Status | None:
    path = building.find(recipe)
    if path is None:
        return None
    try:
        _load(recipe.kind, path)
    except _RejectedError:
        path.unlink(missing_ok=True)  # it passed its check when it was built: build it again
        return None
    return Status(recipe.kind, True, path, "compiled for this machine")


def _from_wheel(recipe: Recipe, say: Callable[[str], object]) -> Status | None:
    kind = recipe.kind
    path, facts = BUNDLE / f"{kind}.so", BUNDLE / f"{kind}.json"
    try:
        if not path.exists() or not building.bundle_fits(json.loads(facts.read_text()), kind):
            return None
    except (OSError, ValueError):
        return None
    reason = "came with the installation"
    if building.outgrows_bundle(kind):
        try:
            return _built(recipe, say)
        except BuildError as error:
            reason += f"; compiled here, for AVX-512, they would be up to twice as fast, but: {error}"
    try:
        _load(kind, path)
    except _RejectedError:
        return None  # there may be a compiler
    return Status(kind, True, path, reason)


def _built(recipe: Recipe, say: Callable[[str], object]) -> Status:
    kind, started = recipe.kind, time.monotonic()
    announcement = f"operators: compiling those for {_NAMES[kind]}, once for this machine"
    path = building.build(recipe, check_apart(kind), announce=lambda: say(announcement))
    try:
        _load(kind, path)
    except _RejectedError as error:
        raise BuildError(f"the compiled library {path} does not work ({error})") from None
    return Status(kind, True, path, f"compiled for this machine, in {time.monotonic() - started:.0f} s")


# --- loading and checking -------------------------------------------------------------------------

CHECK_LIMIT = 60.0  # seconds; most of what it takes is importing torch
_REJECTED = 3  # exit status


def check_apart(kind: str) -> Callable[[Path], None]:
    """A check for :func:`lvgan.ops.building.build`: load and try a library in a process of its own.

    A library that crashes or hangs does so there.
    """

    def check(path: Path) -> None:
        code = "import sys; from lvgan.ops import native; native.try_library(sys.argv[1], sys.argv[2])"
        root = str(Path(__file__).parents[2])
        search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-W", "ignore", "-c", code, kind, str(path)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env=dict(os.environ, PYTHONPATH=search),
                timeout=CHECK_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise BuildError("the compiled library hangs") from None
        _judge(done)

    return check


def _judge(done: subprocess.CompletedProcess[bytes]) -> None:
    """Raise BuildError unless the check, a process that has ended, has passed the library."""
    if done.returncode == 0:
        return
    if done.returncode == -signal.SIGKILL:
        raise MachineFaultError("the check of the compiled library was killed, for want of memory perhaps")
    if done.returncode < 0:
        raise BuildError(f"the compiled library does not work (it crashes: {_signal_name(-done.returncode)})")
    last = (done.stdout if done.returncode == _REJECTED else done.stderr).decode("utf-8", "replace").splitlines()[-1:]
    if done.returncode != _REJECTED:
        raise BuildError(f"the compiled library could not be checked ({''.join(last) or done.returncode})")
    if "failed to map segment" in "".join(last):  # forbidden in this folder, or no memory
        raise MachineFaultError(f"the compiled library {''.join(last)}")
    raise BuildError(f"the compiled library does not work ({''.join(last)})")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def try_library(kind: str, path: str) -> None:
    """Load a library and check its numbers; where they are wrong, print why and end this process."""
    try:
        _load(kind, Path(path))
    except _RejectedError as error:
        print(error)
        sys.exit(_REJECTED)


def _load(kind: str, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a second library in one process: the later one counts
            torch.ops.load_library(path)
    except (OSError, ImportError, RuntimeError) as error:
        said = _first_line(error.__cause__ or error).replace(f"{path.resolve()}: ", "").replace(f"{path}: ", "")
        raise _RejectedError(f"it cannot be loaded: {said}") from None
    try:
        _check(kind)
    except Exception as error:
        _override(kind)  # for good: a library cannot be unloaded
        raise _RejectedError(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check(kind: str) -> None:
    """Raise ValueError unless the loaded operators agree with the reference, in a few milliseconds."""
    if not any(native_ops(kind).values()):
        raise ValueError("it has none of the operators")
    with torch.inference_mode(False), torch.enable_grad():
        results = _samples(kind)
        with disabled(kind):
            expected = _samples(kind)
    for name, tensors in results.items():
        for ours, theirs in zip(tensors, expected[name], strict=True):
            if not (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max():  # not: NaN too
                raise ValueError(f"{name} computes something else than the reference")


def _samples(kind: str) -> dict[str, list[Tensor]]:
    """Results and gradients of a few small calls."""

    def wave(*shape: int) -> Tensor:
        count = torch.Size(shape).numel()
        return torch.arange(count, dtype=torch.float32, device=kind).mul(0.37).sin().add(0.11).reshape(shape)

    taps = {n: setup_filter([1.0 + min(i, n - 1 - i) for i in range(n)], separable=True).to(kind) for n in (12, 24)}
    x, b = wave(2, 3, 9, 14).requires_grad_(), wave(3).requires_grad_()
    calls = {
        "bias_act": lambda: bias_act(x, b, activation="lrelu", clamp=1.0),
        "upfirdn2d": lambda: upfirdn2d(x, taps[12], up=2, padding=(6, 5, 6, 5), gain=4.0),
        "filtered_lrelu": lambda: filtered_lrelu(x, taps[12], taps[12], b, up=2, down=2, padding=11, clamp=1.5),
        "filtered_lrelu (up 4)": lambda: filtered_lrelu(x, taps[24], taps[12], b, up=4, down=2, padding=(17, 16)),
    }
    results = {}
    for name, call in calls.items():
        y = call()
        inputs = [x] if name == "upfirdn2d" else [x, b]
        results[name] = [y.detach(), *torch.autograd.grad(y, inputs, wave(*y.shape))]
    return results


# --- which one runs -------------------------------------------------------------------------------


def native_ops(kind: str) -> dict[str, bool]:
    """For each operator, whether a compiled kernel for `kind` is registered."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name: bool(has(f"lvgan::{name}", _KEYS[kind])) for name in REFERENCES}


@contextmanager
def disabled(kind: str | None = None) -> Iterator[None]:
    """Run the reference inside the block (for `kind`, or everywhere), in all threads of this process."""
    with _lock:
        overrides = [_override(k) for k in ([kind] if kind else building.KINDS)]
    try:
        yield
    finally:
        with _lock:
            for override in overrides:
                override._destroy()
                _for_good.remove(override)


_for_good: list[torch.library.Library] = []  # an override ends when nothing refers to it


def _override(kind: str) -> torch.library.Library:
    """Register the references over the compiled kernels of `kind`."""
    library = torch.library.Library("lvgan", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overriding is what is meant
        for name, native in native_ops(kind).items():
            if native:
                library.impl(name, REFERENCES[name], _KEYS[kind])
    _for_good.append(library)
    return library
