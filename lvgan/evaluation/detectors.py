"""Feature networks: TorchScript files by path, two public ones by name, and any function by ``module:function``.

Nothing is downloaded unless asked for. Source: shared facts, chapter 5 (I3D with rescale, resize and
return_features on uint8; Inception-v3 of 2015).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lvgan.errors import ConfigError, DataError, LvganError, MachineError
from lvgan.files import content_hash

Kind = Literal["clips", "frames"]
Network = Callable[[np.ndarray], np.ndarray]  # uint8 [N, T, H, W, C] to float [N, D]


@dataclass(frozen=True)
class KnownDetector:
    """A public TorchScript file: where it is from, and on what terms, neither of which was checked.

    No SHA-256 is known for certain: what arrives is recorded when it is fetched, and checked at every use since.
    """

    name: str
    kind: Kind
    file: str
    url: str
    network: str
    licence: str


KNOWN = {
    known.name: known
    for known in (
        KnownDetector(
            "i3d",
            "clips",
            "i3d_torchscript.pt",
            "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
            "I3D of Kinetics-400, the TorchScript port that StyleGAN-V made of the TF-Hub network",
            "network and weights of DeepMind under Apache-2.0, no licence of the port's own is known",
        ),
        KnownDetector(
            "inception",
            "frames",
            "inception-2015-12-05.pt",
            "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            "Inception-v3 of 2015, the TorchScript port that StyleGAN2-ADA made of the TensorFlow network",
            "weights of Google under Apache-2.0, the port under the NVIDIA Source Code License (non-commercial)",
        ),
    )
}
UNCHECKED = (
    "link and licence are from memory and were not checked, and no SHA-256 is known: give the one that you trust with "
    "--sha256, or compare the one that is told when it is fetched"
)
REPEATABLE = 1e-3  # of the largest feature: more than rounding, less than any randomness that matters
DEFAULT = {"clips": "i3d", "frames": "inception"}


class MissingDetectorError(ConfigError):
    """A detector that is not on this machine."""


def user_cache(part: str) -> Path:
    """``$LVGAN_CACHE/part``, or ``lvgan/part`` in the user's cache folder."""
    named = os.environ.get("LVGAN_CACHE")
    if named:
        return Path(named).absolute() / part
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")).absolute() / "lvgan" / part


def known_path(known: KnownDetector) -> Path:
    """Where a public file belongs."""
    return user_cache("detectors") / known.file


@dataclass(frozen=True)
class Detector:
    """Which network is to be called, and how; small, so that processes can be handed it.

    Attributes:
        kind: what it looks at: whole ``clips``, or single ``frames``.
        name: for tables.
        sha256: of the TorchScript file, or of the file that holds the function.
        path: the file.
        function: its name where the file is Python.
        module: to import it from, where it was not named by its file.
        note: what the protocol should tell besides.
    """

    kind: Kind
    name: str
    sha256: str
    path: Path
    function: str | None = None
    module: str | None = None
    note: str | None = None

    def describe(self) -> dict[str, Any]:
        """For the protocol: what the features depend on, and no path."""
        if self.function is not None:
            call = "function(uint8 [N, T, H, W, C])"
        elif self.kind == "clips":
            call = "network(uint8 [N, C, T, H, W], rescale=True, resize=True, return_features=True)"
        else:
            call = "network(uint8 [N, C, H, W], return_features=True)"
        return {"name": self.name, "sha256": self.sha256, "call": call}

    def load(self, device: Any) -> Network:
        """The network on a torch device. Its results are checked: finite, [N, D].

        Raises:
            DataError: the file is no network, or what it gives cannot be used.
        """
        call = _load_function(self) if self.function is not None else _load_script(self, device)
        tried = False

        def look(clips: np.ndarray) -> np.ndarray:
            nonlocal tried
            if tried:
                return _checked(self, call, clips)
            found = _checked(self, call, clips.copy())  # a function may work in place
            _check_repeatable(self, found, _checked(self, call, clips))
            tried = True
            return found

        return look


def find_detector(
    text: str | None, kind: Kind, *, fetch: bool = False, offline: bool = False, progress: bool = True
) -> Detector:
    """The detector called `text`: a known name, a TorchScript file, or ``module:function``.

    Args:
        text: the default of the kind (i3d, inception) where not given.
        kind: what it is to look at.
        fetch: download a known one that is missing.
        offline: forbid that.
        progress: show how a download goes.

    Raises:
        MissingDetectorError: it is not here; says which file, where from, under which licence, and where to put it.
        ConfigError: `text` means nothing, or names a detector of the other kind.
        DataError: the file is not the one that was fetched.
    """
    if fetch and offline:
        raise ConfigError("--fetch and --offline were both given, but they exclude each other: leave one out")
    text = text or DEFAULT[kind]
    if text in KNOWN:
        return _find_known(KNOWN[text], kind, fetch=fetch, progress=progress)
    path = Path(text)
    if path.is_file():
        return Detector(kind, path.stem, file_hash(path), path.absolute())
    if ":" in text and not text.endswith((".pt", ".pth")):
        return _find_function(text, kind)
    raise MissingDetectorError(
        f"--detector {text} was given, but there is no such file: give a TorchScript .pt file, one of "
        f"{', '.join(KNOWN)}, or module:function"
    )


def _find_known(known: KnownDetector, kind: Kind, *, fetch: bool, progress: bool) -> Detector:
    if known.kind != kind:
        raise ConfigError(f"--detector {known.name} looks at {known.kind}, but one of {kind} was expected")
    path = known_path(known)
    if not path.is_file():
        if not fetch:
            raise MissingDetectorError(missing_text(known))
        fetch_detector(known, progress=progress)
    digest, expected = file_hash(path), recorded_hash(path)
    if expected is not None and digest != expected:
        raise DataError(
            f"{path} has SHA-256 {digest[:16]}..., but {expected[:16]}... was recorded when it was fetched: remove it "
            f"and fetch it again with `lvgan eval detectors --fetch {known.name}`"
        )
    note = None if expected else "put there by hand: no recorded SHA-256 to check it against"
    return Detector(kind, known.name, digest, path, note=note)


def missing_text(known: KnownDetector) -> str:
    """One sentence: which file, from where, under which licence, and where to put it."""
    return (
        f"the detector {known.name} is not on this machine: {known.file} ({known.network}; {known.licence}) is at "
        f"{known.url} and belongs at {known_path(known)}; put it there, let `lvgan eval detectors --fetch "
        f"{known.name}` do that, or name another with --detector ({UNCHECKED})"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        return content_hash(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): mend that or name another file") from error


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def recorded_hash(path: Path) -> str | None:
    """The SHA-256 that was recorded when the file was fetched; None where none was."""
    try:
        found = json.loads(_record_of(path).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def fetch_detector(known: KnownDetector, *, sha256: str | None = None, progress: bool = True) -> Path:
    """Download a public detector into the user's cache and record its SHA-256; whole or not at all.

    Args:
        known: which.
        sha256: refuse any other file.
        progress: show a bar.

    Raises:
        MachineError: no connection, or no room.
        DataError: what arrived is no TorchScript file, or not the one of `sha256`.
    """
    import urllib.error
    import urllib.request

    from lvgan.files import writing

    target = known_path(known)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            request = urllib.request.Request(known.url, headers={"User-Agent": "lvgan"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                _download(answer, partial, known.file, progress)
        except (urllib.error.URLError, TimeoutError, ConnectionError, EOFError) as error:
            reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
            raise MachineError(
                f"{known.file} could not be fetched from {known.url} ({reason}): try again later, or bring the file "
                f"from another machine to {target}"
            ) from error
        _check_download(partial, known, sha256)
        with writing(target):
            record = {"file": known.file, "url": known.url, "sha256": file_hash(partial), "licence": known.licence}
            beside = partial.with_suffix(".json")
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, target)
            os.replace(beside, _record_of(target))
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
            partial.with_suffix(".json").unlink(missing_ok=True)
    return target


def _download(answer: Any, partial: Path, name: str, progress: bool) -> None:
    from tqdm import tqdm

    from lvgan.files import writing

    length = answer.headers.get("Content-Length")
    total = int(length) if length and length.isdecimal() else None
    done = 0
    with (
        writing(partial),
        open(partial, "wb") as file,
        tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not progress, dynamic_ncols=True) as bar,
    ):
        while block := answer.read(1 << 20):
            file.write(block)
            done += len(block)
            bar.update(len(block))
    if total is not None and done != total:
        raise EOFError(f"{done} of {total} bytes arrived")


def _check_download(path: Path, known: KnownDetector, sha256: str | None) -> None:
    import zipfile

    digest = file_hash(path)
    if sha256 is not None and digest != sha256.lower():
        raise DataError(
            f"{known.url} gave a file of SHA-256 {digest}, but {sha256} was expected: it was not kept; check both"
        )
    if not zipfile.is_zipfile(path):  # a page that says sorry, for instance
        raise DataError(
            f"{known.url} gave {path.stat().st_size} bytes that are no TorchScript file, and they were not kept: the "
            f"link has died; bring {known.file} from elsewhere to {known_path(known)}"
        )


def _find_function(text: str, kind: Kind) -> Detector:
    """``module:function`` or ``path/to/file.py:function``, without importing it."""
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"--detector {text} was given, but module:function was expected, as in features:videomae")
    path: Path | None = Path(place)
    module = None
    if not place.endswith(".py"):
        module = place
        with _working_folder():
            try:
                spec = importlib.util.find_spec(place)
            except (ImportError, ValueError):
                spec = None
        path = None if spec is None or spec.origin is None else Path(spec.origin)
    if path is None or not path.is_file():
        raise MissingDetectorError(
            f"--detector {text} was given, but there is no {place} to import: name a Python file or an installed module"
        )
    note = "the SHA-256 is of the function's file, not of weights that it loads"
    return Detector(kind, text, file_hash(path), path.absolute(), name, module, note)


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Modules of the working folder can be imported, as ``python -m`` allows."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _load_function(detector: Detector) -> Network:
    assert detector.function is not None
    try:
        with _working_folder():
            if detector.module is not None:
                module = importlib.import_module(detector.module)
            else:
                spec = importlib.util.spec_from_file_location(detector.path.stem, detector.path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
    except ImportError as error:
        raise ConfigError(f"--detector {detector.name} cannot be imported ({error}): install what it needs") from error
    except (Exception, SystemExit) as error:  # foreign code
        raise ConfigError(
            f"--detector {detector.name} failed while it was imported ({type(error).__name__}: "
            f"{_telling_line(error)}): mend {detector.path}"
        ) from error
    function = getattr(module, detector.function, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_")]
        raise ConfigError(
            f"{detector.path} has no function {detector.function}, but {', '.join(names) or 'none at all'}: name one"
        )
    return function


def _load_script(detector: Detector, device: Any) -> Network:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer releases of torch, about TorchScript in general
            network = torch.jit.load(str(detector.path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(
            f"{detector.path} is no TorchScript file that can be loaded ({_first_line(error)}): give one that was "
            "saved with torch.jit.save"
        ) from error

    def call(clips: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(clips)).to(device).movedim(-1, 1)  # [N, C, T, H, W]
        # Unoptimised: fused kernels of later calls round otherwise than those of the first ones.
        with torch.inference_mode(), torch.jit.optimized_execution(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if detector.kind == "clips":
                found = network(x.contiguous(), rescale=True, resize=True, return_features=True)
            else:
                found = network(x[:, :, 0].contiguous(), return_features=True)
        return found

    return call


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")


def _telling_line(error: BaseException) -> str:
    """The first line, or what failed within TorchScript, which only says at the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "TorchScript interpreter" in lines[0]:
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
        return (raised or lines)[-1][:200]
    return _first_line(error)


def _check_repeatable(detector: Detector, once: np.ndarray, again: np.ndarray) -> None:
    """Refuse a network that draws at random, such as one with dropout at work: none of its scores could be had again.

    The rounding of a GPU's kernels may differ from call to call.
    """
    scale = float(np.abs(once).max())
    if once.shape != again.shape or float(np.abs(again - once).max()) > REPEATABLE * scale:
        raise DataError(
            f"the detector {detector.name} gave other features for the same clips when it was called again, so that "
            "no score of it could be reproduced: switch its randomness off (dropout, sampling)"
        )


def _checked(detector: Detector, call: Network, clips: np.ndarray) -> np.ndarray:
    """Features as float [N, D] on the CPU, or a sentence."""
    import torch

    shape = "x".join(map(str, clips.shape[1:]))
    try:
        found: Any = call(clips)
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the device has too little memory for {len(clips)} clips of {shape} in the detector {detector.name}: "
            "give a smaller --batch"
        ) from error
    except LvganError:
        raise
    except (Exception, SystemExit) as error:  # foreign code: whatever it raises, it could not take these clips
        raise DataError(
            f"the detector {detector.name} failed on {len(clips)} clips of {shape} ({type(error).__name__}: "
            f"{_telling_line(error)}): it must be callable as {detector.describe()['call']}"
        ) from error
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu()
        found = (found.float() if found.dtype in (torch.float16, torch.bfloat16) else found).numpy()
    found = np.asarray(found)
    if found.ndim != 2 or len(found) != len(clips) or not found.size or not np.issubdtype(found.dtype, np.floating):
        raise DataError(
            f"the detector {detector.name} gave {found.dtype} {list(found.shape)} for {len(clips)} clips where floats "
            f"[{len(clips)}, D] were expected: flatten its features to one row a clip"
        )
    if not np.isfinite(found).all():
        raise DataError(
            f"the detector {detector.name} gave NaN or infinite features for a clip of {shape} where finite ones were "
            "expected: check its input range and that its weights are whole"
        )
    return found
