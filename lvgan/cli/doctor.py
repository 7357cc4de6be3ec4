"""``lvgan doctor``: is everything here that lvgan needs, and how fast is it?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

CHECK_SECONDS = 2.0
LEAST_DISK = 1e9  # bytes, in the folder at hand: less is too little for any shards or run


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` says what to do about something needed that is missing."""

    name: str
    found: str
    remedy: str = ""


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what this machine has: Python, torch, devices, ffmpeg, compiled operators and their speed, free disk.

    Exits with 1 if something needed is missing. The compiled operators are not: the reference stands in.
    """
    findings = examine()
    missing = [finding for finding in findings if finding.remedy]
    if json_:
        typer.echo(json.dumps({"ok": not missing, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            typer.echo(f"{'x' if finding.remedy else ' '} {finding.name:<20} {finding.found}")
            if finding.remedy:
                typer.echo(f"  {'':<20} -> {finding.remedy}")
        typer.echo("something needed is missing" if missing else "everything needed is here")
    if missing:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """All findings, in the order of the report."""
    packages = _packages()
    if any(finding.remedy for finding in packages):  # nothing below could be examined
        return [*_python(), *packages, *_disk()]
    findings = [*_python(), *packages, *_torch(), *_ffmpeg()]
    if not any(finding.name == "torch" and finding.remedy for finding in findings):
        findings += _operators()
    return findings + _disk()


def _python() -> list[Finding]:
    import platform
    import sys

    from lvgan.version import __version__

    return [
        Finding("lvgan", f"{__version__} in {Path(__file__).parents[1]}"),
        Finding("python", f"{platform.python_version()} at {sys.executable}"),
        Finding("platform", platform.platform()),
    ]


# The dependencies in pyproject.toml, by the module that each brings (torch has a line of its own).
_MODULES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "ffmpeg": "ffmpeg-python",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
    "matplotlib": "matplotlib",
    "tensorboard": "tensorboard",
}


def _packages() -> list[Finding]:
    from importlib.util import find_spec

    missing = [package for module, package in _MODULES.items() if find_spec(module) is None]
    if missing:
        return [Finding("packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")]
    return [Finding("packages", "all here")]


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", f"cannot be imported ({error})", "install torch, as the README says")]
    version = str(torch.__version__)
    try:
        release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    except ValueError:
        release = (0, 0)
    if release < (2, 11):
        return [Finding("torch", version, "install torch 2.11 or later: pip install 'torch>=2.11'")]
    found = [
        Finding("torch", f"{version}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPUs'}"),
        Finding("threads", f"{torch.get_num_threads()}, {torch.backends.cpu.get_cpu_capability()}"),
    ]
    found += _cuda()
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "available"))
    return found


def _cuda() -> list[Finding]:
    import os
    import warnings

    import torch

    with warnings.catch_warnings(record=True) as said:  # of a driver that is too old, for one
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [
            Finding(
                f"cuda:{index}",
                f"{device.name}, {device.total_memory / 2**30:.0f} GiB, compute {device.major}.{device.minor}",
            )
            for index, device in enumerate(devices)
        ]
    why = [" ".join(str(warning.message).split()) for warning in said]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        why.append(f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}")
    if Path("/dev/nvidia0").exists() and not torch.version.cuda:
        why.append("there is an NVIDIA device, but this torch is built for CPUs: install the one for CUDA to use it")
    return [Finding("cuda", "; ".join(["no device", *why]))]


def _ffmpeg() -> list[Finding]:
    from lvgan.errors import MachineError

    try:
        from lvgan.data.program import ffmpeg_version, find_ffmpeg

        return [Finding("ffmpeg", f"{ffmpeg_version()} at {find_ffmpeg()}")]
    except MachineError as error:
        return [Finding("ffmpeg", "missing", str(error))]
    except (ImportError, OSError) as error:
        return [
            Finding("ffmpeg", f"cannot be run ({error})", "pip install --force-reinstall ffmpeg-python imageio-ffmpeg")
        ]


def _operators() -> list[Finding]:
    """For each operator what runs on each kind of device and why; and how much it gains."""
    import torch

    from lvgan.errors import ConfigError
    from lvgan.ops import building, native

    try:
        native.mode()
    except ConfigError as error:
        return [Finding("operators", str(error), "unset LVGAN_OPS, or correct it")]
    states = {kind: native.ensure(kind) for kind in building.KINDS}
    findings = []
    for kind, status in states.items():
        what = f"native ({status.path}): {status.reason}" if status.active else f"reference: {status.reason}"
        insisted = native.mode() == "native" and kind == ("cuda" if torch.cuda.is_available() else "cpu")
        remedy = (
            "LVGAN_OPS=native makes this an error: mend it (`lvgan ops build` shows whether it is), or unset LVGAN_OPS"
        )
        findings.append(Finding(f"operators, {kind}", what, "" if status.active or not insisted else remedy))
    for name in native.REFERENCES:
        paths = (
            f"{'native' if status.active and native.native_ops(kind)[name] else 'reference'} {kind}"
            for kind, status in states.items()
        )
        findings.append(Finding(f"  {name}", ", ".join(paths)))
    return findings + [Finding(f"speed, {kind}", _speed(kind)) for kind, status in states.items() if status.active]


def _speed(kind: str) -> str:
    """filtered_lrelu against the reference on a typical layer, in about two seconds."""
    import torch

    from lvgan.ops import filtered_lrelu, native, setup_filter

    x = torch.linspace(-1, 1, 32 * 148 * 148, device=kind).view(1, 32, 148, 148)
    taps = setup_filter([1.0] * 12, separable=True).to(kind)

    def work() -> None:
        filtered_lrelu(x, taps, taps, up=2, down=2, padding=11, clamp=256.0)
        if kind == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        ours = _median(work, CHECK_SECONDS / 2)
        with native.disabled(kind):
            theirs = _median(work, CHECK_SECONDS / 2)
    return f"filtered_lrelu {theirs / ours:.1f} times as fast as the reference ({ours * 1e3:.2f} ms, 32 x 148 x 148)"


def _median(work: Callable[[], None], seconds: float) -> float:
    """Median time of a call, from as many as fit into `seconds` (at most 50)."""
    import statistics
    import time

    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 50 and (not times or time.perf_counter() < end):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _disk() -> list[Finding]:
    try:
        here = Path.cwd()
    except OSError as error:
        return [Finding("disk, here", f"no folder ({error.strerror})", "change to a folder that exists")]
    free, problem = _free(here)
    remedy = "free some space, or work in another folder" if free is not None and free < LEAST_DISK else ""
    findings = [Finding("disk, here", f"{_amount(free)} free in {here}{problem}", remedy)]
    try:
        from lvgan.ops.cache import SPACE_NEEDED, cache_folder, folders
    except (ImportError, OSError):  # no torch
        return findings
    cache = cache_folder()
    if cache is None:
        found, usable = "none: this user has no home folder (LVGAN_CACHE may name one)", False
    else:
        free, problem = _free(cache)
        found, usable = f"{_amount(free)} free for {cache}{problem}", not problem and (free or 0) >= SPACE_NEEDED
    others = [folder for folder in folders(make=False) if folder != cache]
    if not usable:
        found += f"; {others[0]} stands in" if others else "; the temporary folder stands in"
    return [*findings, Finding("disk, cache", found)]


def _amount(free: int | None) -> str:
    return "unknown space" if free is None else f"{free / 1e9:.1f} GB"


def _free(folder: Path) -> tuple[int | None, str]:
    """Free bytes where `folder` is or would be, and what keeps one from writing there, as part of a sentence."""
    import os
    import shutil

    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return None, f", {error.strerror}"
    if not folder.is_dir():
        return free, f", but {folder} is not a folder"
    return free, "" if os.access(folder, os.W_OK | os.X_OK) else f", but you may not write to {folder}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)
