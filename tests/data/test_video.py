"""Decoding, against ffmpeg's own decoder and Pillow's Lanczos."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lvgan.data import filters, video
from lvgan.data.program import ffmpeg_version, find_ffmpeg
from lvgan.data.video import probe, read_frames
from lvgan.errors import MachineError, MediaError
from lvgan.sizes import Size
from tests.clips import decode, ffmpeg, make_video

FFV1 = ("-c:v", "ffv1")
Images = NDArray[np.uint8]


def centre_lanczos(frames: Images, size: Size) -> Images:
    """Crop the centre to the aspect ratio, scale with Pillow: written apart from the code under test."""
    height, width = frames.shape[1:3]
    if width * size.height > height * size.width:
        h, w = height, round(height * size.width / size.height)
        top, left = 0, (width * size.height - height * size.width) // (2 * size.height)
    else:
        h, w = round(width * size.height / size.width), width
        top, left = (height * size.width - width * size.height) // (2 * size.width), 0
    cut = [Image.fromarray(f[top : top + h, left : left + w]) for f in frames]
    return np.stack([np.asarray(i.resize((size.width, size.height), Image.Resampling.LANCZOS)) for i in cut])


def everything(path: Path, *sizes: Size, **options: object) -> list[Images]:
    with read_frames(path, list(sizes) or None, **options) as frames:  # type: ignore[arg-type]
        stacked = [np.stack(column) for column in zip(*frames, strict=True)]
        assert frames.damage is None
    return stacked


NEAR = 1.1  # of 255, mean: rounding. A shift of one pixel would give 10 and more.


def difference(a: Images, b: Images) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("fps", ["24000/1001", "25", "50", "60", "30"])
def test_rates_become_constant(tmp_path: Path, fps: str) -> None:
    path = make_video(tmp_path / "v.mp4", fps=fps, frames=60)
    expected = decode(path, 64, 96, "fps=30")
    low, high = everything(path, Size(18, 32), Size(36, 64))
    assert len(low) == len(high) == len(expected) == pytest.approx(60 / eval(fps) * 30, abs=1)
    assert difference(low, centre_lanczos(expected, Size(18, 32))) < NEAR
    assert difference(high, centre_lanczos(expected, Size(36, 64))) < NEAR


def test_variable_rate(tmp_path: Path) -> None:
    vary = "settb=1/1000,setpts='if(lt(N,10),N/10,1+(N-10)/40)/TB'"
    path = make_video(
        tmp_path / "v.mkv",
        frames=50,
        options=("-vf", vary, "-fps_mode", "passthrough", "-enc_time_base", "1/1000", *FFV1),
    )
    (found,) = everything(path, Size(64, 96))
    expected = decode(path, 64, 96, "fps=30")
    assert 58 <= len(found) <= 62
    assert difference(found, expected) < 0.5
    # Without a rate, every stored frame comes once.
    assert len(everything(path, fps=None)[0]) == 50


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotated_video_comes_upright(tmp_path: Path, turn: int) -> None:
    plain = make_video(tmp_path / "plain.mp4", frames=5)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", turn, "-i", plain, "-c", "copy", turned)
    info = probe(turned)
    assert (info.width, info.height) == ((96, 64) if turn == 180 else (64, 96))
    upright = np.rot90(everything(plain)[0], turn // 90, axes=(1, 2))
    assert difference(everything(turned)[0], upright) < 2  # chroma is interpolated along other axes


@pytest.mark.parametrize(
    ("size", "format", "target"),
    [
        ("163x121", "yuv420p", Size(36, 64)),
        ("163x121", "yuv444p", Size(64, 64)),
        ("77x121", "yuv420p", Size(36, 64)),
        ("128x72", "yuv420p10le", Size(36, 64)),
        ("98x66", "gbrp", Size(40, 24)),
        ("66x50", "yuv422p10le", Size(64, 64)),
        ("1280x720", "yuv420p", Size(16, 16)),
        ("64x36", "gray", Size(72, 128)),
    ],
)
def test_odd_sizes_and_formats(tmp_path: Path, size: str, format: str, target: Size) -> None:
    path = make_video(tmp_path / "v.mkv", size=size, frames=4, source="testsrc", options=("-pix_fmt", format, *FFV1))
    width, height = map(int, size.split("x"))
    (found,) = everything(path, target)
    assert difference(found, centre_lanczos(decode(path, height, width), target)) < NEAR
    (native,) = everything(path)
    assert difference(native, decode(path, height, width)) < 0.3


def test_pixels_become_square(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mkv", size="60x80", frames=3, options=("-vf", "setsar=2", "-pix_fmt", "gbrp", *FFV1)
    )
    info = probe(path)
    assert (info.width, info.height) == (120, 80)
    stored = decode(path, 80, 60)
    square = np.stack([np.asarray(Image.fromarray(f).resize((120, 80), Image.Resampling.LANCZOS)) for f in stored])
    for target in (Size(32, 32), Size(20, 60)):
        # The oracle resamples twice.
        assert difference(everything(path, target)[0], centre_lanczos(square, target)) < 3 * NEAR
    assert everything(path)[0].shape == (3, 80, 120, 3)


def test_stretching_instead_of_cropping(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mkv", frames=2, options=("-pix_fmt", "gbrp", *FFV1))
    (found,) = everything(path, Size(32, 32), crop=False)
    frames = decode(path, 64, 96)
    expected = np.stack([np.asarray(Image.fromarray(f).resize((32, 32), Image.Resampling.LANCZOS)) for f in frames])
    assert difference(found, expected) < 1


def test_real_clips(real_clips: Path) -> None:
    for name, count in (("bikes.mp4", 300), ("carphone_pristine.mp4", 120)):
        low, high = everything(real_clips / name, Size(64, 64), Size(144, 256))
        assert len(low) == len(high) == count
    expected = decode(real_clips / "bikes.mp4", 272, 640, "fps=30")[:40]
    low, high = everything(real_clips / "bikes.mp4", Size(64, 64), Size(144, 256), end=40 / 30)
    assert difference(low, centre_lanczos(expected, Size(64, 64))) < 0.5
    assert difference(high, centre_lanczos(expected, Size(144, 256))) < 0.5
    info = probe(real_clips / "carphone_pristine.mp4")
    assert (info.width, info.height, info.codec, info.pix_fmt) == (193, 144, "h264", "yuv420p")
    assert info.duration == pytest.approx(4)
    assert info.fps == pytest.approx(29.97)


def test_spans_are_slices_of_the_whole(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", size="32x32", fps=25, frames=400)  # 16 s, 480 frames
    (whole,) = everything(path, Size(32, 32))
    spans = [(0.5, 1.0), (1.0, 1.1), (12.0, 13.0), (15.9, None)]  # the gap is longer than a heartbeat
    found: dict[int, list[int]] = {}
    with read_frames(path, [Size(32, 32)], spans=spans) as frames:
        for (frame,) in frames:
            found.setdefault(frames.span, []).append(frames.number)
            assert np.array_equal(frame, whole[frames.number])
    ranges = [range(15, 30), range(30, 33), range(360, 390), range(477, 480)]
    assert found == {i: list(r) for i, r in enumerate(ranges)}
    (part,) = everything(path, Size(32, 32), start=1.0, end=2.0)
    assert np.array_equal(part, whole[30:60])
    assert list(read_frames(path, [Size(32, 32)], start=99)) == []
    with pytest.raises(ValueError, match="ascend"):
        read_frames(path, spans=[(1, 3), (2, 4)])


@pytest.mark.parametrize(
    "name", ["-lead.mp4", "a b.mp4", 'it\'s "q".mp4', "ünïcødé 滝.mp4", "100%d:x.mp4", "[x],y;z.mp4"]
)
def test_names_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_video(tmp_path / "v.mp4", frames=2).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(everything(Path(name), Size(8, 8))[0]) == 2


def _bad(folder: Path) -> dict[str, str]:
    make_video(folder / "v.mp4", frames=2)
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "half.mp4").write_bytes((folder / "v.mp4").read_bytes()[:400])
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", 1, folder / "sound.m4a")
    os.mkfifo(folder / "pipe.mp4")
    return {
        "text.mp4": "no known format",
        "empty.mp4": "empty",
        "half.mp4": "index is missing",
        "sound.m4a": "sound but no video",
        "pipe.mp4": "device or a pipe",
        "missing.mp4": "does not exist",
        ".": "is a folder",
    }


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    for name, words in _bad(tmp_path).items():
        with pytest.raises(MediaError, match=words) as caught:
            probe(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine", "-f", "lavfi", "-i", "testsrc2=size=32x32", "-t", 1, "-frames:v", 1,
           "-c:v", "png", "-disposition:v", "attached_pic", tmp_path / "song.mp3")  # fmt: skip
    with pytest.raises(MediaError, match="sound but no video"):
        probe(tmp_path / "song.mp3")


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.ts", frames=30)
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"
    for name, text in {
        "a.mp4": hls, "a.m3u8": hls, "a.ts": hls,
        "b.mp4": "ffconcat version 1.0\nfile secret.ts\n",
        "b.ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match="is not a video"):
            read_frames(tmp_path / name)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated_file_is_used_up_to_the_break(tmp_path: Path, suffix: str) -> None:
    whole = make_video(tmp_path / f"whole{suffix}", frames=300, options=(
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", 30, "-bf", 0,
        *(("-movflags", "+faststart") if suffix == ".mp4" else ()),
    ))  # fmt: skip
    part = tmp_path / f"part{suffix}"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (expected,) = everything(whole, Size(32, 32))
    with read_frames(part, [Size(32, 32)]) as frames:
        found = [frame for (frame,) in frames]
        assert frames.damage == "the file breaks off"
    assert 100 < len(found) < 200
    assert np.array_equal(np.stack(found), expected[: len(found)])


def _wrap(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a script in ffmpeg's place; ``exec_real`` in it becomes the real one."""
    path, log = folder / "fake-ffmpeg", folder / "calls.log"
    path.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\n' + script.replace("exec_real", f'exec "{find_ffmpeg()}" "$@"'))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LVGAN_FFMPEG", str(path))
    return log


def test_one_decode_for_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "v.mp4", frames=3)
    log = _wrap(tmp_path, monkeypatch, "exec_real\n")
    everything(path, Size(8, 8), Size(16, 16), Size(12, 20))
    calls = log.read_text().splitlines()
    assert len([c for c in calls if "rawvideo" in c]) == 1
    assert len(calls) == 2  # the other one looked at the header


def test_a_decoder_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "v.mp4", frames=3)
    _wrap(tmp_path, monkeypatch, 'case "$*" in *rawvideo*) exec sleep 60;; esac\nexec_real\n')
    with pytest.raises(MediaError, match="gave nothing for"):
        list(read_frames(path, [Size(8, 8)], stall=0.3))


def test_leaving_early_stops_the_decoder(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", size="640x480", frames=300)
    frames = read_frames(path, None)
    assert next(frames)[0].shape == (480, 640, 3)
    assert frames._process is not None
    pid = frames._process._popen.pid
    frames.close()
    with pytest.raises(ProcessLookupError):  # stopped, and not left as a zombie either
        os.kill(pid, 0)
    assert list(frames) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc, which is not there")
def test_nothing_stays_open(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=3)
    everything(path, Size(8, 8))
    before = len(os.listdir("/proc/self/fd"))
    everything(path, Size(8, 8))
    everything(path, Size(8, 8))
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_ffmpeg_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVGAN_FFMPEG", str(tmp_path / "none"))
    with pytest.raises(MachineError, match="LVGAN_FFMPEG names"):
        find_ffmpeg()
    monkeypatch.delenv("LVGAN_FFMPEG")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="pip install imageio-ffmpeg"):
        find_ffmpeg()
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ffmpeg version 9.9-test Copyright\n")
    program.chmod(0o755)
    assert find_ffmpeg() == str(program)
    assert ffmpeg_version() == "9.9-test"


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.mp4")
    make_video(tmp_path / "good.mp4", frames=5).rename(path)
    assert probe(path).fps == 30
    assert sum(1 for _ in read_frames(path, [Size(16, 24)])) == 5


def test_an_avi_with_b_frames_is_exact(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=60, options=("-c:v", "libx264", "-bf", "2", "-pix_fmt", "yuv420p"))
    ffmpeg("-i", video, "-c", "copy", tmp_path / "a.avi")
    expected = decode(tmp_path / "a.avi", 64, 96, "fps=30")
    with read_frames(tmp_path / "a.avi") as frames:
        ours = np.stack([frame for (frame,) in frames])
    assert ours.shape == expected.shape
    assert np.abs(ours.astype(int) - expected).mean() < 0.5


def test_sound_longer_than_the_picture_is_no_damage(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=30)
    sound = ("-f", "lavfi", "-i", "sine=duration=6")
    ffmpeg("-i", video, *sound, "-c:v", "copy", "-map", "0:v", "-map", "1:a", tmp_path / "b.mp4")
    with read_frames(tmp_path / "b.mp4") as frames:
        assert sum(1 for _ in frames) == 30
        assert frames.damage is None


def test_a_span_of_a_thousand_years(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=30)
    assert sum(1 for _ in read_frames(video, [Size(16, 24)], spans=[(0.0, 3e10)])) == 30
    numbers = [(3, 400), (1000, 1010), (1010, 2000)]
    assert filters.count(numbers) == sum(1 for _ in filters.emitted(numbers))


@pytest.mark.parametrize("codec", [("libx264", "-x264opts", "tff=1"), ("mpeg2video", "-q:v", 2)])
def test_fields_become_frames(tmp_path: Path, codec: tuple[object, ...]) -> None:
    fields = ("-vf", "interlace", "-flags", "+ilme+ildct", "-c:v", *codec, "-pix_fmt", "yuv420p")
    path = make_video(tmp_path / "v.mkv", size="128x96", fps=60, frames=60, options=fields)
    assert probe(path).interlaced
    expected = decode(path, 96, 128, "bwdif=mode=send_frame:deint=interlaced", "fps=30")
    (found,) = everything(path, Size(96, 128))
    assert difference(found, expected) < 0.5
    combed = decode(path, 96, 128, "fps=30")
    assert len(combed) == len(found)
    assert difference(found, combed) > 1
    assert not probe(make_video(tmp_path / "p.mp4", frames=3)).interlaced


@pytest.mark.parametrize("fps", ["24000/1001", "25", "30000/1001", "50", "60000/1001"])
def test_every_frame_is_the_right_one(tmp_path: Path, fps: str) -> None:
    # Frames of one grey each: their order alone is looked at, against ffmpeg's own filter.
    grey = ("-vf", "geq=lum='mod(N*5,220)+16':cb=128:cr=128", "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    path = make_video(tmp_path / "v.mkv", size="16x16", fps=fps, frames=120, options=grey)
    expected = decode(path, 16, 16, "fps=30").mean(axis=(1, 2, 3)).round()
    (found,) = everything(path, Size(8, 8))
    assert found.mean(axis=(1, 2, 3)).round().tolist() == expected.tolist()
    (part,) = everything(path, Size(8, 8), start=0.7, end=1.9)
    assert part.mean(axis=(1, 2, 3)).round().tolist() == expected[21:57].tolist()


def test_ten_bits_of_wide_colour(tmp_path: Path) -> None:
    colours = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")
    options = ("-c:v", "libx264", "-qp", "4", "-pix_fmt", "yuv420p10le", *colours)
    path = make_video(tmp_path / "v.mp4", size="320x240", frames=8, options=options)
    assert probe(path).pix_fmt == "yuv420p10le"
    (found,) = everything(path, Size(48, 64))
    assert difference(found, centre_lanczos(decode(path, 240, 320), Size(48, 64))) < NEAR


def test_a_still_picture_with_sound(tmp_path: Path) -> None:
    still = ("-t", 4, "-c:v", "libx264", "-tune", "stillimage", "-pix_fmt", "yuv420p", "-r", 2)
    Image.new("RGB", (96, 64), (200, 30, 60)).save(tmp_path / "p.png")
    ffmpeg("-loop", 1, "-i", tmp_path / "p.png", "-f", "lavfi", "-i", "sine=duration=4", *still, tmp_path / "v.mp4")
    expected = decode(tmp_path / "v.mp4", 64, 96, "fps=30")
    (found,) = everything(tmp_path / "v.mp4", Size(64, 96))
    assert found.shape == expected.shape
    assert 115 <= len(found) <= 135
    assert difference(found, expected) < 0.5


def test_scaling_as_stored_is_scaling_of_rgb(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mkv", size="640x360", frames=3, source="mandelbrot", options=("-pix_fmt", "yuv420p", *FFV1)
    )
    stored = decode(path, 360, 640)
    for target, direct in ((Size(64, 64), True), (Size(36, 64), True), (Size(256, 256), False)):
        info = probe(path)
        assert filters.scales_as_stored(info.pix_fmt, False, Size(360, 640), [target], None) == direct
        assert difference(everything(path, target)[0], centre_lanczos(stored, target)) < 0.6


def test_crops_between_samples_of_chroma_are_not_scaled_as_stored() -> None:
    even, odd = filters.Region(400, 300, 10, 20), filters.Region(400, 300, 11, 20)
    for region, expected in ((even, True), (odd, False)):
        assert filters.scales_as_stored("yuv420p", False, Size(720, 1280), [Size(75, 100)], region) == expected
    assert filters.scales_as_stored(
        "yuv422p", False, Size(720, 1280), [Size(75, 100)], filters.Region(400, 300, 10, 21)
    )
    assert not filters.scales_as_stored(
        "yuv422p", True, Size(720, 1280), [Size(75, 100)], filters.Region(400, 300, 10, 21)
    )
    assert filters.scales_as_stored("gbrp", False, Size(720, 1280), [Size(75, 100)], odd)
    assert not filters.scales_as_stored("vulkan", False, Size(720, 1280), [Size(75, 100)], even)


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.avi"
    make_video(big, size="16x16", frames=2, options=("-c:v", "rawvideo", "-pix_fmt", "bgr24"))
    raw = bytearray(big.read_bytes())
    head = raw.index(b"strf") + 8
    raw[head + 4 : head + 12] = (9000).to_bytes(4, "little") * 2
    big.write_bytes(raw)
    with pytest.raises(MediaError, match="9000 pixels wide and 9000 high, more than 64 million"):
        read_frames(big)


def test_time_stamps_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = "settb=1/1000,setpts='if(lt(N,4),N/30,100000)/TB'"
    options = ("-vf", far, "-fps_mode", "passthrough", "-enc_time_base", "1/1000", *FFV1)
    path = make_video(tmp_path / "v.mkv", size="16x16", frames=5, options=options)
    monkeypatch.setattr(video, "_most_frames", lambda path: 1000)
    with read_frames(path, [Size(8, 8)]) as frames:
        assert sum(1 for _ in frames) == 1000
        assert frames.damage == "its time stamps would make frames without end"


def test_samples_are_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = ("-vf", "geq=lum='N+16':cb=128:cr=128", "-c:v", "libx264", "-qp", 1, "-g", 10, "-pix_fmt", "yuv420p")
    path = make_video(tmp_path / "v.mp4", size="64x48", frames=200, options=grey)
    found = video.sample_frames(path, probe(path))
    assert 8 <= len(found) <= 12
    assert found[0].shape == (48, 64, 3)
    levels = [int(frame.mean()) for frame in found]
    assert levels == sorted(levels)
    assert levels[-1] - levels[0] > 170
    monkeypatch.setattr(video, "_SHORT", 1.0)  # as if it were long: found by seeking
    sought = video.sample_frames(path, probe(path))
    assert len(sought) == 12
    assert int(sought[-1].mean()) - int(sought[0].mean()) > 170


def test_lengths_that_are_not_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.mkv"
    written = ("-frames:v", 75, "-c:v", "libx264", "-f", "matroska", "-")  # to a pipe: the header stays as it was
    path.write_bytes(ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30", *written))
    assert probe(path).duration is None
    assert video.measure_duration(path) == pytest.approx(2.5, abs=0.1)
    (tmp_path / "v.mp4").write_bytes(b"no video" * 99)
    with pytest.raises(MediaError, match="could not be measured"):
        video.measure_duration(tmp_path / "v.mp4")
    _wrap(tmp_path, monkeypatch, "exec sleep 60\n")
    monkeypatch.setattr(video, "STALL_SECONDS", 0.3)
    with pytest.raises(MediaError, match="could not be measured"):
        video.measure_duration(path)
