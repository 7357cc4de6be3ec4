"""``lvgan sample``, ``upscale`` and ``bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

Seed = Annotated[int, typer.Option(help="Another seed is another world.")]
Truncation = Annotated[float, typer.Option(help="Super-resolution latent: 1 as trained, less is more average.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Output = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="FILE.mp4, .mkv, .gif or .npy, a folder (PNG frames), or - (a stream to standard output).",
        show_default=False,
    ),
]
Stream = Annotated[str, typer.Option(help="What -o - writes: matroska, or raw (RGB bytes, frame after frame).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the frames of another video in the folder.")]


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Low-resolution checkpoint or run, a bundle, or a folder of runs.", show_default=False),
    ],
    output: Output,
    frames: Annotated[str, typer.Option("-n", "--frames", help="How many frames; inf goes on until stopped.")] = "600",
    sr: Annotated[
        Path | None,
        typer.Option(help="Super-resolution checkpoint or run: makes the result high resolution."),
    ] = None,
    seed: Seed = 0,
    start: Annotated[int, typer.Option(help="First frame; any whole number, also negative.")] = 0,
    stride: Annotated[int, typer.Option(help="Take every so many-th frame only.")] = 1,
    fps: Annotated[float | None, typer.Option(help="Frames per second.", show_default="as trained")] = None,
    truncation: Truncation = 1.0,
    stream: Stream = "matroska",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make new video: as long as you like, never repeating.

    A frame depends on the checkpoints, the seed and its number alone: --start 300 -n 300 gives the frames 300 to 599
    of -n 600. The same command again goes on with an unfinished folder of PNG frames.
    """
    from lvgan import checkpoint as ckpt
    from lvgan.data.encoding import check_output
    from lvgan.device import pick_device, return_freed_memory
    from lvgan.files import content_hash
    from lvgan.generate.generators import load_generators
    from lvgan.generate.timeline import check_range, iterate
    from lvgan.ops import native

    count = _count(frames)
    check_range(start, 1 if count is None else count, stride)
    if fps is not None:
        _check_fps(fps)
    _, kind = check_output(output)
    return_freed_memory()
    target = pick_device(device)
    lr_path, sr_path = ckpt.find_pair(checkpoint, sr)
    generators = load_generators(lr_path, sr_path, target)
    native.activate(target, _say)
    rate = fps or generators.fps
    video = generators.video(seed, truncation)
    record: dict[str, Any] = {"seed": seed, "start": start, "stride": stride, "truncation": truncation}
    if kind == "":
        hashes = {"checkpoint": lr_path, "super-resolution checkpoint": sr_path}
        record |= {key: path and content_hash(path) for key, path in hashes.items()}

    def make(done: int) -> Iterator[Tensor]:
        rest = None if count is None else count - done
        return iterate(video, start + done * stride, rest, stride)  # of a rest below 0, none

    made = _write(make, output, rate, count, record, overwrite, stream, endless=count is None)
    height, width = (generators.sr or generators.lr).size
    typer.echo(f"{output}: {made} frames of {height}x{width}, {made / rate:.1f} s", err=kind == "-")


def _write(
    make: Callable[[int], Iterator[Tensor]],
    output: Path,
    fps: float,
    count: int | None,
    record: dict[str, Any],
    overwrite: bool,
    stream: str,
    *,
    endless: bool = False,
) -> int:
    """Write the frames that `make` gives from a number on. Returns how many there are now."""
    from tqdm import tqdm

    from lvgan.cli import Interrupted
    from lvgan.data.encoding import open_writer
    from lvgan.errors import MachineError, MediaError
    from lvgan.generate.output import feed

    writer = open_writer(output, fps, record=record, overwrite=overwrite, stream=stream)
    done = writer.frames
    if done:
        _say(f"{output} holds {done} frames of this video already; going on from there")
    try:
        with writer:
            try:
                with tqdm(make(done), total=count, initial=done, unit="frame", dynamic_ncols=True) as progress:
                    feed(progress, writer)
            except Interrupted:
                if not endless or not writer.frames:
                    raise
                if writer.is_stream:
                    writer.suspend()
    except BrokenPipeError as error:
        if not endless:
            raise MediaError(f"the reader of the stream left after {writer.frames} frames of {count}") from error
        _say("the reader of the stream has left")
    except (Interrupted, MachineError) as error:
        if writer.kept is not None:
            kept = f"{writer.frames} frames are in {writer.kept}"
            if isinstance(error, MachineError):
                _say(kept)
            elif writer.kept == writer.path:
                error.advice = f"{kept}; {error.advice}"
            else:
                error.advice = f"{kept}; the same command again starts over"
        elif isinstance(error, Interrupted):
            error.advice = f"{writer.frames} frames were sent" if writer.is_stream else "nothing was kept"
        raise
    return writer.frames


def _say(message: str) -> None:
    # Standard output may be the video.
    typer.echo(message, err=True)


def _count(text: str) -> int | None:
    from lvgan.errors import ConfigError

    if text.lower() in ("inf", "infinity", "endless"):
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"-n {text} was given, but a number of frames or inf was expected") from None


def upscale(
    video: Annotated[Path, typer.Argument(help="A video of low resolution.", show_default=False)],
    checkpoint: Annotated[Path, typer.Argument(help="Super-resolution checkpoint, run or bundle.", show_default=False)],
    output: Output,
    seed: Seed = 0,
    fps: Annotated[float | None, typer.Option(help="Frames per second.", show_default="the video's")] = None,
    truncation: Truncation = 1.0,
    stream: Stream = "matroska",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Bring any video to high resolution."""
    import torch

    from lvgan import checkpoint as ckpt
    from lvgan.data.encoding import check_output
    from lvgan.data.scan import fingerprint
    from lvgan.data.video import probe, read_frames
    from lvgan.data.writers import partial_name
    from lvgan.device import pick_device, return_freed_memory
    from lvgan.errors import ConfigError
    from lvgan.files import content_hash
    from lvgan.generate.generators import load_sr, to_channels
    from lvgan.generate.generators import upscale as upscale_frames
    from lvgan.generate.output import ahead
    from lvgan.ops import native

    info = probe(video)
    rate = fps or info.fps or 30.0
    _check_fps(rate)
    place, kind = check_output(output)
    if video.resolve() == partial_name(place).resolve():
        raise ConfigError(f"{video} would be overwritten while it is read; rename it, or choose another --output")
    return_freed_memory()
    target = pick_device(device)
    path = ckpt.find(checkpoint, "sr")
    generator, size = load_sr(path, target)
    native.activate(target, _say)
    if (info.height, info.width) != size:
        _say(f"{video} is {info.height}x{info.width}; it is cropped and resized to the network's {size} first")
    record: dict[str, Any] = {"seed": seed, "fps": rate, "truncation": truncation}
    if kind == "":
        record |= {"video": fingerprint(video), "super-resolution checkpoint": content_hash(path)}
    with read_frames(video, [size], fps=rate) as source:
        frames = (to_channels(torch.from_numpy(frame).permute(2, 0, 1), generator.channels) for (frame,) in source)
        count = None if info.duration is None else round(info.duration * rate)
        made = _write(
            lambda done: upscale_frames(ahead(frames), generator, seed, truncation, done),
            output,
            rate,
            count,
            record,
            overwrite,
            stream,
        )
    height, width = generator.size
    typer.echo(f"{output}: {made} frames of {height}x{width}, {made / rate:.1f} s", err=kind == "-")


def _check_fps(fps: float) -> None:
    from lvgan.errors import ConfigError

    if not 0.1 <= fps <= 1000:
        raise ConfigError(f"--fps {fps:g} was given, but 0.1 to 1000 frames per second are possible; 30 is usual")


def bundle(
    lr: Annotated[Path, typer.Argument(help="Low-resolution checkpoint or run.", show_default=False)],
    sr: Annotated[Path, typer.Argument(help="Super-resolution checkpoint or run.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.pt", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Put both generators into one file."""
    from lvgan import checkpoint as ckpt
    from lvgan.files import check_new

    files = ckpt.find(lr), ckpt.find(sr, "sr")
    check_new(output, overwrite, *files)
    ckpt.save(output, ckpt.bundle(ckpt.load(files[0], "lr"), ckpt.load(files[1], "sr")))
    typer.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB; next: lvgan sample {output} -n 600 -o v.mp4")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(sample)
    app.command()(upscale)
    app.command()(bundle)
