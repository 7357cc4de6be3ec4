"""``lvgan hub``: publish a world on the Hugging Face Hub, and fetch one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

hub_app = typer.Typer(name="hub", help="Publish worlds on the Hugging Face Hub, and fetch them.", no_args_is_help=True)


@hub_app.command("push")
def push(
    sources: Annotated[list[Path], typer.Argument(help="Runs, checkpoints or a bundle: one network of each stage.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where to.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="As the Hub names it, such as cc-by-4.0.")
    ] = None,
    dry_run: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the files there; send nothing.")] = None,
) -> None:
    """Publish the averaged generators, with a model card made from the checkpoints.

    Paths of this machine are left out. Nothing is asked: the token is HF_TOKEN, or that of `hf auth login`.
    """
    import re
    import tempfile

    from lvgan import checkpoint as ckpt
    from lvgan import hub
    from lvgan.errors import ConfigError
    from lvgan.model_card import collect, lay_out

    hub.parse(repo)
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise ConfigError(f"--licence {licence!r} was given, but an identifier such as apache-2.0 was expected")
    api = hub.api_to_write() if dry_run is None else None
    networks = collect(sources)
    for reminder in {ckpt.licence_of(network.part) for network in networks.values()} - {""}:
        typer.echo(f"licence: {reminder}", err=True)
    if dry_run is not None:
        names = lay_out(networks, dry_run, repo, licence)
        typer.echo(f"{dry_run}: {', '.join(names)}; nothing was sent")
        typer.echo(f"look at {dry_run / 'README.md'}, then run it without --dry-run")
        return
    assert api is not None
    with tempfile.TemporaryDirectory(prefix="lvgan-hub-") as scratch:
        names = lay_out(networks, Path(scratch) / "world", repo, licence)
        hub.upload(Path(scratch) / "world", repo, private, api)
    typer.echo(f"{repo}: sent {', '.join(names)}")
    typer.echo(f"next: lvgan hub pull {repo} -o world.pt")


@hub_app.command("pull")
def pull(
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="From where.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.pt", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Fetch a world as one checkpoint file. Only weights are fetched, in a format that cannot run code."""
    from lvgan import checkpoint as ckpt
    from lvgan import hub
    from lvgan.files import check_new

    check_new(output, overwrite)
    world = hub.load(repo)
    ckpt.save(output, world)
    typer.echo(f"{output}: {ckpt.stage_name(world['stage'])}, {output.stat().st_size / 1e6:.1f} MB")
    for reminder in {ckpt.licence_of(part) for part in ckpt.parts_of(world).values()} - {""}:
        typer.echo(f"licence: {reminder}")
    name = shlex.quote(str(output))
    following = f"lvgan upscale v.mp4 {name} -o big.mp4" if world["stage"] == "sr" else f"lvgan sample {name} -o v.mp4"
    typer.echo(f"next: {following}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(hub_app)
