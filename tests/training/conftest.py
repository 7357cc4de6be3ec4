"""A small set of shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvgan.data.prepare import prepare
from lvgan.sizes import Size
from tests.clips import make_video

LOW, HIGH = Size(8, 16), Size(16, 32)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 40 frames, at both resolutions."""
    folder = tmp_path_factory.mktemp("data")
    for k, source in enumerate(("testsrc2", "mandelbrot")):
        make_video(folder / "raw" / f"{k}.mp4", size="64x32", frames=40, source=source)
    prepare(folder / "raw", folder / "out", lr=LOW, hr=HIGH)
    return folder / "out"
