"""``lvgan eval fvd | fid | all | detectors``: distances of distributions of features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from lvgan.evaluation.detectors import Detector
    from lvgan.evaluation.fvd import DistancePlan, Operand
    from lvgan.evaluation.protocol import Score
    from lvgan.evaluation.sources import ClipSource

Operands = Annotated[
    list[str],
    typer.Argument(
        metavar="REAL MODEL...",
        help="Real clips first, then what is measured against them, each [LABEL=]WHAT as in color-sim.",
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the scores, each with its protocol (.json).")]
Seeds = Annotated[
    str, typer.Option(metavar="0,1,2", help="Each chooses other clips; the score is the mean over them ± std.")
]
DetectorText = Annotated[
    str | None, typer.Option("--detector", metavar="X", help="TorchScript file.pt, a known name, or module:function.")
]
Fetch = Annotated[bool, typer.Option("--fetch", help="Download a known detector that is missing (see detectors).")]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything; the default without --fetch.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Look at real clips anew, though their features are kept.")]
Extrapolate = Annotated[
    bool, typer.Option("--extrapolate", help="Also for endless samples: a line through the distances over 1/N.")
]
KernelName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Kernel distance (MMD) as well: polynomial (as KID) or rbf.")
]
Degree = Annotated[int, typer.Option(help="Of the polynomial kernel.")]
SizeText = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Bring everything to this size.", show_default="of the smallest network"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", "--gpus", help="Processes; on CUDA each takes a GPU. No score depends on it.", show_default="auto"
    ),
]
Batch = Annotated[
    int | None, typer.Option(help="Clips that the detector gets at a time.", show_default="1 clip, or 32 frames")
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]

FEW = 64  # clips for which starting processes takes longer than it saves


def fvd(
    operands: Operands,
    output: Output = Path("eval"),
    clips: Annotated[int, typer.Option(help="Random clips of each.")] = 2048,
    frames: Annotated[str, typer.Option(metavar="16,128", help="Frames a clip; several give several scores.")] = "16",
    stride: Annotated[int, typer.Option(help="From one frame of a clip to the next.")] = 1,
    seeds: Seeds = "0",
    detector: DetectorText = None,
    fetch: Fetch = False,
    offline: Offline = False,
    extrapolate: Extrapolate = False,
    kernel: KernelName = None,
    degree: Degree = 3,
    size: SizeText = None,
    workers: Workers = None,
    batch: Batch = None,
    refresh: Refresh = False,
    device: DeviceName = "auto",
) -> None:
    """Fréchet video distance: features of whole clips (I3D), of 16 frames, 128, or 128 at stride 8.

    Writes fvd.json. A score means something beside one of the same protocol only; `lvgan eval compare` sees to it.
    """
    from lvgan.errors import ConfigError
    from lvgan.evaluation.detectors import find_detector
    from lvgan.evaluation.fvd import DistancePlan

    lengths = _numbers(frames, "--frames")
    if 0 in lengths:
        raise ConfigError("--frames 0 was given, but 1 or more was expected; 16 and 128 are usual")
    _check(clips=(clips, 2), stride=(stride, 1), workers=(workers, 1), batch=(batch, 1))
    plans = [
        DistancePlan("fvd", clips, n, stride, _numbers(seeds, "--seeds"), extrapolate, _kernel(kernel, degree))
        for n in lengths
    ]
    found = find_detector(detector, "clips", fetch=fetch, offline=offline)
    measured = _measure(operands, plans, found, output / "fvd.json", size, device, workers, batch, refresh)
    _tell(measured, output / "fvd.json")


def fid(
    operands: Operands,
    output: Output = Path("eval"),
    clips: Annotated[int, typer.Option(help="Random frames of each.")] = 50_000,
    seeds: Seeds = "0",
    detector: DetectorText = None,
    fetch: Fetch = False,
    offline: Offline = False,
    extrapolate: Extrapolate = False,
    kernel: KernelName = None,
    degree: Degree = 3,
    size: SizeText = None,
    workers: Workers = None,
    batch: Batch = None,
    refresh: Refresh = False,
    device: DeviceName = "auto",
) -> None:
    """Fréchet inception distance of single frames; every video counts the same, however long it is.

    Writes fid.json.
    """
    from lvgan.evaluation.detectors import find_detector
    from lvgan.evaluation.fvd import DistancePlan

    _check(clips=(clips, 2), workers=(workers, 1), batch=(batch, 1))
    plan = DistancePlan("fid", clips, 1, 1, _numbers(seeds, "--seeds"), extrapolate, _kernel(kernel, degree))
    found = find_detector(detector, "frames", fetch=fetch, offline=offline)
    measured = _measure(operands, [plan], found, output / "fid.json", size, device, workers, batch, refresh)
    _tell(measured, output / "fid.json")


def everything(
    operands: Operands,
    output: Output = Path("eval"),
    clips: Annotated[
        int | None,
        typer.Option(help="Of each, for every score.", show_default="1000, 2048 and 50,000 (color-sim, fvd, fid)"),
    ] = None,
    frames: Annotated[str, typer.Option(metavar="16,128", help="Frames a clip of FVD.")] = "16,128",
    seeds: Seeds = "0",
    fvd_detector: Annotated[str | None, typer.Option(metavar="X", help="Instead of i3d.")] = None,
    fid_detector: Annotated[str | None, typer.Option(metavar="X", help="Instead of inception.")] = None,
    fetch: Fetch = False,
    offline: Offline = False,
    size: SizeText = None,
    workers: Workers = None,
    batch: Batch = None,
    refresh: Refresh = False,
    device: DeviceName = "auto",
) -> None:
    """color-sim, fvd and fid: those whose detectors are here; says which were left out and why."""
    from lvgan.cli.evaluate import run_color_sim
    from lvgan.errors import ConfigError, DataError
    from lvgan.evaluation.detectors import MissingDetectorError, find_detector
    from lvgan.evaluation.fvd import DistancePlan

    _check(clips=(clips, 2), workers=(workers, 1), batch=(batch, 1))
    if fetch and offline:
        raise ConfigError("--fetch and --offline were both given, but they exclude each other: leave one out")
    chosen, lengths = _numbers(seeds, "--seeds"), _numbers(frames, "--frames")
    plans = {
        "fvd": [DistancePlan("fvd", clips or 2048, n, 1, chosen) for n in lengths],
        "fid": [DistancePlan("fid", clips or 50_000, 1, 1, chosen)],
    }
    detectors: dict[str, Detector] = {}
    left_out: dict[str, str] = {}
    done = 0
    for name, text in (("fvd", fvd_detector), ("fid", fid_detector)):
        try:
            kind = plans[name][0].kind
            detectors[name] = find_detector(text, kind, fetch=fetch, offline=offline)
        except MissingDetectorError as error:
            if text is not None:
                raise
            left_out[name] = str(error)
    try:
        run_color_sim(operands, output, clips, size=size, device=device, reference=0)
        done += 1
    except DataError as error:
        left_out["color-sim"] = str(error)
    for name, detector in detectors.items():
        for plan in plans[name]:
            label = plan.name(name)
            try:
                path = output / f"{label}.json"
                scores = _measure(operands, [plan], detector, path, size, device, workers, batch, refresh)
                _tell(scores, path)
                done += 1
            except DataError as error:  # clips of 128 frames of a video of 50, for instance
                left_out[label] = str(error)
    for name, reason in left_out.items():
        typer.echo(f"left out {name}: {reason}", err=True)
    if not done:
        raise DataError("nothing could be measured, for the reasons above: mend one of them")


def detectors(
    fetch: Annotated[
        list[str] | None, typer.Option("--fetch", metavar="NAME", help="Download this one into the user's cache.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Refuse a download that is any other file; for one --fetch.")
    ] = None,
) -> None:
    """Which feature networks are here, where they come from, and under which licence."""
    from lvgan.errors import ConfigError
    from lvgan.evaluation.detectors import KNOWN, UNCHECKED, fetch_detector, file_hash, known_path, recorded_hash

    wanted = list(fetch or [])
    for name in wanted:
        if name not in KNOWN:
            raise ConfigError(f"--fetch {name} was given, but one of {', '.join(KNOWN)} was expected")
    if sha256 is not None and len(wanted) != 1:
        raise ConfigError(f"--sha256 was given with {len(wanted)} detectors to fetch, but it is of one: name that one")
    for name in wanted:
        path = fetch_detector(KNOWN[name], sha256=sha256)
        typer.echo(f"fetched {path}, SHA-256 {recorded_hash(path)} ({KNOWN[name].licence})")
    typer.echo(f"{UNCHECKED[0].upper()}{UNCHECKED[1:]}.")
    for name, known in KNOWN.items():
        path = known_path(known)
        typer.echo(f"{name}: {known.network}\n  licence: {known.licence}\n  from {known.url}\n  at {path}")
        if not path.is_file():
            typer.echo(f"  missing; get it with `lvgan eval detectors --fetch {name}`")
            continue
        digest, expected = file_hash(path), recorded_hash(path)
        state = "as fetched" if digest == expected else "put there by hand" if expected is None else "DAMAGED"
        typer.echo(f"  SHA-256 {digest} ({state})")


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """``0,1,2`` as different numbers."""
    from lvgan.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise ConfigError(f"{option} {text} was given, but different whole numbers such as 0,1,2 were expected")
    return tuple(int(part) for part in parts)


def _check(**options: tuple[int | None, int]) -> None:
    from lvgan.errors import ConfigError

    for name, (value, low) in options.items():
        if value is not None and value < low:
            raise ConfigError(f"--{name} {value} was given, but {low} or more was expected")


def _kernel(name: str | None, degree: int) -> Any:
    from lvgan.errors import ConfigError
    from lvgan.evaluation.distances import Kernel

    if name is None:
        return None
    if name not in ("polynomial", "rbf"):
        raise ConfigError(f"--kernel {name} was given, but polynomial or rbf was expected")
    if degree < 1:
        raise ConfigError(f"--degree {degree} was given, but 1 or more was expected")
    return Kernel(name, degree)


class Reopen:
    """Opens one operand in another process, as it was opened here."""

    def __init__(self, text: str, size: str, fps: float) -> None:
        self.text = text
        self.size = size
        self.fps = fps

    def __call__(self, device: torch.device) -> ClipSource:
        from lvgan.evaluation.operands import open_operands, parse_all
        from lvgan.ops import native
        from lvgan.sizes import Size

        if parse_all([self.text])[0].is_model:
            native.activate(device, lambda _: None)
        return open_operands([self.text], device, Size.parse(self.size), self.fps)[0]


def _open(texts: Sequence[str], device: torch.device, size: str | None) -> list[Operand]:
    from lvgan.errors import ConfigError
    from lvgan.evaluation.fvd import Operand
    from lvgan.evaluation.operands import open_operands, parse_all
    from lvgan.ops import native
    from lvgan.sizes import Size

    if len(texts) < 2:
        raise ConfigError(
            "one operand was given, but two or more were expected: real clips, then what is measured against them"
        )
    if any(operand.is_model for operand in parse_all(texts)):
        native.activate(device, typer.echo)
    sources = open_operands(texts, device, None if size is None else Size.parse(size))
    common = str(getattr(sources[0], "size", None))
    typer.echo(f"clips of {common}, cut about the centre and resized where they were not (--size chooses another)")
    return [Operand(source, Reopen(text, common, source.fps)) for text, source in zip(texts, sources, strict=True)]


def _measure(
    texts: Sequence[str],
    plans: Sequence[DistancePlan],
    detector: Detector,
    output: Path,
    size: str | None,
    device: str,
    workers: int | None,
    batch: int | None,
    refresh: bool,
) -> list[Score]:
    """Measure and write."""
    from lvgan.device import pick_device
    from lvgan.errors import ConfigError
    from lvgan.evaluation.fvd import Machine, measure_distance
    from lvgan.evaluation.protocol import write_scores
    from lvgan.files import writing

    if output.parent.exists() and not output.parent.is_dir():
        raise ConfigError(f"--output {output.parent} is a file, but a folder was expected; name another")
    target = pick_device(device)
    real, *models = _open(texts, target, size)
    made = not output.parent.exists()
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)  # what cannot be is told before hours of work
    scores: list[Score] = []
    try:
        for plan in plans:
            machine = Machine(target, _processes(workers, target, plan.clips), batch, refresh)
            with _bars() as bar:
                scores += measure_distance(real, models, plan, detector, machine, bar)
        write_scores(output, scores)
    finally:
        if made and not scores:
            with suppress(OSError):
                output.parent.rmdir()
    return scores


def _processes(asked: int | None, device: torch.device, clips: int) -> int:
    """As many as were asked for; else every GPU or core, where there is enough to do."""
    import torch

    from lvgan.errors import ConfigError

    if asked is not None:
        if device.type == "cuda" and device.index is None and asked > torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise ConfigError(f"--gpus {asked} was given, but {found} were found: give {found} or fewer")
        return asked
    if clips < FEW:
        return 1
    return torch.cuda.device_count() if device.type == "cuda" else _cores() if device.type == "cpu" else 1


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _bars() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """One progress bar after the other, each closed when the next begins."""
    from tqdm import tqdm

    opened: list[Any] = []

    def bar(label: str, clips: int) -> Callable[[int], None]:
        while opened:
            opened.pop().close()
        opened.append(tqdm(total=clips, unit="clip", desc=label, dynamic_ncols=True))
        return opened[0].update

    try:
        yield bar
    finally:
        while opened:
            opened.pop().close()


def _tell(scores: Sequence[Score], path: Path) -> None:
    for score in scores:
        std = "" if score.std is None else f" ± {score.std:.3g}"
        typer.echo(f"{score.label}: {score.metric} {score.value:.5g}{std}")
    typer.echo(f"wrote {path}")


def register(app: typer.Typer) -> None:
    """Add the commands to `lvgan eval`."""
    app.command("fvd")(fvd)
    app.command("fid")(fid)
    app.command("all")(everything)
    app.command("detectors")(detectors)
