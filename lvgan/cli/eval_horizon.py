"""``lvgan eval horizon``: what only shows in long videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from lvgan.cli.eval_distances import Reopen
    from lvgan.evaluation.horizon import Horizon, Plan
    from lvgan.evaluation.protocol import Score
    from lvgan.evaluation.sources import ClipSource

VIDEOS, VIDEOS_ON_CPU = 16, 4
FRAMES_OF_A_CLIP = 100  # about as much work as a clip of FVD, of which few are not worth several processes


def horizon(
    operands: Annotated[
        list[str] | None,
        typer.Argument(
            help="[LABEL=]WHAT: shards, checkpoints, runs, bundles, videos, folders, .npy; or LOW+SR, as in color-sim.",
            show_default="the newest run and its data",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the plots and the numbers.", show_default="beside the run"),
    ] = None,
    frames: Annotated[int, typer.Option(help="How far drift is followed.")] = 10_000,
    dense: Annotated[
        int, typer.Option(help="Frames without gaps, searched for repetition and motion; at most --frames.")
    ] = 2048,
    videos: Annotated[
        int | None,
        typer.Option(help="Videos of each.", show_default=f"{VIDEOS}; {VIDEOS_ON_CPU} for networks on a CPU"),
    ] = None,
    starts: Annotated[int, typer.Option(help="Moments of each video from which drift is followed.")] = 2,
    min_lag: Annotated[int, typer.Option(help="Frames between a moment and its earliest possible repetition.")] = 32,
    bins: Annotated[int, typer.Option(help="Histogram bins a colour.")] = 20,
    seed: Annotated[int, typer.Option(help="Chooses the videos.")] = 0,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Bring all to this.", show_default="of the smallest network")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "--gpus",
            help="Processes, which share the videos. No figure depends on it.",
            show_default="auto",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Long-horizon figures that FVD misses: drift, self-repetition (loops, freezes) and motion against footage.

    Writes horizon.png, its parts one by one (horizon-drift.png ...), .csv and .json. Of a network only the frames
    that are needed are computed.
    """
    from lvgan.cli import evaluate
    from lvgan.cli.eval_distances import Reopen, _processes
    from lvgan.device import pick_device
    from lvgan.evaluation.horizon import Plan
    from lvgan.ops import native
    from lvgan.sizes import Size

    _check(frames, dense, videos, starts, min_lag, bins, workers, output)
    target = pick_device(device)
    named, folder = list(operands or []), output
    if not named:
        named, beside = evaluate._newest_run()
        folder = output or beside
    sources = evaluate._open_all(named, target, None if size is None else Size.parse(size))
    networks = any(evaluate._is_model(evaluate._label(text)[1]) for text in named)
    if networks:
        native.activate(target, typer.echo)
    if videos is None:
        videos = VIDEOS_ON_CPU if networks and target.type == "cpu" else VIDEOS
    plan = Plan(frames, min(dense, frames), videos, starts, bins, seed, min_lag)
    common = str(getattr(sources[0], "size", None))
    openers = [Reopen(text, common, source.fps) for text, source in zip(named, sources, strict=True)]
    clips = videos * plan.dense // FRAMES_OF_A_CLIP
    measure(sources, folder or Path("eval"), plan, target, openers, _processes(workers, target, clips))


def _check(
    frames: int,
    dense: int,
    videos: int | None,
    starts: int,
    min_lag: int,
    bins: int,
    workers: int | None,
    output: Path | None,
) -> None:
    from lvgan.errors import ConfigError
    from lvgan.evaluation.repetition import SPAN

    shortest = SPAN + 2 * min_lag
    for name, value, low, high in (
        ("--min-lag", min_lag, SPAN, 10**5),
        ("--frames", frames, shortest, 10**7),
        ("--dense", dense, shortest, 50_000),
        ("--videos", videos, 1, 10**5),
        ("--starts", starts, 1, 100),
        ("--bins", bins, 2, 256),
        ("--workers", workers, 1, 1024),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} {value} was given, but {low} to {high} is possible; choose a value in between")
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file, but a folder was expected; name another")


def measure(
    sources: Sequence[ClipSource],
    folder: Path,
    plan: Plan,
    device: torch.device | None = None,
    openers: Sequence[Reopen | None] = (),
    workers: int = 1,
) -> list[Score]:
    """Measure, print and write. The first shards are the footage that others are compared with."""
    from tqdm import tqdm

    from lvgan.evaluation.horizon import measure_horizon
    from lvgan.evaluation.horizon_plots import plot_drift, plot_horizon, plot_motion, plot_repetition
    from lvgan.evaluation.horizon_scores import horizon_scores, write_horizon_csv
    from lvgan.evaluation.protocol import write_scores
    from lvgan.evaluation.sources import ShardSource

    horizons: list[Horizon] = []
    for source, opener in zip(sources, openers or [None] * len(sources), strict=True):
        real = isinstance(source, ShardSource)  # a video may be anybody's, shards are footage
        with tqdm(unit="frame", desc=source.label, dynamic_ncols=True) as bar:
            measured = measure_horizon(
                source, plan, real=real, progress=bar.update, total=bar.reset, device=device, workers=workers,
                open_source=opener,
            )  # fmt: skip
        horizons.append(measured)
    place = next((i for i, measured in enumerate(horizons) if measured.real), 0)
    scores: list[Score] = []
    for i, (measured, source) in enumerate(zip(horizons, sources, strict=True)):
        against, its_source = (None, None) if i == place else (horizons[place], sources[place])
        mine = horizon_scores(measured, source, plan, against, its_source, horizons)
        scores += mine
        typer.echo(_line(measured, mine, horizons[place].label))
        if i != place and measured.size != horizons[place].size:
            typer.echo(
                f"{measured.label} is {measured.size} and {horizons[place].label} {horizons[place].size}: "
                "their motion is not compared; --size brings both to one size"
            )
    files = {suffix: folder / f"horizon.{suffix}" for suffix in ("png", "csv", "json")}
    plot_horizon(horizons, files["png"])
    for name, plot in (("drift", plot_drift), ("repetition", plot_repetition), ("motion", plot_motion)):
        plot(horizons, folder / f"horizon-{name}.png")
    write_horizon_csv(horizons, files["csv"])
    write_scores(files["json"], scores)
    typer.echo(f"wrote {files['png']}, its parts, .csv and .json")
    return scores


def _line(measured: Horizon, scores: Sequence[Score], reference: str) -> str:
    """All figures of one source."""
    from lvgan.evaluation.horizon_scores import source_sentence

    found = {score.metric: score for score in scores}
    drift = found["drift"]
    parts = [
        f"{measured.label}: similarity {drift.value:.3f} after {drift.protocol['at_frame']} frames",
        f"{source_sentence(measured)} ({found['self-repetition'].value:.1%} of moments)",
        f"changes {found['motion'].value:.2f} grey levels a frame",
    ]
    for metric, name, unit in (
        ("drift-gap", "drift", ""),
        ("motion-gap", "motion", " octaves"),
        ("rhythm-gap", "rhythm", ""),
    ):
        if metric in found and (interval := found[metric].interval) is not None:
            low, high = interval
            parts.append(f"{name} {found[metric].value:.3f}{unit} from {reference} ({low:.3f} to {high:.3f})")
    return "; ".join(parts)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("horizon")(horizon)
