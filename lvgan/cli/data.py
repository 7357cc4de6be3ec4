"""``lvgan data``: look at, check and complete a set of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(name="data", help="Look at, check and complete training data.", no_args_is_help=True)
Root = Annotated[Path, typer.Argument(help="Folder of shards, prepared or downloaded.", show_default=False)]
LISTED = 50  # problems


@data_app.command("info")
def info(
    root: Root,
    grid: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Write a sheet of sample frames.")] = None,
) -> None:
    """Clips, frames, hours, sizes, and how long the clips are."""
    import statistics

    from lvgan.data.verify import USUAL_FPS, describe, length_histogram, sample_grid

    found = describe(root)
    frames = found.frames
    rate = f"at {found.fps:g} fps" if found.fps else f"if it has {USUAL_FPS:g} fps"
    typer.echo(f"{root}: {len(frames)} clips, {sum(frames)} frames, {found.hours:.2f} hours {rate}")
    if not found.complete:
        typer.echo("  not complete: `lvgan prepare` was stopped, or is still at work; run it again to go on")
    for r in found.resolutions:
        decoded = f", and {_size(r.decoded)} of decoded frames" if r.decoded else ""
        typer.echo(
            f"  {r.size.folder()}  {r.shards} {'shard' if r.shards == 1 else 'shards'}, {_size(r.bytes)}{decoded}"
        )
    if frames:
        middle = statistics.median(frames)
        typer.echo(f"frames a clip: {min(frames)} to {max(frames)}, median {middle:g}")
    for line in length_histogram(frames):
        typer.echo(line)
    if grid is not None:
        size = sample_grid(root, grid)
        typer.echo(f"{grid}: {size} pixels, one clip a row")


@data_app.command("verify")
def verify(root: Root) -> None:
    """Decode every frame and compare the resolutions and the manifest. Exit code 1 if anything is wrong."""
    from lvgan.cli.prepare import printable
    from lvgan.data.verify import verify as work

    found = work(root, progress=True)
    for line in found.problems[:LISTED]:
        typer.echo(printable(line))
    if len(found.problems) > LISTED:
        typer.echo(f"and {len(found.problems) - LISTED} more")
    sizes = ", ".join(map(str, found.resolutions))
    what = f"{found.clips} clips at {sizes}, {found.frames} frames"
    if found.problems:
        count = len(found.problems)
        typer.echo(f"{root}: {count} {'problem' if count == 1 else 'problems'} in {what}")
        raise typer.Exit(1)
    typer.echo(f"{root}: {what}: every frame decodes, and all agree")


@data_app.command("resize")
def resize(
    root: Root,
    size: Annotated[str, typer.Option(metavar="HxW", help="The resolution to make.", show_default=False)],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="HxW", help="The resolution to make it from.", show_default="the next larger"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace shards of that resolution that came from elsewhere.")
    ] = False,
) -> None:
    """Make a missing resolution from a larger one, with the same clips in the same shards.

    Run again, it goes on where it stopped.
    """
    from lvgan.data.resize import resize as work
    from lvgan.sizes import Size

    target = Size.parse(size)
    done = work(root, target, source=Size.parse(source) if source else None, overwrite=overwrite, progress=True)
    kept = f", {done.kept} were there" if done.kept else ""
    typer.echo(f"{root / target.folder()}: {done.made} shards made from {done.source}{kept}")
    if done.part != done.source:
        typer.echo(f"its shape differs from that of {target}: the centre, {done.part}, is used")


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(data_app)
