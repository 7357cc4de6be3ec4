"""``lvgan runs`` and ``lvgan plot``: what is being trained, and how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lvgan.training.overview import Overview


def runs(
    root: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Everything that is known, as JSON.")] = False,
) -> None:
    """List the runs: how far, how fast, how good.

    The one that wrote last stands first. ETA is what the remaining steps take.
    """
    import dataclasses
    import json

    from lvgan.errors import DataError
    from lvgan.training.overview import overviews

    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file, but a folder of runs was expected; name another with --root")
    found = overviews(root) if root.is_dir() else []
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(run) for run in found], indent=1))
        return
    if not found:
        typer.echo(f"there are no runs in {root}; `lvgan train-lr out/` starts one")
        return
    for line in _table([run for run in found if run.state != "broken"]):
        typer.echo(line)
    for run in found:
        if run.problem is not None:
            typer.echo(f"{run.name} {'is broken' if run.state == 'broken' else run.state}: {run.problem}")
    named = next((run for run in found if run.state != "broken" and run.losses), None)
    if named is not None:
        import shlex

        typer.echo(f"next: lvgan plot {shlex.quote(named.folder)}")


def _table(found: list[Overview]) -> list[str]:
    if not found:
        return []
    head = ["RUN", "STAGE", "STATE", "STEP", "SPEED", "ETA", "LOSS G, D", "METRIC (BEST)", "LAST WROTE", "DATA"]
    rows = [head, *(_row(run) for run in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: Overview) -> list[str]:
    left = run.state in ("running", "stopped", "failed") and run.seconds_left is not None
    return [
        run.name,
        run.stage or "",
        run.state,
        f"{run.step} of {run.steps}",
        _speed(run.seconds_per_step),
        duration(run.seconds_left) if left and run.seconds_left is not None else "",
        _losses(run),
        _metric(run),
        "" if run.age is None else f"{duration(run.age)} ago",
        Path(run.data).name if run.data else "",
    ]


def _speed(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.3g} s/step" if seconds >= 0.0995 else f"{1 / seconds:.0f} steps/s"


def _losses(run: Overview) -> str:
    """The generator's, and the sum of the discriminator's two."""
    losses = run.losses or {}
    made, real = losses.get("loss/discriminator_fake"), losses.get("loss/discriminator_real")
    both = made + real if isinstance(made, float) and isinstance(real, float) else "nan" if made or real else None
    values = [v for v in (losses.get("loss/generator"), both) if v is not None]
    return ", ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)


def _metric(run: Overview) -> str:
    from lvgan.training.metrics import BEST_BY

    if run.stage is None:
        return ""
    key = BEST_BY[run.stage]
    value = (run.metrics or {}).get(key)
    if value is None:
        return ""
    text = f"{key.partition('/')[2]} {value:.4f}" if isinstance(value, float) else f"{key.partition('/')[2]} {value}"
    return text + (f" ({run.best[1]:.4f} at {run.best[0]})" if run.best else "")


def duration(seconds: float) -> str:
    """``3 d 4 h``, ``2 h 05 min``, ``7 min``, ``12 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def plot(
    operands: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs: folders, or names under runs/.", show_default="the newest"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The picture.", show_default="RUN/curves.png; of several: curves.png"),
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder in which names are looked up.")] = Path("runs"),
) -> None:
    """Draw the curves of runs: losses, logits, R1, ADA, metrics, health, speed.

    Several runs go into one picture, to be compared. Thick lines are smoothed; red lines mark events.
    """
    from lvgan.errors import ConfigError
    from lvgan.training.curves import plot_runs, read_history

    folders = [_folder(text, root) for text in operands] if operands else [_newest(root)]
    if output is not None and output.suffix.lower() != ".png":
        raise ConfigError(f"--output {output} was given, but curves are drawn as .png; name a .png file")
    if output is not None and output.is_dir():
        raise ConfigError(f"--output {output} is a folder, but a .png file was expected; name a file in it")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    histories = [read_history(folder, name) for folder, name in zip(folders, names, strict=True)]
    target = output or (folders[0] / "curves.png" if len(folders) == 1 else Path("curves.png"))
    plot_runs(histories, target)
    typer.echo(f"wrote {target}")


def _folder(text: str, root: Path) -> Path:
    """The run that a folder or a name stands for."""
    path = Path(text)
    return path if path.is_dir() or not (root / text).is_dir() else root / text


def _newest(root: Path) -> Path:
    from lvgan.errors import DataError
    from lvgan.training.overview import overviews

    logged = [run for run in overviews(root) if (Path(run.folder) / "log.jsonl").is_file()] if root.is_dir() else []
    if not logged:
        raise DataError(f"there is no run with a log in {root}; train one, or name a run (see --help)")
    return Path(logged[0].folder)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("runs")(runs)
    app.command("plot")(plot)
