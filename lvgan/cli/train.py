"""``lvgan train-lr`` and ``lvgan train-sr``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[Path, typer.Argument(help="Folder of shards, as `lvgan prepare` writes it.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run: runs/NAME.", show_default="counts up")]
New = Annotated[bool, typer.Option("--new", help="Start another run instead of going on with an unfinished one.")]
Preset = Annotated[str | None, typer.Option(help="paper, small or tiny.", show_default="paper")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings, over the preset's.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")]
Steps = Annotated[int | None, typer.Option(help="training.steps: train up to this step.")]
Batch = Annotated[int | None, typer.Option(help="training.batch: clips a step.")]
MicroBatch = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="training.micro_batch: clips in memory at once; auto: the most that fit."),
]
Precision = Annotated[str | None, typer.Option(help="training.precision: fp32, tf32, bf16 or fp16.")]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="training.compile: compile the networks.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Measure a few steps, say what the run takes, write nothing.")]
Seed = Annotated[int | None, typer.Option(help="training.seed.")]
Low = Annotated[str | None, typer.Option("--lr", metavar="HxW", help="data.lr.", show_default="what the data holds")]
High = Annotated[str | None, typer.Option("--hr", metavar="HxW", help="data.hr.", show_default="what the data holds")]
Sampling = Annotated[
    str | None,
    typer.Option(
        metavar="video|frame", help="data.sampling: every clip counts the same, or every frame.", show_default="video"
    ),
]
Keep = Annotated[int | None, typer.Option(help="training.keep: newest checkpoints that stay; 0: all.")]
Init = Annotated[
    Path | None,
    typer.Option(metavar="CKPT.pt|RUN", help="Start a new run from these weights (training.init).", show_default=False),
]
Wandb = Annotated[
    bool,
    typer.Option("--wandb", help="Send the log to Weights & Biases too; --set training.wandb=NAME names the project."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Gpus = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="GPUs of this machine to share each batch: a number, or auto for all. With --device cpu: processes. "
        "Several machines: run the command under torchrun.",
    ),
]


def _command(stage: str, about: str) -> Callable[..., None]:
    """The command that trains a stage; both take the same options."""

    def train(
        data: Data,
        run: RunName = None,
        new: New = False,
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Set = None,
        steps: Steps = None,
        batch: Batch = None,
        micro_batch: MicroBatch = None,
        precision: Precision = None,
        compile_: Compile = None,
        seed: Seed = None,
        keep: Keep = None,
        init: Init = None,
        lr: Low = None,
        hr: High = None,
        sampling: Sampling = None,
        wandb: Wandb = False,
        device: Device = "auto",
        gpus: Gpus = "1",
        dry_run: DryRun = False,
    ) -> None:
        flags = _flags(
            {"lr": lr, "hr": hr, "sampling": sampling},
            steps=steps,
            batch=batch,
            micro_batch=micro_batch,
            precision=precision,
            compile=compile_,
            seed=seed,
            keep=keep,
            init=_absolute(init),
        )
        _train(stage, data, run, new, preset, config, set_ or [], flags, device, wandb, gpus, dry_run)

    train.__doc__ = about
    return train


train_lr = _command(
    "lr",
    """Train the low-resolution network.

    It learns what happens, over how long, from whole clips of small frames.
    The same command goes on where it stopped.
    """,
)
train_sr = _command(
    "sr",
    """Train the super-resolution network.

    It learns what the world looks like close up, from a few frames at a time.
    The same command goes on where it stopped.
    """,
)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _flags(data: dict[str, str | None], **training: int | str | bool | None) -> dict[str, Any]:
    flags: dict[str, dict[str, Any]] = {"data": data, "training": dict(training)}
    return {part: {k: v for k, v in values.items() if v is not None} for part, values in flags.items()}


def _train(
    stage: str,
    data: Path,
    run_name: str | None,
    new: bool,
    preset: str | None,
    config: Path | None,
    overrides: list[str],
    flags: dict[str, Any],
    device: str,
    wandb: bool,
    gpus: str,
    dry_run: bool,
) -> None:
    from lvgan.training import launch

    launch.follow_launcher()
    count = launch.count_processes(gpus, device)
    if count > 1:
        raise typer.Exit(launch.launch([sys.executable, "-m", "lvgan", *sys.argv[1:]], count))

    from lvgan.training.session import Request, train_stage

    request = Request(stage, data, preset, config, overrides, flags, wandb)
    with exit_when_stopped():
        run = train_stage(request, run_name=run_name, new=new, device=device, say=typer.echo, dry_run=dry_run)
    if launch.is_first() and not dry_run:
        typer.echo(next_command(run.newest_checkpoint(), stage, data))


@contextmanager
def exit_when_stopped() -> Iterator[None]:
    """Leave with the signal's exit code once training has written its checkpoint."""
    from lvgan.training.distributed import RankFailed
    from lvgan.training.launch import is_first
    from lvgan.training.signals import Stopped

    try:
        yield
    except RankFailed as failed:
        raise typer.Exit(failed.failure.code) from None
    except Stopped as stopped:
        if is_first():
            typer.echo(f"lvgan: {stopped}; run the same command again to go on", err=True)
        raise typer.Exit(128 + stopped.signum) from None


def next_command(checkpoint: Path | None, stage: str, data: Path) -> str:
    """What to type after a stage is done."""
    import shlex

    from lvgan.training.runs import all_runs

    here = shlex.quote(str(checkpoint))
    curves = "" if checkpoint is None else f"\n      lvgan plot {shlex.quote(str(checkpoint.parents[1]))}"
    if stage == "lr":
        return (
            f"next: lvgan sample {here} -n 600 -o v.mp4   (low resolution)\n"
            f"      lvgan train-sr {shlex.quote(str(data))}{curves}"
        )
    trained = [run for run in all_runs(stage="lr") if run.newest_checkpoint() is not None]
    if not trained:
        return f"next: lvgan train-lr {shlex.quote(str(data))}{curves}"
    lr = shlex.quote(str(trained[0].newest_checkpoint()))
    return f"next: lvgan sample {lr} --sr {here} -n 600 -o v.mp4{curves}"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("train-lr")(train_lr)
    app.command("train-sr")(train_sr)
