"""The measurements of ``lvgan bench data``: preparing and loading, beside a straightforward way of doing the same."""

from __future__ import annotations

import io
import statistics
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lvgan.sizes import Size

Row = dict[str, Any]
Say = Callable[[str], None]

HD, LOW, HIGH = Size(720, 1280), Size(64, 64), Size(256, 256)
FPS = 30


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    videos: int = 8
    seconds: float = 20
    size: Size = HD
    lr: Size = LOW
    hr: Size = HIGH
    window: int = 128
    windows: int = 64  # read in one go by us; the straightforward way reads `plain`
    items: int = 32
    plain: int = 8
    repeats: int = 3


QUICK = Scale(2, 2, Size(120, 160), Size(16, 16), Size(32, 32), window=16, windows=4, items=4, plain=2, repeats=1)


def run(scale: Scale, footage: Path, work: Path, workers: int, show: Callable[[Row], None], say: Say) -> list[Row]:
    """All rows; `show` is told of each one once it is measured."""
    from lvgan.data.dataset import ClipDataset

    make_footage(footage, scale, say)
    rows = [prepare_row(footage, work, scale, workers)]
    show(rows[0])
    data = ClipDataset(work / "ours", scale.lr, scale.hr)
    started = time.perf_counter()
    data.open_cache(say=say)
    seconds = time.perf_counter() - started
    total = sum(clip.frames for clip in data.clips)
    say(f"decoding {total} frames of {scale.lr} once: {total / seconds:.0f} frames/s")
    for make in (lr_row, sr_row):
        rows.append(make(data, scale))
        show(rows[-1])
    return rows


# --- footage --------------------------------------------------------------------------------------


def make_footage(folder: Path, scale: Scale, say: Say) -> None:
    """Videos of a ride along a rendered landscape, seen by a camera with a little noise.

    H.264 of about 2 Mbit/s, as video sites serve this size. What is there is kept. To render every frame would
    take an hour: the camera pans over wide pictures.
    """
    from lvgan.data.encoding import open_writer
    from lvgan.data.world import World

    for video in range(scale.videos):
        path = folder / f"ride_{video}.mp4"
        if path.exists():
            continue
        say(f"rendering {path.name} ({video + 1} of {scale.videos})")
        height, width = scale.size
        frames = round(scale.seconds * FPS)
        near = World(0, video).frame(0, height + 32, 2 * width)
        rng = np.random.default_rng(video)
        noise = rng.integers(-2, 3, (8, height, width, 1), np.int16)
        with open_writer(path, FPS, scale.size) as writer:
            for t in range(frames):
                left = round(width * t / frames)
                top = round(16 + 15 * np.sin(t / 9))
                view = near[top : top + height, left : left + width].astype(np.int16)
                writer.write(np.clip(view + noise[rng.integers(8)], 0, 255).astype(np.uint8))


# --- prepare --------------------------------------------------------------------------------------


def prepare_row(footage: Path, work: Path, scale: Scale, workers: int) -> Row:
    """``lvgan prepare`` to both resolutions, against one decoder a resolution and Pillow for every frame."""
    import shutil

    from lvgan.data.prepare import prepare

    frames = 0

    def ours() -> None:
        nonlocal frames
        shutil.rmtree(work / "ours", ignore_errors=True)
        manifest = prepare(footage, work / "ours", lr=scale.lr, hr=scale.hr, fps=FPS, workers=workers)
        frames = int(manifest.totals["frames"])

    jobs = [
        (path, work / "plain" / f"{size}-{path.stem}.zip", size)
        for path in sorted(footage.glob("*.mp4"))
        for size in (scale.lr, scale.hr)
    ]
    counts: list[int] = []
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.2] * workers))  # started, and Python in it
        list(pool.map(_import_all, range(2 * workers)))

        def plain() -> None:
            counts[:] = pool.map(plain_prepare, *zip(*jobs, strict=True))

        times = _alternate(ours, plain, scale.repeats)
    return _row("prepare", frames, times[0], sum(counts) // 2, times[1], workers=workers)


def _import_all(_: int) -> None:
    import lvgan.data.prepare  # noqa: F401


def plain_prepare(video: Path, out: Path, size: Size) -> int:
    """What a script of twenty lines does: decode at full size, then crop, scale and encode each frame with Pillow.

    The decoder is imageio-ffmpeg's, which leaves everything to ffmpeg's own choices; one thread, as `prepare` gives it.
    """
    import imageio_ffmpeg

    count = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    frames = imageio_ffmpeg.read_frames(str(video), input_params=["-threads", "1"])
    width, height = next(frames)["size"]
    scale = min(height / size.height, width / size.width)
    h, w = round(size.height * scale), round(size.width * scale)
    left, top = (width - w) // 2, (height - h) // 2
    with zipfile.ZipFile(out, "w") as archive:
        for frame in frames:
            picture = Image.frombytes("RGB", (width, height), frame).crop((left, top, left + w, top + h))
            small = picture.resize((size.width, size.height), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=100, subsampling=0)
            archive.writestr(f"{video.stem}/frame_{count:06d}.jpg", buffer.getvalue())
            count += 1
    return count


# --- loading --------------------------------------------------------------------------------------


def lr_row(data: Any, scale: Scale) -> Row:
    """Low-resolution windows, against decoding their frames with Pillow from the zip; one process, one thread."""
    from lvgan.data.windows import Windows

    windows = Windows(data, scale.window, flip=True)
    rng = np.random.default_rng(0)
    with _archives(data.root / scale.lr.folder()) as low:

        def ours() -> None:
            for _ in range(scale.windows):
                windows[windows.draw(rng)]

        def plain() -> None:
            for _ in range(scale.plain):
                clip, start, mirrored = windows.place(windows.draw(rng))
                _plain_clip(low, clip, range(start, start + scale.window), mirrored)

        with _one_thread():
            seconds, plain_seconds = _alternate(ours, plain, scale.repeats)
    return _row("lr windows", scale.windows * scale.window, seconds, scale.plain * scale.window, plain_seconds)


def sr_row(data: Any, scale: Scale) -> Row:
    """4 + 8 low and 4 high frames, against decoding all 12 at both resolutions with Pillow and dropping 8 high ones."""
    from lvgan.data.windows import Windows

    windows = Windows(data, 4, 4, flip=True)
    rng = np.random.default_rng(0)
    folder, high_folder = data.root / scale.lr.folder(), data.root / scale.hr.folder()
    with _archives(folder) as low, _archives(high_folder) as high:

        def ours() -> None:
            for _ in range(scale.items):
                windows[windows.draw(rng)]

        def plain() -> None:
            for _ in range(scale.plain):
                clip, start, mirrored = windows.place(windows.draw(rng))
                _plain_clip(low, clip, range(start, start + 12), mirrored)
                _plain_clip(high, clip, range(start, start + 12), mirrored)[4:8]

        with _one_thread():
            seconds, plain_seconds = _alternate(ours, plain, scale.repeats)
    return _row("sr items", 12 * scale.items, seconds, 12 * scale.plain, plain_seconds)


@contextmanager
def _archives(folder: Path) -> Iterator[dict[str, zipfile.ZipFile]]:
    """The open archive of each clip."""
    archives = [zipfile.ZipFile(path) for path in sorted(folder.glob("*.zip"))]
    yield {name.rpartition("/")[0]: archive for archive in archives for name in archive.namelist()}
    for archive in archives:
        archive.close()


def _plain_clip(
    archives: dict[str, zipfile.ZipFile], clip: str, numbers: Iterable[int], mirrored: bool
) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] as a few lines with zipfile and Pillow read them."""
    frames = []
    for number in numbers:
        with Image.open(io.BytesIO(archives[clip].read(f"{clip}/frame_{number:06d}.jpg"))) as image:
            frames.append(np.asarray(image.convert("RGB")))
    found = np.stack(frames)
    return np.ascontiguousarray(found[:, :, ::-1]) if mirrored else found


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _alternate(ours: Callable[[], None], plain: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds of both, taken in turns, so that other work on the machine meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, taken in zip((ours, plain), times, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _row(name: str, frames: int, seconds: float, plain_frames: int, plain_seconds: float, **more: Any) -> Row:
    ours, plain = frames / seconds, plain_frames / plain_seconds
    return {"name": name, "ratio": ours / plain, "frames_per_second": ours, "plain_frames_per_second": plain, **more}
