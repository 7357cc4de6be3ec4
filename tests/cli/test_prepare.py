"""`lvgan prepare` as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lvgan.data.manifest import Manifest
from tests.clips import make_video


def lvgan(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, typer, lvgan.cli.prepare as p\n"
        "from lvgan.cli import fail; from lvgan.errors import LvganError\n"
        "app = typer.Typer(); app.callback()(lambda: None); p.register(app)\n"
        "try:\n    app()\nexcept LvganError as e:\n    fail(str(e)); sys.exit(2)\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


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
