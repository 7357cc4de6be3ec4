"""``lvgan sample``: the same frames however they are asked for, streams, interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from lvgan.cli import app, commands  # noqa: F401
from lvgan.data.encoding import open_writer
from lvgan.errors import ConfigError, LvganError
from tests import checkpoints
from tests.cli import program
from tests.clips import decode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, and 60 frames of either resolution to compare with."""
    place = tmp_path_factory.mktemp("sample")
    checkpoints.make(place)
    done("lr.pt", "-n", "60", "-o", "low.npy", cwd=place)
    done("lr.pt", "--sr", "sr.pt", "-n", "60", "-o", "high.npy", cwd=place)
    return place


def sample(*arguments: object, cwd: Path) -> Result:
    """The command in this process, which has torch loaded."""
    before = Path.cwd()
    os.chdir(cwd)
    try:
        return CliRunner().invoke(app, ["sample", *map(str, arguments)])
    finally:
        os.chdir(before)


def done(*arguments: object, cwd: Path) -> str:
    result = sample(*arguments, cwd=cwd)
    assert result.exit_code == 0, result.exception
    return result.output


def refused(*arguments: object, cwd: Path) -> str:
    result = sample(*arguments, cwd=cwd)
    assert isinstance(result.exception, LvganError), result.exception  # exit code 2: see test_main
    return str(result.exception)


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("frame_*.png"))])


def interrupted(
    folder: Path, output: str, how: int, ready: Callable[[], bool], frames: str = "100000"
) -> subprocess.CompletedProcess[str]:
    """Sample without super-resolution until `ready`, then send a signal."""
    process = program.start("sample", "lr.pt", "-n", frames, "-o", output, cwd=folder)
    deadline = time.monotonic() + 100
    while not ready():
        assert process.is_alive(), process.finish()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    return process.finish()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_any_stretch_is_the_same_video(folder: Path) -> None:
    for network, name in (((), "low"), (("--sr", "sr.pt"), "high")):
        whole = np.load(folder / f"{name}.npy")
        assert whole.std() > 1
        done("lr.pt", *network, "--start", "30", "-n", "30", "-o", f"{name}_later", cwd=folder)
        assert np.array_equal(pictures(folder / f"{name}_later"), whole[30:])
        done("lr.pt", *network, "--start", "2", "--stride", "7", "-n", "8", "-o", f"{name}_strided.npy", cwd=folder)
        assert np.array_equal(np.load(folder / f"{name}_strided.npy"), whole[2:58:7])


def test_streams(folder: Path) -> None:
    whole = np.load(folder / "low.npy")
    command = [sys.executable, "-m", "lvgan", "sample", "lr.pt", "-n", "60", "-o", "-"]
    raw = subprocess.run([*command, "--stream", "raw"], cwd=folder, capture_output=True, check=True, timeout=120)
    assert raw.stdout == whole.tobytes()
    assert b"-: 60 frames of 16x16" in raw.stderr
    with (folder / "stream.mkv").open("wb") as file:
        subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.DEVNULL, check=True, timeout=120)
    found = decode(folder / "stream.mkv", 16, 16)
    assert found.shape == whole.shape
    assert np.abs(found.astype(int) - whole).mean() < 6
    os.mkfifo(folder / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=folder, stdout=subprocess.PIPE) as reader:
        done("lr.pt", "-n", "5", "-o", "pipe", "--stream", "raw", cwd=folder)
        assert reader.communicate()[0] == whole[:5].tobytes()


@pytest.mark.parametrize(("frames", "code", "words"), [("inf", 0, "has left"), ("9000", 2, "left after")])
def test_a_reader_that_leaves(folder: Path, frames: str, code: int, words: str) -> None:
    command = [sys.executable, "-m", "lvgan", "sample", "lr.pt", "-n", frames, "-o", "-"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(100)[:4] == b"\x1a\x45\xdf\xa3"  # Matroska
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == code, said
    assert words in said
    assert "Traceback" not in said


def test_a_reader_that_stops_reading(folder: Path) -> None:
    command = [sys.executable, "-m", "lvgan", "sample", "lr.pt", "-n", "inf", "-o", "-", "--stream", "raw"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_endless_video_ends_cleanly_when_interrupted(folder: Path) -> None:
    for how in (signal.SIGINT, signal.SIGTERM):
        grown = folder / "endless.partial.mp4"
        result = interrupted(folder, "endless.mp4", how, lambda grown=grown: size_of(grown) > 12_000, frames="inf")
        assert result.returncode == 0, result.stderr
        count = int(result.stdout.split(": ")[1].split()[0])
        found = decode(folder / "endless.mp4", 16, 16)
        assert len(found) == count > 60
        assert np.abs(found[:60].astype(int) - np.load(folder / "low.npy")).mean() < 6
        assert not grown.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_made_before_a_kill_plays(folder: Path, how: int) -> None:
    grown = folder / f"cut{how}.partial.mp4"
    result = interrupted(folder, f"cut{how}.mp4", how, lambda: size_of(grown) > 12_000)
    assert not (folder / f"cut{how}.mp4").exists()
    found = decode(grown, 16, 16)
    assert len(found) >= 60
    assert np.abs(found[:60].astype(int) - np.load(folder / "low.npy")).mean() < 6
    if how == signal.SIGTERM:
        assert result.returncode == 143
        assert f"{len(found)} frames are in cut{how}.partial.mp4" in result.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_folder_of_frames_is_continued(folder: Path, how: int) -> None:
    place = folder / f"frames{how}"
    interrupted(folder, place.name, how, lambda: (place / "frame_000020.png").exists())
    for path in sorted(place.glob("frame_*.png"))[40:]:
        path.unlink()
    made = len(list(place.glob("frame_*.png")))
    assert 20 < made <= 40
    (place / f"frame_{made - 1:06d}.png").write_bytes(b"")  # as a power cut would leave it
    times = {path: path.stat().st_mtime_ns for path in place.glob("frame_0000[01]*.png")}
    said = done("lr.pt", "-n", "60", "-o", place.name, cwd=folder)
    assert f"holds {made - 1} frames of this video already" in said
    assert np.array_equal(pictures(place), np.load(folder / "low.npy"))
    assert {path: path.stat().st_mtime_ns for path in times} == times  # not made again
    assert not list(place.glob("*.partial"))
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    for other in (("--seed", "1"), ("--start", "1"), ("--sr", "sr.pt")):
        error = refused("lr.pt", *other, "-n", "60", "-o", place.name, cwd=folder)
        assert "60 frames of another video" in error
        assert "--overwrite" in error
    assert {path: path.stat().st_mtime_ns for path in place.glob("frame_*")}.items() <= before.items()
    done("lr.pt", "-n", "3", "--start", "1", "-o", place.name, "--overwrite", cwd=folder)
    assert np.array_equal(pictures(place), np.load(folder / "low.npy")[1:4])


def test_wrong_input(folder: Path) -> None:
    before = sorted(folder.iterdir())
    beyond = str(2**62)
    for arguments, words in (
        (("-n", "0", "-o", "v.mp4"), "0 frames were asked for"),
        (("-n", "-7", "-o", "v.mp4"), "-7 frames were asked for"),
        (("-n", "many", "-o", "v.mp4"), "-n many was given"),
        (("--start", beyond, "-o", "v.mp4"), f"frame {beyond}"),
        (("--start", f"-{2**62 + 1}", "-o", "v.mp4"), f"frame -{2**62 + 1}"),
        (("--stride", "0", "-o", "v.mp4"), "stride of 0"),
        (("-o", "v.avi"), "'.avi'"),
        (("-o", "lr.pt/v.mp4"), "could not be written"),
        (("-o", "-", "--stream", "flv"), "stream of 'flv'"),
    ):
        assert words in refused("lr.pt", *arguments, cwd=folder)
    assert sorted(folder.iterdir()) == before


def test_a_terminal_is_no_place_for_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(ConfigError, match="terminal"):
        open_writer("-", 30)
