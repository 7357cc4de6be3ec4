"""``lvgan eval``: how good is it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lvgan.cli import eval_distances, eval_horizon, eval_report

if TYPE_CHECKING:
    import torch

    from lvgan.evaluation.sources import ClipSource
    from lvgan.sizes import Size

eval_app = typer.Typer(name="eval", help="Measure what a network makes against its footage.", no_args_is_help=True)

CLIPS_ON_CPU = 100


OPERANDS = (
    "[LABEL=]WHAT: shards, a checkpoint, run, folder of runs or bundle, a video, a folder of videos or frames, .npy; "
    "or LOW+SR: LOW is any of these, SR a super-resolution network on it (lr.pt+sr.pt, shards+sr.pt)."
)


@eval_app.command("color-sim")
def color_sim(
    operands: Annotated[
        list[str] | None, typer.Argument(help=OPERANDS, show_default="the newest run and its data")
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
        str | None, typer.Option(metavar="HxW", help="Bring all to this.", show_default="of the smallest network")
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads; no result depends on them.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Colour similarity over time (figure 5 of the paper): how fast do colours drift away from frame 0?

    Writes color-sim.png, .pdf, .csv and .json. Real footage falls gradually; a curve above it changes too
    little over time, one below it too fast. The first shards, or else the first operand, are what the others
    are compared with.
    """
    run_color_sim(operands, output, clips, frames, bins, seed, size, workers, device)


def run_color_sim(
    operands: list[str] | None,
    output: Path | None,
    clips: int | None,
    frames: int = 128,
    bins: int = 20,
    seed: int = 0,
    size: str | None = None,
    workers: int = 1,
    device: str = "auto",
    reference: int | None = None,
) -> None:
    """What :func:`color_sim` does, against the operand with the number `reference` where that is given."""
    from lvgan.device import pick_device
    from lvgan.errors import ConfigError
    from lvgan.ops import native
    from lvgan.sizes import Size

    for name, value, low, high in (
        ("--clips", clips, 1, 10**6),
        ("--frames", frames, 2, 10**6),
        ("--bins", bins, 2, 256),
        ("--workers", workers, 1, 1024),
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
    networks = any(_is_model(_label(text)[1]) for text in named)
    native.activate("cpu", typer.echo)  # colours are counted there
    if networks and target.type != "cpu":
        native.activate(target, typer.echo)
    if clips is None:
        clips = CLIPS_ON_CPU if target.type == "cpu" and networks else 1000
    settings = {"clips": clips, "frames": frames, "bins": bins, "seed": seed, "workers": workers}
    measure(sources, folder or Path("eval"), **settings, reference=reference)


@eval_app.command("compare")
def compare(
    files: Annotated[list[Path], typer.Argument(help="JSON files that `lvgan eval` wrote.", show_default=False)],
) -> None:
    """One table of the scores in several files; refuses scores that were measured in different ways."""
    from lvgan.evaluation import protocol

    typer.echo(protocol.compare(files))


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
    """A source for each operand, all of one size, which is told."""
    from lvgan.evaluation.operands import open_operands

    sources = open_operands(operands, device, size)
    common = getattr(sources[0], "size", None)
    if any(getattr(source, "native", common) != common for source in sources):
        typer.echo(f"all brought to {common}: cut about the centre, resized with Lanczos (--size chooses another)")
    return sources


def _label(text: str) -> tuple[str | None, str]:
    from lvgan.evaluation.operands import split_label

    return split_label(text)


def _is_model(text: str) -> bool:
    from lvgan.evaluation.operands import Operand

    return Operand.parse(text).is_model


def measure(
    sources: list[ClipSource],
    folder: Path,
    *,
    clips: int,
    frames: int,
    bins: int = 20,
    seed: int = 0,
    workers: int = 1,
    reference: int | None = None,
) -> dict[str, Path]:
    """Measure, print and write the curves; the files by extension.

    The source with the number `reference` is what others are compared with; the first shards where not given.
    """
    from tqdm import tqdm

    from lvgan.evaluation.color import curve_area, measure_similarity, similarity_score
    from lvgan.evaluation.plots import plot_similarity, write_curves_csv, write_curves_json
    from lvgan.evaluation.sources import ShardSource

    curves = []
    for number, source in enumerate(sources):
        # A video may be anybody's, shards are footage.
        real = isinstance(source, ShardSource) if reference is None else number == reference
        with tqdm(total=clips, unit="clip", desc=source.label, dynamic_ncols=True) as bar:

            def advance(done: int, bar: Any = bar) -> None:
                bar.update(done - bar.n)

            curves.append(
                measure_similarity(
                    source,
                    clips=clips,
                    frames=frames,
                    seed=seed,
                    bins=bins,
                    real=real,
                    workers=workers,
                    progress=advance,
                )
            )
    place = next((i for i, curve in enumerate(curves) if curve.real), 0)
    footage = curves[place]
    areas, scores = [], []
    for curve, source in zip(curves, sources, strict=True):
        asked = "" if curve.clips == clips else f" of {clips} asked for"
        unit = "clip" if curve.clips == 1 else "clips"
        line = f"{curve.label}: {curve.clips} {unit}{asked}, similarity {curve.mean[-1]:.3f} after {frames - 1} frames"
        if curve is not footage and curve.protocol["size"] == footage.protocol["size"]:
            area = curve_area(curve, footage)
            areas.append((curve.label, footage.label, area))
            scores.append(similarity_score(curve, footage, (source, sources[place]), area))
            line += f"; area to {footage.label} {area.area:.4f} ({area.low:.4f} to {area.high:.4f})"
        typer.echo(line)
    files = {suffix: folder / f"color-sim.{suffix}" for suffix in ("png", "pdf", "csv", "json")}
    plot_similarity(curves, files["png"], files["pdf"])
    write_curves_csv(curves, files["csv"])
    write_curves_json(curves, files["json"], areas, scores)
    typer.echo(f"wrote {files['png']}, .pdf, .csv and .json")
    return files


def register(app: typer.Typer) -> None:
    """Add the commands."""
    eval_horizon.register(eval_app)
    eval_distances.register(eval_app)
    eval_report.register(eval_app)
    app.add_typer(eval_app)
