"""``lvgan footage``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from lvgan.cli.footage import register
from lvgan.data.program import find_ffmpeg
from lvgan.errors import ConfigError


def invoke(*args: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["footage", *args])


def test_makes_the_files_and_names_the_next_command(tmp_path: Path) -> None:
    raw = tmp_path / "my raw"
    result = invoke(str(raw), "--videos", "2", "--seconds", "0.3", "--fps", "20", "--size", "18x33", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert f"next: lvgan prepare '{raw}' out/" in result.output
    assert "12/12" in result.output  # the progress bar counts frames
    for video in range(2):
        path = raw / f"world_{video:04d}.mp4"
        command = [find_ffmpeg(), "-i", str(path), "-f", "null", "-"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert re.findall(r"frame= *(\d+)", text)[-1] == "6"
        assert "20 fps" in text
        assert "34x18" in text


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--videos", "0", "1 to 9999"),
        ("--seconds", "-2", "above 0"),
        ("--size", "4x64", "from 8"),
        ("--size", "big", "36x64"),
        ("--fps", "1000", "1 to 240"),
        ("--workers", "0", "1 or more"),
    ],
)
def test_bad_values_are_one_sentence(tmp_path: Path, option: str, value: str, said: str) -> None:
    result = invoke(str(tmp_path / "raw"), option, value)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
