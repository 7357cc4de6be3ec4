"""``lvgan ops``: the compiled operators."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
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
        list[str] | None,
        typer.Option(
            help="CUDA chips, such as 90, 9.0, sm_90 or 80,90; may be repeated.",
            show_default="80, 90, and later ones through PTX",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there.")] = False,
) -> None:
    """Compile the operators into the cache, in place of the first command that would gain from them."""
    from lvgan.errors import ConfigError, MachineError

    chips = parse_chips(arch or [])
    if chips and cpu and not cuda:
        raise ConfigError("--arch was given with --cpu, but it names CUDA chips; leave it out or add --cuda")

    import torch

    from lvgan.ops import building, native

    kinds = [kind for kind, wanted in (("cpu", cpu), ("cuda", cuda)) if wanted]
    if not kinds:
        kinds = ["cpu", "cuda"] if torch.cuda.is_available() or chips else ["cpu"]
    recipes = []
    for kind in kinds:  # before anything is compiled
        recipe = building.recipe(kind, archs=chips)
        reason = native.unavailable(kind, to_run=False) or recipe.missing
        if reason:
            raise MachineError(f"the {kind} library cannot be built: {reason}")
        recipes.append(recipe)
    for recipe in recipes:
        kind = recipe.kind
        runs = kind == "cpu" or torch.cuda.is_available()
        check = native.check_apart(kind) if runs else None
        started = time.monotonic()
        try:
            path = building.build(recipe, check, limit=LIMIT, retry=True, force=force)
        except building.BuildError as error:
            raise MachineError(f"the {kind} library cannot be built: {error}") from error
        how = "loaded and checked" if runs else "compiled, not run: there is no CUDA device here"
        typer.echo(f"{kind}: {path} ({path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.1f} s; {how})")


def parse_chips(arguments: Iterable[str]) -> tuple[int, ...]:
    """CUDA chips as people write them ("90", "9.0", "sm_90", "compute_90", "sm_90a", "80,90") as numbers such as 90.

    sm_90a is 90: the kernels use nothing that only the former has, and the code for 90 runs there.

    Raises:
        ConfigError: something else was written.
    """
    from lvgan.errors import ConfigError

    chips = []
    for argument in arguments:
        for word in argument.split(","):
            match = re.fullmatch(r"(?:(?:sm|compute)_)?([1-9]\d?)(\d)[af]?|([1-9]\d?)\.(\d)", word.strip().lower())
            chip = int("".join(group or "" for group in match.groups())) if match else 0
            if chip < 50:
                raise ConfigError(
                    f"--arch {argument!r} was given, but a CUDA chip such as 80, 9.0 or sm_90 was expected"
                )
            chips.append(chip)
    return tuple(chips)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(ops_app)
