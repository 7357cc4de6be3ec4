"""``lvgan quickstart``: the whole pipeline in a few minutes, with footage of its own."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

FRAMES = 600
CLIPS = 40
LOW, HIGH = "32x32", "128x128"


def quickstart(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Another seed: other footage, another training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """A first look: footage, training, video, evaluation.

    Renders footage, prepares it, trains both networks (the tiny preset), samples, upscales and measures, in
    minutes on two cores. Run again, it goes on where it stopped.
    """
    from lvgan.cli.train import exit_when_stopped
    from lvgan.data.footage import write_footage
    from lvgan.device import pick_device
    from lvgan.errors import DataError
    from lvgan.ops import native
    from lvgan.training.session import Request, train_stage

    target = pick_device(device)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, but a folder was expected; name another")
    native.activate(target, typer.echo)
    raw, shards, runs = folder / "raw", folder / "shards", folder / "runs"
    times: list[tuple[str, float]] = []

    def stage(title: str, work: Callable[[], object]) -> None:
        typer.echo(f"== {title}")
        started = time.perf_counter()
        work()
        times.append((title.partition(":")[0], time.perf_counter() - started))

    def train(which: str) -> Callable[[], object]:
        request = Request(which, shards, preset="tiny", flags={"training": {"seed": seed}})

        def work() -> None:
            with exit_when_stopped():
                train_stage(request, run_name=f"{which}-0001", root=runs, device=device, say=typer.echo)

        return work

    stage("footage: 12 videos of 10 s", lambda: write_footage(raw, videos=12, seconds=10.0, seed=seed))
    stage("prepare: one decode, two resolutions", lambda: _prepare(raw, shards))
    stage("train-lr: what happens, over how long", train("lr"))
    stage("train-sr: what it looks like, close up", train("sr"))
    lr, sr = _newest(runs / "lr-0001"), _newest(runs / "sr-0001")
    stage(
        f"sample: {FRAMES} frames, low and high resolution",
        lambda: _sample(lr, sr, folder / "long.mp4", seed, device),
    )
    stage("eval: colour similarity over time", lambda: _evaluate(lr, shards, folder / "eval", device))
    typer.echo("== done in " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in times))
    typer.echo(f"look at {folder / 'long.mp4'} and {folder / 'eval' / 'color-sim.png'}; a longer training looks better")
    command = f"lvgan sample {shlex.quote(str(lr))} --sr {shlex.quote(str(sr))} --seed 1 -n 1800 -o another.mp4"
    typer.echo(f"next: {command}")


def _prepare(raw: Path, shards: Path) -> None:
    from lvgan.cli.prepare import Bars
    from lvgan.data.prepare import prepare
    from lvgan.sizes import Size

    with Bars() as bars:
        prepare(raw, shards, lr=Size.parse(LOW), hr=Size.parse(HIGH), progress=bars.show)


def _newest(run: Path) -> Path:
    from lvgan import checkpoint as ckpt

    return ckpt.find(run)


def _up_to_date(output: Path, *inputs: Path) -> bool:
    return output.exists() and all(output.stat().st_mtime >= path.stat().st_mtime for path in inputs)


def _sample(lr: Path, sr: Path, output: Path, seed: int, device: str) -> None:
    from tqdm import tqdm

    from lvgan.device import pick_device
    from lvgan.generate.generators import load_generators
    from lvgan.generate.output import write_video
    from lvgan.generate.timeline import LrVideo, SrVideo

    if _up_to_date(output, lr, sr):
        typer.echo(f"{output} is there already")
        return
    generators = load_generators(lr, sr, pick_device(device))
    assert generators.sr is not None
    low = LrVideo(generators.lr, seed)
    high = SrVideo(low, generators.sr, seed)

    def pairs() -> Iterator[torch.Tensor]:
        import torch
        from torch.nn.functional import interpolate

        for index in tqdm(range(FRAMES), unit="frame", dynamic_ncols=True):
            large = high.clip(index, 1)[:, 0]
            small = interpolate(low.clip(index, 1).transpose(0, 1), size=large.shape[1:])[0]
            yield torch.cat([small, large], 2)

    write_video(pairs(), output)


def _evaluate(lr: Path, shards: Path, folder: Path, device: str) -> None:
    from lvgan.cli.evaluate import measure
    from lvgan.device import pick_device
    from lvgan.evaluation.models import open_model
    from lvgan.evaluation.sources import ShardSource

    if _up_to_date(folder / "color-sim.png", lr):
        typer.echo(f"{folder / 'color-sim.png'} is there already")
        return
    model = open_model(str(lr), pick_device(device), f"lr, {lr.stem}")
    real = ShardSource(shards, "footage", model.size)
    measure([real, model], folder, clips=CLIPS, frames=128)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(quickstart)
