"""``lvgan eval report``: a run as one HTML file."""

from __future__ import annotations

import contextlib
import glob
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lvgan.evaluation.protocol import Score
    from lvgan.evaluation.report import Film, Part, Picture, Section
    from lvgan.evaluation.sources import ClipSource
    from lvgan.training.runs import Run

FILM_SIDE = 256  # pixels: smaller films are enlarged, since H.264 blurs the colours of single pixels
STRIP_SIDE = 160
STRIP_FRAMES = 12


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder, such as runs/lr-0001.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page.", show_default="RUN/report.html")
    ] = None,
    sr: Annotated[
        str | None, typer.Option(help="Super-resolution checkpoint or run, for the clips of a low-resolution run.")
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            help="Scores (.json) to show; may be given often.",
            show_default="RUN/eval/*.json, and those of eval/*.json that are of this run",
        ),
    ] = None,
    clips: Annotated[int, typer.Option(help="Sample clips.")] = 4,
    frames: Annotated[int, typer.Option(help="Frames a clip.")] = 96,
    horizon: Annotated[int, typer.Option(help="The last frame of the film strip.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Chooses the clips.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Make one HTML page of a run: scores with their protocols, plots, clips, training curves, settings.

    It needs no other file and no network, and reads on a phone. `lvgan eval` writes scores into RUN/eval or eval.
    """
    from lvgan.device import pick_device
    from lvgan.errors import ConfigError
    from lvgan.evaluation.report import write_report
    from lvgan.ops import native
    from lvgan.training.runs import Run

    for name, value, low, high in (
        ("--clips", clips, 0, 64),
        ("--frames", frames, 2, 2000),
        ("--horizon", horizon, 1, 2**31),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} {value} was given, but {low} to {high} is possible; choose a value in between")
    target = output or run / "report.html"
    if target.is_dir():
        raise ConfigError(f"--output {target} is a folder, but a .html file was expected; name a file in it")
    found = Run(run)
    config = found.config()  # says what is wrong where there is no run
    on = pick_device(device)
    sections = [*_scores(run, scores), *_curves(run)]
    checkpoint = found.newest_checkpoint()
    if checkpoint is not None and clips:
        native.activate(on, typer.echo)
        operand = str(checkpoint) if sr is None else f"{checkpoint}+{sr}"
        sections[1:1] = _samples(operand, on, Path(config.data.path), clips, frames, horizon, seed)
    sections.append(_settings(found))
    stage = "low resolution" if config.stage == "lr" else "super-resolution"
    size = config.data.lr if config.stage == "lr" else f"{config.data.lr} to {config.data.hr}"
    name = run.resolve().name
    step = "no checkpoint yet" if checkpoint is None else f"step {found.step:,} of {config.training.steps:,}"
    write_report(target, name, f"{stage}, {size}, {step}; footage: {Path(config.data.path).name}", sections)
    typer.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")


def _scores(run: Path, named: list[Path] | None) -> Iterator[Section]:
    """The scores and the plots that stand beside them. Of the run's own files those that hold none are passed over."""
    from lvgan.errors import DataError
    from lvgan.evaluation.protocol import read_scores
    from lvgan.evaluation.report import Note, Picture, Pictures, Scores, Section

    own = sorted((run / "eval").glob("*.json"))
    beside = [file for file in sorted(Path("eval").glob("*.json")) if file.resolve() not in [o.resolve() for o in own]]
    found, files = [], []
    for file in named or [*own, *beside]:
        try:
            scores = read_scores(file)
        except DataError as error:
            if named:
                raise
            if file in own:
                typer.echo(f"left out: {error}", err=True)
            continue
        if named or file in own or any(_is_of(score, run) for score in scores):
            found += scores
            files.append(file)
    parts: list[Part] = [Scores(found)] if found else [Note("No scores yet: `lvgan eval` measures them.")]
    plots = [
        Picture(picture.read_bytes(), picture.stem.replace("-", " ")) for file in files for picture in _plots_of(file)
    ]
    if plots:
        parts.append(Pictures(plots, plots=True))
    yield Section("Scores", parts)


def _is_of(score: Score, run: Path) -> bool:
    """A checkpoint of this run took part."""
    parts = (score.model.get("checkpoint"), score.model.get("super_resolution"))
    return any(isinstance(part, str) and Path(part).resolve().is_relative_to(run.resolve()) for part in parts)


def _plots_of(file: Path) -> list[Path]:
    """The plots beside a file of scores: NAME-part.png each, or all in one NAME.png, which is wide."""
    parts = sorted(file.parent.glob(f"{glob.escape(file.stem)}-*.png"))
    return parts or [path for path in [file.with_suffix(".png")] if path.is_file()]


def _curves(run: Path) -> Iterator[Section]:
    """The training curves, a picture for each panel: one of them all is too small for a phone."""
    from lvgan.errors import DataError
    from lvgan.evaluation.report import Note, Picture, Pictures, Section
    from lvgan.training.curves import PANELS, History, plot_runs, read_history

    try:
        history = read_history(run)
    except DataError as error:
        yield Section("Training", [Note(str(error))])
        return
    placed = {key for panel in PANELS for key in panel.names}
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "panel.png"
        for panel in PANELS:
            keys = [key for key in history.curves if (key in panel.names if panel.names else key not in placed)]
            if keys:
                part = History(history.name, {key: history.curves[key] for key in keys}, history.events)
                try:
                    plot_runs([part], file)
                except ValueError:  # nothing in it that is drawn
                    continue
                pictures.append(Picture(file.read_bytes(), panel.title))
    events = "; ".join(f"step {step}: {what}" for step, what in history.events[-20:])
    yield Section("Training", [Pictures(pictures, plots=True), *([Note(f"Events: {events}")] if events else [])])


def _samples(
    operand: str, device: torch.device, data: Path, clips: int, frames: int, horizon: int, seed: int
) -> Iterator[Section]:
    """Clips in motion, and frames of one video far apart."""
    from tqdm import tqdm

    from lvgan.errors import DataError
    from lvgan.evaluation.long_videos import long_videos
    from lvgan.evaluation.models import open_model
    from lvgan.evaluation.report import Films, Note, Pictures, Section
    from lvgan.evaluation.sources import ShardSource

    try:
        source = open_model(operand, device)
        made = list(tqdm(_films(source, clips, frames, seed), total=clips, unit="clip", desc="sample clips"))
    except DataError as error:  # footage that a super-resolution network needs may be gone
        yield Section("Samples", [Note(f"No clips: {error}")])
        return
    rate = f"{frames / source.fps:.1f} s at {source.fps:g} frames a second"
    parts: list[Part] = [Films(made, f"{frames} frames each, {rate}.")]
    with contextlib.suppress(DataError):  # the footage may be elsewhere by now
        footage = ShardSource(data, "footage", source.size)
        parts.append(Films(list(_films(footage, clips, frames, seed)), "Footage, for comparison."))
    yield Section("Samples", parts)
    video = next(iter(long_videos(source, 1, frames, 2, seed)))
    last = horizon if video.length is None else min(horizon, video.length - 1)
    strip = list(_strip(video.frames(_spread(last)), _spread(last)))
    caption = f"One video at frames farther and farther apart, up to frame {last:,} ({_duration(last / source.fps)})."
    yield Section("A long video", [Pictures(strip, caption)])


def _films(source: ClipSource, clips: int, frames: int, seed: int) -> Iterator[Film]:
    from lvgan.data.encoding import open_writer
    from lvgan.evaluation.report import Film

    with tempfile.TemporaryDirectory() as folder:
        for index, clip in enumerate(source.clips(clips, frames, seed)):
            file = Path(folder) / f"{index}.mp4"
            with open_writer(file, source.fps) as writer:
                for frame in clip:
                    writer.write(_enlarged(frame, FILM_SIDE))
            height, width = _enlarged(clip[0], FILM_SIDE).shape[:2]
            yield Film(file.read_bytes(), f"clip {index}", (height, width))


def _enlarged(frame: np.ndarray, side: int) -> np.ndarray:
    """A small frame [H, W, C] in larger pixels, RGB, at most `side` high and wide or as it is."""
    import numpy as np

    factor = max(1, side // max(frame.shape[:2]))
    larger = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.ascontiguousarray(larger if larger.shape[2] == 3 else larger.repeat(3, axis=2))


def _spread(last: int) -> list[int]:
    """Frame 0 and log-spaced ones up to `last`."""
    import numpy as np

    spaced = np.geomspace(1, max(last, 1), STRIP_FRAMES - 1).round().astype(int)
    return np.unique(np.concatenate([[0], spaced])).tolist()


def _strip(frames: Iterator[np.ndarray], indices: list[int]) -> Iterator[Picture]:
    from PIL import Image

    from lvgan.evaluation.report import Picture

    for index, frame in zip(indices, frames, strict=False):
        picture = Image.fromarray(_enlarged(frame, STRIP_SIDE))
        picture.thumbnail((2 * STRIP_SIDE, 2 * STRIP_SIDE))
        data = io.BytesIO()
        picture.save(data, "PNG")
        yield Picture(data.getvalue(), f"frame {index}", f"{index:,}", plot=False)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _settings(run: Run) -> Section:
    from lvgan.evaluation.report import Facts, Listing, Section

    checkpoint = run.newest_checkpoint()
    rows = [("checkpoint", checkpoint.name if checkpoint else "none"), ("lvgan", _version())]
    return Section(
        "Settings", [Facts(rows), Listing("config.yaml", run.config_file.read_text("utf-8", errors="replace"))]
    )


def _version() -> str:
    from lvgan import __version__

    return __version__


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)
