"""``lvgan footage``: video of a procedural world, to try everything without any data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def footage(
    folder: Annotated[Path, typer.Argument(help="Where the videos go.", show_default=False)],
    videos: Annotated[int, typer.Option(help="How many.")] = 12,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 20.0,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 30.0,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height x width in pixels.")] = "256x256",
    seed: Annotated[int, typer.Option(help="Another seed: other worlds.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one for each processor.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace footage that is there.")] = False,
) -> None:
    """Render footage of a world that never repeats.

    Rides past hills, trees and houses while light and weather drift: to try everything without any data.
    Run again, it goes on where it stopped.
    """
    from lvgan.data.footage import write_footage
    from lvgan.sizes import Size

    written = write_footage(
        folder,
        videos=videos,
        seconds=seconds,
        fps=fps,
        size=Size.parse(size),
        seed=seed,
        workers=workers,
        overwrite=overwrite,
    )
    typer.echo(f"{folder}: {len(written)} videos of {size}, {seconds:g} s each")
    typer.echo(f"next: lvgan prepare {shlex.quote(str(folder))} out/")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(footage)
