"""``lvgan eval``: how good is it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lvgan.cli import eval_horizon, eval_report

if TYPE_CHECKING:
    import torch

    from lvgan.evaluation.sources import ClipSource
    from lvgan.sizes import Size

eval_app = typer.Typer(name="eval", help="Measure what a network makes against its footage.", no_args_is_help=True)

CLIPS_ON_CPU = 100


@eval_app.command("color-sim")
def color_sim(
    operands: Annotated[
        list[str] | None,
        typer.Argument(
            help="Shards, checkpoints (lr.pt, lr.pt+sr.pt, bundle.pt), runs, videos, folders; LABEL=PATH names one.",
            show_default="the newest run and its data",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the plot and the numbers.", show_default="beside the run"),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(help="Random clips of each.", show_default=f"1000; {CLIPS_ON_CPU} for networks on a CPU"),
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames a clip.")] = 128,
    bins: Annotated[int, typer.Option(help="Histogram bins a colour.")] = 20,
    seed: Annotated[int, typer.Option(help="Chooses the clips.")] = 0,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resize videos to this.", show_default="as they are")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Colour similarity over time (figure 5 of the paper): how fast do colours drift away from frame 0?

    Writes color-sim.png, .pdf, .csv and .json. Real footage falls gradually; a curve above it changes too
    little over time, one below it too fast.
    """
    from lvgan.device import pick_device
    from lvgan.errors import ConfigError
    from lvgan.ops import native
    from lvgan.sizes import Size

    for name, value, low, high in (
        ("--clips", clips, 1, 10**6),
        ("--frames", frames, 2, 10**6),
        ("--bins", bins, 2, 256),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} {value} was given, but {low} to {high} is possible; choose a value in between")
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file, but a folder was expected; name another")
    target = pick_device(device)
    named = list(operands or [])
    folder = output
    if not named:
        run_operands, run_folder = _newest_run()
        named, folder = run_operands, output or run_folder
    sources = _open_all(named, target, None if size is None else Size.parse(size))
    if any(_is_model(_label(text)[1]) for text in named):
        native.activate(target, typer.echo)
    if clips is None:
        clips = CLIPS_ON_CPU if target.type == "cpu" and any(_is_model(_label(text)[1]) for text in named) else 1000
    measure(sources, folder or Path("eval"), clips=clips, frames=frames, bins=bins, seed=seed)


def _newest_run() -> tuple[list[str], Path]:
    """Operands for the newest run: its data and its checkpoint; and where to write."""
    from lvgan.errors import DataError
    from lvgan.training.runs import all_runs

    runs = [run for run in all_runs() if run.newest_checkpoint() is not None]
    if not runs:
        raise DataError(
            "there is no run with a checkpoint under runs/; train one, or name what to measure (see --help)"
        )
    run, config = runs[0], runs[0].config()
    if config.stage == "sr":
        # Colours over time are decided at low resolution: a run there on the same data is what to look at.
        lower = [r for r in runs if (c := r.config()).stage == "lr" and c.data.path == config.data.path]
        if lower:
            typer.echo(
                f"the newest run is {run.folder}, which inherits its colours from {lower[0].folder}: taking that"
            )
            run, config = lower[0], lower[0].config()
    checkpoint = run.newest_checkpoint()
    typer.echo(f"taking {checkpoint} and its data {config.data.path}")
    size = config.data.lr if config.stage == "lr" else config.data.hr
    assert size is not None  # a run's configuration has its sizes
    shards = Path(config.data.path) / size.folder()
    return [f"footage={shards}", f"{run.name}={checkpoint}"], run.folder / "eval"


def _open_all(operands: list[str], device: torch.device, size: Size | None) -> list[ClipSource]:
    """A source for each operand; footage and videos are brought to the size of the first network."""
    from lvgan.evaluation.models import open_model

    split = [_label(text) for text in operands]
    models = {text: open_model(text, device, label) for label, text in split if _is_model(text)}
    common = size or next((model.size for model in models.values()), None)
    return [models[text] if text in models else _open_footage(text, label, common) for label, text in split]


def _label(text: str) -> tuple[str | None, str]:
    """``LABEL=PATH`` as its parts; a file whose name holds a = is a path."""
    label, equals, path = text.partition("=")
    return (label, path) if equals and label and not Path(text).exists() else (None, text)


def _is_model(text: str) -> bool:
    path = Path(text)
    return path.suffix == ".pt" or (path / "checkpoints").is_dir() or ("+" in text and not path.exists())


def _open_footage(text: str, label: str | None, size: Size | None) -> ClipSource:
    from lvgan.data.shards import find_resolutions
    from lvgan.evaluation.sources import open_source

    path = Path(text)
    if path.is_dir() and (shards := find_resolutions(path)) and size not in shards:
        size = None  # no such resolution: its largest
    source = open_source(path, label=label, size=None if _is_resolution(path) else size)
    assert source is not None  # checkpoints were taken out before
    return source


def _is_resolution(path: Path) -> bool:
    import re

    return re.fullmatch(r"\d{4}x\d{4}", path.name) is not None


def measure(
    sources: list[ClipSource], folder: Path, *, clips: int, frames: int, bins: int = 20, seed: int = 0
) -> dict[str, Path]:
    """Measure, print and write the curves; the files by extension. The first shards are the reference."""
    from tqdm import tqdm

    from lvgan.evaluation.color import curve_area, measure_similarity
    from lvgan.evaluation.plots import plot_similarity, write_curves_csv, write_curves_json
    from lvgan.evaluation.sources import ShardSource

    curves = []
    for source in sources:
        real = isinstance(source, ShardSource)  # a video may be anybody's, shards are footage
        with tqdm(total=clips, unit="clip", desc=source.label, dynamic_ncols=True) as bar:

            def advance(done: int, bar: Any = bar) -> None:
                bar.update(done - bar.n)

            curves.append(
                measure_similarity(
                    source, clips=clips, frames=frames, seed=seed, bins=bins, real=real, progress=advance
                )
            )
    reference = next((curve for curve in curves if curve.real), curves[0])
    areas = []
    for curve in curves:
        line = f"{curve.label}: {curve.clips} clips, similarity {curve.mean[-1]:.3f} after {frames - 1} frames"
        if curve is not reference and curve.protocol["size"] == reference.protocol["size"]:
            area = curve_area(curve, reference)
            areas.append((curve.label, reference.label, area))
            line += f"; area to {reference.label} {area.area:.4f} ({area.low:.4f} to {area.high:.4f})"
        typer.echo(line)
    files = {suffix: folder / f"color-sim.{suffix}" for suffix in ("png", "pdf", "csv", "json")}
    plot_similarity(curves, files["png"], files["pdf"])
    write_curves_csv(curves, files["csv"])
    write_curves_json(curves, files["json"], areas)
    typer.echo(f"wrote {files['png']}, .pdf, .csv and .json")
    return files


def register(app: typer.Typer) -> None:
    """Add the commands."""
    eval_horizon.register(eval_app)
    eval_report.register(eval_app)
    app.add_typer(eval_app)
