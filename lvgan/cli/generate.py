"""``lvgan sample``, ``upscale``, ``bundle`` and ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Seed = Annotated[int, typer.Option(help="Another seed is another world.")]
Truncation = Annotated[float, typer.Option(help="Super-resolution latent: 1 as trained, less is more average.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="FILE.mp4, .gif or .npy, or a folder (PNG frames).", show_default=False),
]
_T = TypeVar("_T")


def _progress(items: Iterable[_T], total: int | None) -> Iterator[_T]:
    from tqdm import tqdm

    yield from tqdm(items, total=total, unit="frame", dynamic_ncols=True)


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Low-resolution checkpoint, run or bundle.", show_default=False)],
    output: Output,
    frames: Annotated[int, typer.Option("-n", "--frames", help="How many frames.")] = 600,
    sr: Annotated[
        Path | None,
        typer.Option(help="Super-resolution checkpoint or run: makes the result high resolution."),
    ] = None,
    seed: Seed = 0,
    start: Annotated[int, typer.Option(help="First frame; any whole number, also negative.")] = 0,
    fps: Annotated[float, typer.Option(help="Frames per second of the file.")] = 30.0,
    truncation: Truncation = 1.0,
    device: Device = "auto",
) -> None:
    """Make new video: as long as you like, never repeating."""
    from lvgan.data.encoding import check_output
    from lvgan.device import pick_device
    from lvgan.generate.generators import load_generators
    from lvgan.generate.output import write_video
    from lvgan.generate.timeline import check_range, iterate
    from lvgan.ops import native

    check_range(start, frames)
    _check_fps(fps)
    check_output(output)
    target = pick_device(device)
    generators = load_generators(checkpoint, sr, target)
    native.activate(target, typer.echo)
    video = generators.video(seed, truncation)
    write_video(_progress(iterate(video, start, frames), frames), output, fps)
    height, width = (generators.sr or generators.lr).size
    typer.echo(f"{output}: {frames} frames of {height}x{width}, {frames / fps:.1f} s")


def upscale(
    video: Annotated[Path, typer.Argument(help="A video of low resolution.", show_default=False)],
    checkpoint: Annotated[Path, typer.Argument(help="Super-resolution checkpoint, run or bundle.", show_default=False)],
    output: Output,
    seed: Seed = 0,
    fps: Annotated[float | None, typer.Option(help="Frames per second.", show_default="the video's")] = None,
    truncation: Truncation = 1.0,
    device: Device = "auto",
) -> None:
    """Bring any video to high resolution."""
    import torch

    from lvgan.data.encoding import check_output
    from lvgan.data.video import probe, read_frames
    from lvgan.device import pick_device
    from lvgan.generate.generators import load_sr, to_channels
    from lvgan.generate.generators import upscale as upscale_frames
    from lvgan.generate.output import write_video
    from lvgan.ops import native

    info = probe(video)
    rate = fps or info.fps or 30.0
    _check_fps(rate)
    check_output(output)
    target = pick_device(device)
    generator, size = load_sr(checkpoint, target)
    native.activate(target, typer.echo)
    if (info.height, info.width) != size:
        typer.echo(f"{video} is {info.height}x{info.width}; it is cropped and resized to the network's {size} first")
    with read_frames(video, [size], fps=rate) as source:
        frames = (to_channels(torch.from_numpy(frame).permute(2, 0, 1), generator.channels) for (frame,) in source)
        count = None if info.duration is None else round(info.duration * rate)
        made = write_video(_progress(upscale_frames(frames, generator, seed, truncation), count), output, rate)
    height, width = generator.size
    typer.echo(f"{output}: {made} frames of {height}x{width}, {made / rate:.1f} s")


def _check_fps(fps: float) -> None:
    from lvgan.errors import ConfigError

    if not 0.1 <= fps <= 1000:
        raise ConfigError(f"--fps {fps:g} was given, but 0.1 to 1000 frames per second are possible; 30 is usual")


def bundle(
    lr: Annotated[Path, typer.Argument(help="Low-resolution checkpoint or run.", show_default=False)],
    sr: Annotated[Path, typer.Argument(help="Super-resolution checkpoint or run.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.pt", show_default=False)],
) -> None:
    """Put both generators into one file."""
    from lvgan import checkpoint as ckpt

    parts = ckpt.load(ckpt.find(lr), "lr"), ckpt.load(ckpt.find(sr), "sr")
    ckpt.save(output, ckpt.bundle(*parts))
    typer.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB; next: lvgan sample {output} -n 600 -o v.mp4")


def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint, run or bundle.", show_default=False)],
) -> None:
    """Say what a checkpoint holds."""
    from lvgan import checkpoint as ckpt

    path = ckpt.find(checkpoint)
    loaded = ckpt.load(path)
    typer.echo(f"{path}: {ckpt.stage_name(loaded['stage'])}, {path.stat().st_size / 1e6:.1f} MB")
    for part in (loaded["lr"], loaded["sr"]) if loaded["stage"] == "bundle" else (loaded,):
        _describe(part)


def _describe(part: dict[str, Any]) -> None:
    import yaml

    data, training = part["config"]["data"], part["config"]["training"]
    generator = sum(tensor.numel() for tensor in part["generator_ema"].values())
    typer.echo(f"  stage          {part['stage']}")
    typer.echo(f"  step           {part['step']} of {training['steps']}")
    typer.echo(
        f"  frames         {data['lr']} -> {data['hr']}" if part["stage"] == "sr" else f"  frames         {data['lr']}"
    )
    typer.echo(f"  generator      {generator:,} values")
    if "discriminator" in part:
        typer.echo(f"  discriminator  {sum(tensor.numel() for tensor in part['discriminator'].values()):,} values")
    if part.get("ada"):
        typer.echo(f"  augmentation   p = {part['ada'].get('p', 0):.4f}")
    typer.echo(f"  data           {data['path']} ({part['data']['fingerprint'][:12]})")
    typer.echo("  written by     " + ", ".join(f"{k} {v}" for k, v in part["versions"].items()))
    typer.echo("  configuration")
    text = yaml.safe_dump(part["config"], sort_keys=False, default_flow_style=None, width=100)
    typer.echo("".join(f"    {line}\n" for line in text.splitlines()), nl=False)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(sample)
    app.command()(upscale)
    app.command()(bundle)
    app.command()(inspect)
