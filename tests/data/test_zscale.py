"""Scaling by zimg, where ffmpeg has it: Pillow's picture, as by ffmpeg's own scaler, and which of them is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvgan.data import video as video_module
from lvgan.data.filters import fits_zscale
from lvgan.data.program import find_ffmpeg, has_filter
from lvgan.data.video import read_frames
from lvgan.errors import MachineError
from lvgan.sizes import Size
from tests.clips import decode, make_video
from tests.data.test_video import centre_lanczos, difference

SIZES = [Size(48, 48), Size(64, 64), Size(128, 128)]


@pytest.mark.parametrize("options", [(), ("-colorspace", "bt709"), ("-pix_fmt", "yuv422p"), ("-pix_fmt", "yuv444p")])
def test_both_scalers_make_pillow_s_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    if not has_filter("zscale"):
        pytest.skip("this ffmpeg was built without zimg")
    base = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "8", "-pix_fmt", "yuv420p")
    path = make_video(tmp_path / "v.mkv", size="640x360", frames=4, source="mandelbrot", options=(*base, *options))
    whole = decode(path, 360, 640)
    found = {}
    for used in (True, False):
        monkeypatch.setattr(video_module, "has_filter", lambda name, used=used: used and name == "zscale")
        with read_frames(path, SIZES, fps=None) as frames:
            found[used] = [np.stack(pictures) for pictures in zip(*frames, strict=True)]
        for size, pictures in zip(SIZES, found[used], strict=True):
            assert difference(pictures, centre_lanczos(whole, size)) < 0.8, (used, size)
    for ours, theirs in zip(found[True], found[False], strict=True):
        assert difference(ours, theirs) < 0.4
        assert not np.array_equal(ours, theirs)  # two scalers, that is


def test_which_pictures() -> None:
    assert all(fits_zscale(name) for name in ("yuv420p", "yuv422p", "yuv444p"))
    assert not any(fits_zscale(name) for name in ("yuvj420p", "yuv420p10le", "nv12", "gbrp", "gray", "yuv411p"))


def test_filters_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_filter("scale")
    assert has_filter("split")
    assert not has_filter("no_such_filter")
    assert find_ffmpeg()
    monkeypatch.setenv("LVGAN_FFMPEG", str(tmp_path / "none"))
    with pytest.raises(MachineError, match="LVGAN_FFMPEG"):
        has_filter("scale")
