"""Scene cuts, crops, limits of length, still clips, the report and cuts.yaml, from footage to shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvgan.data.prepare import prepare
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size
from tests.clips import decode, ffmpeg, make_video
from tests.data.test_prepare import HIGH, LOW, frames_of, run, tree
from tests.data.test_video import NEAR, centre_lanczos, difference

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "4", "-pix_fmt", "yuv420p")


def three_scenes(path: Path) -> Path:
    """Frames 0 to 39, 40 to 99 and 100 to 149, with hard cuts between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs: list[object] = []
    for source, frames in (("mandelbrot=start_scale=2", 40), ("testsrc2", 60), ("cellauto=rule=110:scroll=1", 50)):
        joined = f"{source}{':' if '=' in source else '='}size=128x96"
        inputs += ["-f", "lavfi", "-t", f"{frames / 30:.4f}", "-i", f"{joined}:rate=30"]
    graph = "[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];[2:v]format=yuv420p[c];[a][b][c]concat=n=3"
    ffmpeg(*inputs, "-filter_complex", graph, *X264, path)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    three_scenes(folder / "film.mp4")
    return folder


def test_split_at_cuts_and_back(scenes: Path, tmp_path: Path) -> None:
    manifest = run(scenes, tmp_path / "out", report=tmp_path / "clips.html")
    (source,) = manifest.sources
    assert [(start, end, kind) for start, end, kind in source.cuts] == [(40, 40, "cut"), (100, 100, "cut")]
    clips = [(c.name, c.start, c.frames, c.begins, c.ends) for c in source.clips]
    assert clips == [
        ("film", 0, 38, "", "cut"), ("film~001", 42, 56, "cut", "cut"), ("film~002", 102, 48, "cut", ""),
    ]  # fmt: skip
    run(scenes, tmp_path / "whole", scene_cut="off")
    whole = frames_of(tmp_path / "whole", HIGH, "film")
    assert len(whole) == 150
    assert np.array_equal(frames_of(tmp_path / "out", HIGH, "film~001"), whole[42:98])
    page = (tmp_path / "clips.html").read_text()
    assert page.count("data:image/jpeg") >= 6
    assert "film~002" in page
    # cuts.yaml given back makes the same clips; edited, other ones.
    cuts = tmp_path / "out" / "cuts.yaml"
    again = run(scenes, tmp_path / "again", cuts=cuts)
    assert [(c.start, c.frames) for c in again.clips()] == [(0, 38), (42, 56), (102, 48)]
    assert np.array_equal(frames_of(tmp_path / "again", HIGH, "film~002"), whole[102:150])
    cuts.write_text("film.mp4: ['0.5 1', '1 4.9']\n")
    with pytest.raises(DataError, match=r"cuts\.yaml was edited; give --cuts"):
        run(scenes, tmp_path / "out")
    run(scenes, tmp_path / "out", cuts=cuts)
    assert cuts.read_text() == "film.mp4: ['0.5 1', '1 4.9']\n"  # a person's work is not written over
    assert np.array_equal(frames_of(tmp_path / "out", HIGH, "film~001"), whole[30:147])


def test_margins_and_thresholds(scenes: Path, tmp_path: Path) -> None:
    manifest = run(scenes, tmp_path / "0", cut_margin=0)
    assert [(c.start, c.frames) for c in manifest.clips()] == [(0, 40), (40, 60), (100, 50)]
    manifest = run(scenes, tmp_path / "5", cut_margin=5, max_frames=30)
    assert [(c.start, c.frames, c.ends) for c in manifest.clips()] == [
        (0, 30, "max frames"), (45, 30, "max frames"), (75, 20, "cut"), (105, 30, "max frames"), (135, 15, ""),
    ]  # fmt: skip
    assert [(d.start, d.end, d.reason) for d in manifest.sources[0].dropped] == [(30, 35, "shorter than 12 frames")]
    manifest = run(scenes, tmp_path / "high", scene_cut=1e6)
    assert [c.frames for c in manifest.clips()] == [150]
    # A list by hand is cut further only on demand.
    (tmp_path / "cuts.json").write_text('{"film": ["0:01 0:05"]}')
    manifest = run(scenes, tmp_path / "hand", cuts=tmp_path / "cuts.json")
    assert [(c.name, c.start, c.frames) for c in manifest.clips()] == [("film~000", 30, 120)]
    threshold = 1.0
    manifest = run(scenes, tmp_path / "both", cuts=tmp_path / "cuts.json", scene_cut=threshold, min_frames=5)
    assert [(c.start, c.frames) for c in manifest.clips()] == [(30, 8), (42, 56), (102, 48)]


def test_short_clips_are_counted(scenes: Path, tmp_path: Path) -> None:
    manifest = run(scenes, tmp_path / "out", min_frames=45)
    assert [(c.name, c.frames) for c in manifest.clips()] == [("film~001", 56), ("film~002", 48)]
    assert (manifest.totals["clips"], manifest.totals["dropped_short"]) == (2, 1)
    assert "1 of its clips are left out, with fewer than 45 frames" in manifest.sources[0].notes
    with pytest.raises(DataError, match="gives 56 frames, fewer than 100"):
        run(scenes, tmp_path / "none", min_frames=100)
    assert not (tmp_path / "none").exists()


def test_black_bars(tmp_path: Path) -> None:
    bars = ("-vf", "pad=128:128:0:24:black", *X264)
    make_video(tmp_path / "raw" / "bars.mp4", size="128x80", frames=40, options=bars)
    plain = make_video(tmp_path / "plain.mp4", size="128x80", frames=40, options=X264)
    manifest = run(tmp_path / "raw", tmp_path / "out")
    assert manifest.sources[0].notes == ("its black bars are cut off: 128x80 at 0, 24 is used",)
    expected = centre_lanczos(decode(plain, 80, 128), HIGH)
    assert difference(frames_of(tmp_path / "out", HIGH, "bars"), expected) < NEAR + 3  # coded twice, and JPEG
    run(tmp_path / "raw", tmp_path / "center", crop="center")
    assert frames_of(tmp_path / "center", HIGH, "bars")[:, :5].max() < 20  # the bars
    run(tmp_path / "raw", tmp_path / "part", crop="10:40:60:60")
    stored = decode(tmp_path / "raw" / "bars.mp4", 128, 128)[:, 40:100, 10:70]
    assert difference(frames_of(tmp_path / "part", HIGH, "bars"), centre_lanczos(stored, HIGH)) < NEAR + 0.5


def test_crop_of_turned_and_of_stretched_pictures(tmp_path: Path) -> None:
    flat = make_video(tmp_path / "flat.mp4", size="160x120", frames=15, options=X264)
    (tmp_path / "raw").mkdir()
    ffmpeg("-display_rotation", 90, "-i", flat, "-c", "copy", tmp_path / "raw" / "turned.mp4")
    run(tmp_path / "raw", tmp_path / "out", crop="8:20:100:120")
    upright = np.rot90(decode(flat, 120, 160), 1, axes=(1, 2))[:, 20:140, 8:108]
    assert difference(frames_of(tmp_path / "out", HIGH, "turned"), centre_lanczos(upright, HIGH)) < 3
    wide = make_video(tmp_path / "wide" / "w.mp4", size="80x120", frames=15, options=("-vf", "setsar=2", *X264))
    run(tmp_path / "wide", tmp_path / "out2", crop="40:20:80:80")
    found = frames_of(tmp_path / "out2", HIGH, "w")
    stored = decode(wide, 120, 80)[:, 20:100, 20:60].repeat(2, axis=2)
    assert difference(found, centre_lanczos(stored, HIGH)) < 4


def test_crops_that_do_not_fit(tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a.mp4", frames=20)
    make_video(tmp_path / "raw" / "b.mp4", size="200x200", frames=20)
    manifest = run(tmp_path / "raw", tmp_path / "out", crop="0:0:150:150")
    assert [s.skipped for s in manifest.skipped] == [
        "is 96 pixels wide and 64 high, and the crop 0:0:150:150 (X:Y:W:H) reaches beyond it, to 150 and 150"
    ]
    with pytest.raises(DataError, match="smaller than the low resolution"):
        run(tmp_path / "raw", tmp_path / "out2", crop="0:0:10:10")


def test_still_and_black_clips(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_video(raw / "moves.mp4", size="128x96", frames=60, options=X264)
    make_video(raw / "still.mp4", size="128x96", frames=1, options=X264)
    ffmpeg(
        "-y",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=128x96:rate=30",
        "-vf",
        "loop=60:1",
        "-frames:v",
        60,
        *X264,
        raw / "still.mp4",
    )
    ffmpeg("-f", "lavfi", "-i", "color=black:size=128x96:rate=30", "-frames:v", 60, *X264, raw / "black.mp4")
    manifest = run(raw, tmp_path / "marked", scene_cut="off")
    assert {c.name: (c.static, c.black) for c in manifest.clips()} == {
        "moves": (False, False), "still": (True, False), "black": (True, True),
    }  # fmt: skip
    again = run(raw, tmp_path / "split", scene_cut="auto")  # what shows nothing at all is no fade
    assert list(again.clips()) == list(manifest.clips())
    manifest = run(raw, tmp_path / "dropped", scene_cut="off", drop_static=True)
    assert [c.name for c in manifest.clips()] == ["moves"]
    assert {s.path: s.skipped for s in manifest.skipped} == {
        "still.mp4": "stands still or is black", "black.mp4": "stands still or is black",
    }  # fmt: skip
    assert manifest.totals["dropped_static"] == 2
    # What was written before it was dropped has left no trace in the shard.
    alone = tmp_path / "alone"
    alone.mkdir()
    (raw / "moves.mp4").rename(alone / "moves.mp4")
    run(alone, tmp_path / "clean", scene_cut="off", drop_static=True)
    for size in (LOW, HIGH):
        name = f"{size.folder()}/partition_0000.zip"
        assert tree(tmp_path / "clean")[name] == tree(tmp_path / "dropped")[name]


def test_impossible_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvgan.data.workers.PATIENCE", 0.3)
    make_video(tmp_path / "raw" / "a.mp4", frames=24)
    for options, words in (
        ({"scene_cut": "maybe"}, "'maybe' are not known; give auto, off or a threshold"),
        ({"scene_cut": 0.0}, "give auto, off or a threshold above 0"),
        ({"scene_cut": float("nan")}, "give auto, off or a threshold above 0"),
        ({"cut_margin": -1}, "a margin of -1 frames"),
        ({"crop": "middle"}, "'middle' is no crop"),
        ({"crop": "1:2:0:4"}, "'1:2:0:4' is no crop"),
        ({"max_frames": 11}, "12 to 11 frames"),
        ({"frames_fps": 0.0}, "pictures of 0 frames a second"),
        ({"shard": (0, 3)}, "part 0 of 3"),
        ({"shard": (1, 3), "overwrite": True}, "remove each other's work"),
        ({"report": tmp_path}, "is a folder; name an HTML file"),
        ({"report": tmp_path / "x.pdf"}, r"ends in \.html"),
        ({"dask": "tcp://127.0.0.1:1"}, "no Dask scheduler answers at|pip install"),
    ):
        with pytest.raises(ConfigError, match=words):
            prepare(tmp_path / "raw", tmp_path / "out", lr=Size(16, 16), hr=Size(32, 32), workers=1, **options)  # type: ignore[arg-type]
