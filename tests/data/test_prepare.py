"""Footage to shards: what is kept, what is left out and why, and that the bytes never depend on how."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from lvgan.data import convert
from lvgan.data import prepare as module
from lvgan.data.dataset import ClipDataset
from lvgan.data.manifest import Manifest
from lvgan.data.prepare import prepare
from lvgan.data.scan import clip_names, fingerprint
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.sizes import Size
from tests.clips import decode, ffmpeg, make_video
from tests.data.test_video import NEAR, centre_lanczos
from tests.data.test_writers import small_disk  # noqa: F401  (a fixture)

LOW, HIGH = Size(16, 16), Size(32, 32)


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(raw: Path, out: Path, **options: object) -> Manifest:
    return prepare(raw, out, lr=LOW, hr=HIGH, **{"workers": 1} | options)  # type: ignore[arg-type]


def frames_of(out: Path, size: Size, clip: str) -> np.ndarray:
    """All frames of a clip, read by zipfile and Pillow alone."""
    for shard in sorted((out / size.folder()).iterdir()):
        with zipfile.ZipFile(shard) as archive:
            listed = json.loads(archive.read("frame_paths.json"))
            if clip in listed:
                content = [archive.read(f"{clip}/{name}") for name in listed[clip]]
                return np.stack([np.asarray(Image.open(io.BytesIO(c))) for c in content])
    raise AssertionError(f"no clip {clip}")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good videos in nested folders with awkward names, and everything that can be wrong."""
    raw = tmp_path_factory.mktemp("raw")
    make_video(raw / "plain.mp4", frames=140)
    make_video(raw / "-dash.mp4", fps=25, frames=25)
    make_video(raw / "sub dir" / 'it\'s "ü" 100%d.mp4', fps=60, frames=60)
    make_video(raw / "sub dir" / "plain.mkv", size="64x96", frames=20)
    make_video(raw / "Plain.mkv", size="24x24", frames=20)
    whole = make_video(raw / "whole.ts", frames=200, options=("-c:v", "mpeg4", "-f", "matroska"))
    (raw / "cut short.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    make_video(raw / "three frames.mp4", frames=3)
    make_video(raw / "dot.mkv", size="1x1", source="color", options=("-pix_fmt", "gbrp", "-c:v", "ffv1"))
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", 1, raw / "sound.wav")
    (raw / "text.mp4").write_text("no video\n")
    (raw / "empty.mp4").touch()
    (raw / "later.mp4.part").write_bytes(b"x")
    (raw / "notes.txt").touch()
    (raw / ".hidden.mp4").touch()
    (raw / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(raw / "pictures" / "1.png")
    os.symlink("nowhere", raw / "link.mp4")
    os.symlink(raw, raw / "sub dir" / "loop")
    return raw


@pytest.fixture(scope="module")
def prepared(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "new" / "set"
    run(footage, out)
    return out


def test_what_is_used_and_what_is_not(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    assert manifest is not None
    assert manifest.complete
    counts = {s.path: sum(c.frames for c in s.clips) for s in manifest.sources if s.skipped is None}
    cut_short = counts.pop("cut short.mkv")
    assert 60 < cut_short < 140
    assert counts == {
        "plain.mp4": 140, "-dash.mp4": 30, "Plain.mkv": 20,
        "sub dir/it's \"ü\" 100%d.mp4": 30, "sub dir/plain.mkv": 20,
    }  # fmt: skip
    assert {s.path for s in manifest.sources if s.truncated} == {"cut short.mkv"}
    notes = {s.path: s.notes for s in manifest.sources}
    assert notes["cut short.mkv"] == (f"the file breaks off; {cut_short / 30:.1f} s of it could be used",)
    assert notes["Plain.mkv"] == ("its 24x24 pixels are enlarged to 32x32",)
    reasons = {s.path: s.skipped or "" for s in manifest.skipped}
    expected = {
        "three frames.mp4": "gives 3 frames, fewer than 12",
        "dot.mkv": "is 1x1, smaller than the low resolution 16x16",
        "sound.wav": "holds sound but no video",
        "text.mp4": "is not a video that ffmpeg can read (no known format)",
        "empty.mp4": "is empty (0 bytes)",
        "later.mp4.part": "is an unfinished download",
        "link.mp4": "is not a file (a broken link",
        "pictures": "is 8x8, smaller than the low resolution 16x16",
    }
    assert reasons.keys() == expected.keys()
    for path, words in expected.items():
        assert reasons[path].startswith(words)
    assert manifest.totals["clips"] == 6
    assert manifest.totals["shorter_than_128_frames"] == 5
    assert manifest.totals["frames"] == sum(counts.values()) + cut_short


def test_same_clips_in_the_same_shards(prepared: Path) -> None:
    shards = {size: sorted((prepared / size.folder()).iterdir()) for size in (LOW, HIGH)}
    assert [p.name for p in shards[LOW]] == [p.name for p in shards[HIGH]]
    for low, high in zip(shards[LOW], shards[HIGH], strict=True):
        with zipfile.ZipFile(low) as a, zipfile.ZipFile(high) as b:
            assert a.namelist() == b.namelist()
    data = ClipDataset(prepared, min_frames=128)
    assert [clip.frames for clip in data.clips] == [140]


def test_pictures_are_those_of_the_video(footage: Path, prepared: Path) -> None:
    for name, size in (("_dash", (64, 96)), ("sub_dir/plain", (96, 64))):
        source = footage / {"_dash": "-dash.mp4", "sub_dir/plain": "sub dir/plain.mkv"}[name]
        expected = decode(source.resolve(), *size, "fps=30")
        for target in (LOW, HIGH):
            difference = frames_of(prepared, target, name).astype(int) - centre_lanczos(expected, target)
            assert np.abs(difference).mean() < NEAR + 0.5  # JPEG


def test_bytes_depend_on_nothing_else(
    footage: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(footage, tmp_path / "again", workers=2)
    assert tree(tmp_path / "again") == tree(prepared)
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*.zip")}
    expected = tree(prepared)
    monkeypatch.setattr(convert, "read_frames", None)  # a second run decodes nothing
    run(footage, prepared)
    assert tree(prepared) == expected
    assert {p: p.stat().st_mtime_ns for p in prepared.rglob("*.zip")} == before


def test_killed_and_run_again(tmp_path: Path) -> None:
    raw, out, once = tmp_path / "raw", tmp_path / "out", tmp_path / "once"
    for i in range(4):
        make_video(raw / f"{i}.mp4", size="320x240", frames=90 + i)
    code = (
        "import sys; from lvgan.sizes import Size; from lvgan.data import prepare as p;"
        "p.SHARD_FRAMES = 60;"
        "p.prepare(sys.argv[1], sys.argv[2], lr=Size(16, 16), hr=Size(128, 128), workers=1)"
    )
    command = [sys.executable, "-c", code, str(raw)]
    subprocess.run([*command, str(once)], check=True)
    process = subprocess.Popen([*command, str(out)])
    deadline = time.monotonic() + 60
    partial = out / "0128x0128" / "partition_0002.zip.partial"
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="not complete"):
        ClipDataset(out)
    kept = out / "0128x0128" / "partition_0000.zip"
    stamp = kept.stat().st_mtime_ns
    subprocess.run([*command, str(out)], check=True)
    assert tree(out) == tree(once)
    assert kept.stat().st_mtime_ns == stamp  # finished, so not made again


def test_only_what_changed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_FRAMES", 20)
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in "abc":
        make_video(raw / f"{name}.mp4", frames=24)
    run(raw, out)
    before = tree(out)
    make_video(raw / "b.mp4", frames=26, source="testsrc")
    (out / LOW.folder() / "partition_0002.zip").write_bytes(b"cut off")  # damaged: made again
    make_video(raw / "d.mp4", frames=24)
    run(raw, out)
    after = tree(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {f"{s.folder()}/partition_000{i}.zip" for s in (LOW, HIGH) for i in (1, 3)} | {
        "manifest.json",
        "cuts.yaml",
    }
    (raw / "d.mp4").unlink()
    (raw / "c.mp4").unlink()
    manifest = run(raw, out)
    assert len(list(out.rglob("*.zip"))) == 4
    assert [s.path for s in manifest.sources] == ["a.mp4", "b.mp4"]


def test_other_settings_need_a_word(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_video(raw / "a.mp4", frames=24)
    run(raw, out)
    with pytest.raises(DataError, match=r"made with fps 30\.0 \(now 15\.0\); .*--overwrite"):
        run(raw, out, fps=15)
    prepare(raw, out, lr=LOW, hr=Size(48, 48), fps=15, overwrite=True)
    assert sorted(os.listdir(out)) == [".lock", "0016x0016", "0048x0048", "cuts.yaml", "manifest.json"]
    assert len(frames_of(out, LOW, "a")) == 12
    (out / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"without a manifest\.json of lvgan"):
        run(raw, out)
    run(raw, out, overwrite=True)
    assert ClipDataset(out).hr == HIGH


def test_cuts_and_trims(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_video(raw / "a.mp4", frames=120)
    make_video(raw / "b.mp4", frames=120)
    make_video(raw / "no.mp4", frames=30)
    (raw / "bad.mp4").write_text("bad")
    (tmp_path / "cuts.yaml").write_text(
        "gone/x: ['0 1']\na: ['0:01 0:02', '0:02.5 0:03', '0:03.9 0:04', '9 10']\nno.mp4: []\nbad: ['0 1']\n"
    )
    manifest = run(raw, tmp_path / "out", cuts=tmp_path / "cuts.yaml")
    found = {s.path: s for s in manifest.sources}
    assert [(c.name, c.frames) for c in found["a.mp4"].clips] == [("a~000", 30), ("a~001", 15)]
    assert found["a.mp4"].notes == (
        "1 of its 4 cuts lie beyond its end",
        "1 of its cuts are left out, with fewer than 12 frames",
    )
    assert [(c.name, c.frames) for c in found["b.mp4"].clips] == [("b", 120)]
    assert found["gone/x"].skipped == "the cuts file names it, and no such video was found"
    assert found["no.mp4"].skipped == "the cuts file uses nothing of it"
    whole = frames_of(tmp_path / "out", HIGH, "b")  # the same picture as a
    assert np.array_equal(frames_of(tmp_path / "out", HIGH, "a~001"), whole[75:90])
    manifest = run(raw, tmp_path / "trimmed", trim_start=1, trim_end=0.5)
    assert np.array_equal(frames_of(tmp_path / "trimmed", HIGH, "a"), whole[30:105])
    reasons = {s.path: s.skipped for s in manifest.skipped}
    assert reasons["no.mp4"] == "is 1.0 s long, and trimming leaves nothing of it"
    (tmp_path / "cuts.yaml").write_text("zzz: ['0 1']\n")
    with pytest.raises(DataError, match="'zzz', and no such video"):
        run(raw, tmp_path / "out2", cuts=tmp_path / "cuts.yaml")


def test_one_decode_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "raw" / "a.mp4", frames=24)
    make_video(tmp_path / "raw" / "b.mp4", frames=24)
    calls: list[Path] = []
    original = convert.read_frames
    monkeypatch.setattr(convert, "read_frames", lambda path, *a, **k: calls.append(path) or original(path, *a, **k))  # type: ignore[func-returns-value]
    run(tmp_path / "raw", tmp_path / "out")
    assert sorted(p.name for p in calls) == ["a.mp4", "b.mp4"]  # test_video: one process each


def test_a_single_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", frames=24)
    seen: list[tuple[str, int, int]] = []
    manifest = run(path, tmp_path / "out", progress=lambda *a: seen.append(a))
    assert [c.name for c in manifest.clips()] == ["a"]
    assert seen[0] == ("files", 1, 1)
    assert seen[-1] == ("frames", 24, 24)


def test_nothing_to_use(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no videos"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty" / "t.mp4").write_text("text")
    with pytest.raises(DataError, match=r"holds no usable video: 't\.mp4' is not a video"):
        run(tmp_path / "empty", tmp_path / "out")
    make_video(tmp_path / "empty" / "short.mp4", frames=3)
    with pytest.raises(DataError, match=r"'short\.mp4' gives 3 frames, .*; 't\.mp4' is not"):
        run(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_impossible_settings(tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a.mp4", frames=24)
    for options, words in (
        ({"hr": Size(100, 100)}, r"100x100 is not 2, 3, 4, \.\.\. times the low one, 64x64; 128x128 would be"),
        ({"hr": Size(64, 128)}, "128x128 would be"),
        ({"lr": Size(64, 64), "hr": Size(64, 64)}, "128x128 would be"),
        ({"lr": Size(64, 64), "hr": Size(32, 32)}, "128x128 would be"),
        ({"fps": 1e-9}, "from 0.1"),
        ({"fps": 0}, "0 frames a second"),
        ({"fps": float("nan")}, "nan frames a second"),
        ({"trim_start": -1}, "cannot be negative"),
        ({"min_frames": 0}, "clips of 0 frames"),
        ({"workers": 0}, "0 workers"),
    ):
        with pytest.raises(ConfigError, match=words):
            prepare(tmp_path / "raw", tmp_path / "out", **options)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file, and a folder"):
        run(tmp_path / "raw", tmp_path / "file")
    with pytest.raises(DataError, match=r"file is a file, so .*x cannot be a folder"):
        run(tmp_path / "raw", tmp_path / "file" / "x")
    with pytest.raises(DataError, match="the folder of the footage itself"):
        run(tmp_path / "raw", tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "raw" / "out")
    manifest = run(tmp_path / "raw", tmp_path / "raw" / "out")  # what it made is not taken for footage
    assert len(manifest.sources) == 1


def test_unreadable_file(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    make_video(tmp_path / "a.mp4", frames=24)
    make_video(tmp_path / "b.mp4", frames=24).chmod(0)
    manifest = run(tmp_path, tmp_path / "out")
    assert [s.skipped for s in manifest.skipped] == ["cannot be read (Permission denied)"]


def test_unreadable_for_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", frames=24)
    make_video(tmp_path / "b.mp4", frames=24)

    def refuse(path: Path) -> str:
        if path.name == "b.mp4":
            raise PermissionError(13, "Permission denied")
        return fingerprint(path)

    monkeypatch.setattr("lvgan.data.scan.fingerprint", refuse)
    manifest = run(tmp_path, tmp_path / "out")
    assert [s.skipped for s in manifest.skipped] == ["cannot be read (Permission denied)"]


def test_full_disk(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(module, "SHARD_FRAMES", 10)
    for i in range(4):
        make_video(tmp_path / "raw" / f"{i}.mp4", size="256x256", frames=12, source="testsrc2")
    with pytest.raises(MachineError, match="disk is full"):
        prepare(tmp_path / "raw", small_disk / "out", lr=Size(64, 64), hr=Size(256, 256), workers=2)
    left = [p.name for p in small_disk.rglob("*") if p.is_file()]
    assert not [name for name in left if "partial" in name]
    for path in small_disk.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    # With more room, the same command goes on.
    if left:
        shutil.copytree(small_disk / "out", tmp_path / "out")
    again = prepare(tmp_path / "raw", tmp_path / "out", lr=Size(64, 64), hr=Size(256, 256))
    assert again.totals["clips"] == 4


def test_names_of_clips() -> None:
    paths = ["a b/c.mp4", "-x.mp4", "..mp4", "..../y.mp4", 'q"u\\o:t*e.mkv', "é\u0301滝.mov", "a.mp4",
             "A.mkv", "x" * 200 + ".mp4", "bad\udcff.mp4", "CON .mp4", "end..mp4"]  # fmt: skip
    names = clip_names([PurePosixPath(p) for p in paths])
    found = [names[PurePosixPath(p)] for p in paths]
    assert len({name.casefold() for name in found}) == len(paths)
    assert found[:3] == ["a_b/c", "_x", "_"]
    assert found[5][-1] == "滝"
    assert found[6].startswith("a~")
    assert found[7].startswith("A~")
    for name in found:
        name.encode()
        for part in name.split("/"):
            assert part not in ("", ".", "..")
            assert part[0] not in "-."
            assert len(part) < 100
            assert not set(part) & set('"\\:*?<>| \n')
