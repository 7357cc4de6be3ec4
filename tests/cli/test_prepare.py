"""`lvgan prepare` as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lvgan.data.manifest import Manifest
from tests.cli import program
from tests.clips import ffmpeg, make_video


def lvgan(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return program.lvgan(*arguments, cwd=cwd, env={"COLUMNS": "200"})


def test_report(tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a b.mp4", frames=130)
    make_video(tmp_path / "raw" / "line\nbreak.mp4", frames=30)
    make_video(tmp_path / "raw" / "short.mp4", frames=3)
    (tmp_path / "raw" / "text.mp4").write_text("text")
    result = lvgan("prepare", "raw", "my out", "--lr", "16x16", "--hr", "32x32", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "2 of 4 videos used: 2 clips, 160 frames, 0.00 hours, at 16x16 and 32x32"
    assert lines[1:4] == [
        "left out:",
        "  short.mp4: gives 3 frames, fewer than 12 (the least that is asked for)",
        "  text.mp4: is not a video that ffmpeg can read (no known format)",
    ]
    assert lines[-2].startswith("1 of 2 clips shorter than 128 frames")
    assert lines[-1] == "next: lvgan train-lr 'my out'"
    assert "converting" in result.stderr
    assert "163/163" in result.stderr
    manifest = Manifest.load(tmp_path / "my out")
    assert manifest is not None
    assert manifest.complete


def test_the_users_mistakes(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for arguments, words in (
        (["raw", "out"], "raw holds no videos"),
        (["raw", "out", "--lr", "64"], "'64' is not a size"),
        (["raw", "out", "--hr", "100x100"], "128x128 would be"),
        (["none", "out"], "none does not exist"),
        (["raw", "out", "--cuts", "none.json"], "none.json cannot be read"),
    ):
        result = lvgan("prepare", *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, lvgan.cli.prepare; assert not {'torch', 'numpy', 'PIL', 'ffmpeg'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_options(tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a.mp4", frames=100)
    make_video(tmp_path / "raw" / "b.mp4", frames=40)
    still = tmp_path / "raw" / "still.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=red:size=96x64:rate=30", "-frames:v", 90, "-pix_fmt", "yuv420p", still)
    sizes = ("--lr", "16x16", "--hr", "32x32")
    wanted = (
        "--min-frames",
        30,
        "--max-frames",
        60,
        "--scene-cut",
        "off",
        "--drop-static",
        "--report",
        "look here.html",
    )
    result = lvgan("prepare", "raw", "out", *sizes, *wanted, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("2 of 3 videos used: 3 clips, 140 frames")
    assert "kept 3 of 5 clips: 2 static or black" in lines
    assert lines[-1] == "look at the clips: 'look here.html'"
    assert (tmp_path / "look here.html").stat().st_size > 1000
    assert (tmp_path / "out" / "cuts.yaml").exists()
    wanted = ("--min-frames", 41, "--max-frames", 60, "--scene-cut", "off", "--overwrite")
    result = lvgan("prepare", "raw", "out", *sizes, *wanted, cwd=tmp_path)
    assert "kept 2 of 5 clips: 3 shorter than 41 frames" in result.stdout
    assert "1 of 2 clips static or black; --drop-static leaves them out" in result.stdout


def test_parts(tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a.mp4", frames=1100)
    make_video(tmp_path / "raw" / "b.mp4", frames=40)
    for part, words in (
        ("1/2", "part 1/2 is done; the set is complete when all other parts are"),
        ("2/2", "2 of 2 videos"),
    ):
        result = lvgan("prepare", "raw", "out", "--lr", "8x8", "--hr", "16x16", "--shard", part, cwd=tmp_path)
        assert result.stdout.startswith(words), result.stderr


def test_more_mistakes(tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a.mp4", frames=20)
    for arguments, words in (
        (["--shard", "0/4"], "give 1/8, 2/8 ... 8/8"),
        (["--shard", "1/2", "--overwrite"], "remove each other's work"),
        (["--crop", "top"], "'top' is no crop: give auto, center, or X:Y:W:H"),
        (["--scene-cut", "maybe"], "give auto, off or a threshold above 0"),
        (["--scene-cut", "-1"], "give auto, off or a threshold above 0"),
        (["--report", "x.pdf"], "ends in .html"),
    ):
        result = lvgan("prepare", "raw", "out", *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "out").exists()
