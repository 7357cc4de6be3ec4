"""``lvgan ops``: the compiled operators."""

from __future__ import annotations

import time
from typing import Annotated

import typer

ops_app = typer.Typer(name="ops", help="The compiled operators (see also `doctor`).", no_args_is_help=True)

LIMIT = 1800.0  # seconds for a compiler that somebody waits for


@ops_app.callback()
def _group() -> None:
    pass


@ops_app.command("build")
def build(
    cpu: Annotated[bool, typer.Option("--cpu", help="The library of the CPU (the default).")] = False,
    cuda: Annotated[
        bool, typer.Option("--cuda", help="The library of CUDA; needs nvcc, no GPU. The default too, where a GPU is.")
    ] = False,
    arch: Annotated[
        list[int] | None,
        typer.Option(help="CUDA chip, such as 90; may be repeated.", show_default="80, 90, and later ones through PTX"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there.")] = False,
) -> None:
    """Compile the operators into the cache, in place of the first command that would gain from them."""
    import torch

    from lvgan.errors import ConfigError, MachineError
    from lvgan.ops import building, native

    for chip in arch or []:
        if not 50 <= chip <= 999:
            raise ConfigError(f"--arch {chip} was given, but a CUDA chip such as 80 or 90 was expected")
    kinds = [kind for kind, wanted in (("cpu", cpu), ("cuda", cuda)) if wanted]
    if not kinds:
        kinds = ["cpu", "cuda"] if torch.cuda.is_available() or arch else ["cpu"]
    for kind in kinds:
        reason = native.unavailable(kind, to_run=False)
        if reason:
            raise MachineError(f"the {kind} library cannot be built: {reason}")
        runs = kind == "cpu" or torch.cuda.is_available()
        recipe = building.recipe(kind, archs=arch or ())
        started = time.monotonic()
        try:
            path = building.build(
                recipe, native.check_apart(kind) if runs else None, limit=LIMIT, retry=True, force=force
            )
        except building.BuildError as error:
            raise MachineError(f"the {kind} library cannot be built: {error}") from error
        how = "loaded and checked" if runs else "compiled, not run: there is no CUDA device here"
        typer.echo(f"{kind}: {path} ({path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.1f} s; {how})")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(ops_app)
