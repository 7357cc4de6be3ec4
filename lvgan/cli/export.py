"""``lvgan export``: a trained network for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint, run or bundle.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.", show_default=False)],
    kind: Annotated[
        str, typer.Option("--format", help="safetensors (weights), torchscript or onnx.", show_default=False)
    ],
    part: Annotated[str | None, typer.Option(help="Of a bundle: lr or sr.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(help="Clips at once.", show_default="1")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip.", show_default="lr: 128, sr: 1")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", "--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a generator as safetensors, TorchScript or ONNX.

    TorchScript and ONNX files have fixed shapes and need no lvgan. Each file is run and compared with the network
    before it is put in its place. Only the averaged generators can be exported.
    """
    from lvgan import checkpoint as ckpt
    from lvgan.export import formats, networks
    from lvgan.files import check_new

    path = ckpt.find(checkpoint, part or "lr")
    check_new(output, overwrite, path)
    chosen = choose(ckpt.load(path), path, part)
    typer.echo(f"exporting {path}; then the file is run and compared", err=True)
    made = formats.export(chosen, str(path), output, kind, batch=batch, frames=frames, overwrite=overwrite)
    typer.echo(f"{output}: {networks.network_name(chosen['stage'])} as {kind}, {output.stat().st_size / 1e6:.1f} MB")
    if kind == "safetensors":
        typer.echo("checked: read back, every tensor has the same bits")
        typer.echo(f'next: lvgan inspect {output}; in Python, lvgan.load("{output}")')
    else:
        allowed = formats.TOLERANCE * made.largest
        how = "by ONNX Runtime" if kind == "onnx" else "in a process without lvgan"
        typer.echo(f"checked: run {how}, largest difference {made.difference:.1e} (allowed {allowed:.1e})")
        for line in networks.contract(made.record):
            typer.echo(f"  {line}")
        typer.echo("the same is in the file's metadata; lvgan inspect shows it")
    if ckpt.licence_of(chosen):
        typer.echo(f"licence: {ckpt.licence_of(chosen)}")


def choose(loaded: dict[str, Any], path: Path, part: str | None) -> dict[str, Any]:
    """The part of a checkpoint that is meant.

    Raises:
        ConfigError: a bundle without --part, or a part that there is not.
    """
    from lvgan import checkpoint as ckpt
    from lvgan.errors import ConfigError

    if part is not None and part not in ("lr", "sr"):
        raise ConfigError(
            f"--part {part} was given, but lr or sr was expected: only the two generators can be exported, "
            "not discriminators or training state"
        )
    parts = ckpt.parts_of(loaded)
    if part is None and len(parts) > 1:
        raise ConfigError(
            f"{path} is a bundle of two networks and a file holds one; choose with --part lr or --part sr"
        )
    if part is not None and part not in parts:
        raise ConfigError(f"{path} is {ckpt.stage_name(loaded['stage'])}, which has no part {part}; leave --part out")
    return parts[part or next(iter(parts))]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
