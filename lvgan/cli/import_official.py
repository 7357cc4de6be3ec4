"""``lvgan import-official``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_official(
    file: Annotated[Path, typer.Argument(help="A published pickle, such as horseback_lres.pkl.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.pt", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Run the network once, and write a picture.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Turn published LongVideoGAN weights into a checkpoint.

    Nothing in the file is run: it is read as data, and a name that published files do not need is refused.
    """
    import shlex

    from lvgan import checkpoint as ckpt
    from lvgan.errors import ConfigError
    from lvgan.files import check_new
    from lvgan.official.importing import import_file
    from lvgan.official.verification import verify as run_once

    if output.is_dir() or output.suffix != ".pt" or output.resolve() == file.resolve():
        raise ConfigError(f"{output} was given as --output, but a file of its own that ends in .pt was expected")
    picture = output.with_name(f"{output.stem}-preview.png")
    for made in (output, picture)[: 1 + verify]:
        check_new(made, overwrite, file)
    checkpoint = import_file(file)
    if verify:
        typer.echo(f"ran it: {run_once(checkpoint, picture, str(file))}")
        typer.echo(f"preview: {picture}")
    ckpt.save(output, checkpoint)
    stage, provenance, data = checkpoint["stage"], checkpoint["provenance"], checkpoint["config"]["data"]
    sizes = f"{data['lr']} -> {data['hr']}" if stage == "sr" else data["lr"]
    networks = ", ".join(provenance["networks"])
    typer.echo(f"{output}: {ckpt.stage_name(stage)} of {sizes} with {networks}; {output.stat().st_size / 1e6:.1f} MB")
    typer.echo(f"from {file} (SHA-256 {provenance['sha256']})")
    typer.echo(f"licence: {checkpoint['licence']}")
    name = shlex.quote(str(output))
    use = f"sample {name} -n 600 -o video.mp4" if stage == "lr" else f"upscale video.mp4 {name} -o large.mp4"
    typer.echo(f"next: lvgan {use}")
    flags = "".join(f" --set {key}={value}" for key, value in _unlike_preset(checkpoint))
    typer.echo(f"or train on: lvgan train-{stage} DATA --init {name}{flags}")


def _unlike_preset(checkpoint: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings of the networks that are not those of the preset that training starts from."""
    import shlex

    from lvgan import config as cfg

    stage = checkpoint["stage"]
    preset = cfg.build(stage, cfg.load_preset("paper", stage))
    found = cfg.build(stage, checkpoint["config"])
    for key, (_, value) in cfg.differences(preset, found).items():
        if key.startswith("model.") or key in ("data.frames", "data.context", "data.channels"):
            yield key, shlex.quote(",".join(map(str, value)) if isinstance(value, list) else str(value))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-official")(import_official)
