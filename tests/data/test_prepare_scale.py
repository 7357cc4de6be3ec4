"""Many processes and machines, and processes that die: the bytes are always those of one quiet run."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvgan.data import convert
from lvgan.data.convert import StoppedError, Watch, make_unit
from lvgan.data.manifest import Manifest
from lvgan.data.plan import Settings, gather, parse_share, plan_source, share
from lvgan.data.prepare import prepare
from lvgan.data.program import find_ffmpeg
from lvgan.data.scan import scan
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.sizes import Size
from tests.clips import make_video
from tests.data.test_prepare import tree

CODE = """
import sys
from lvgan.data import prepare as module
from lvgan.sizes import Size
module.SHARD_FRAMES = 60
options = eval(sys.argv[3]) if len(sys.argv) > 3 else {}
module.prepare(sys.argv[1], sys.argv[2], **(dict(lr=Size(16, 16), hr=Size(64, 64), max_frames=40, workers=1) | options))
"""


def start(raw: Path, out: Path, options: str = "{}", stdin: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(raw), str(out), options]
    return subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True)


def run(raw: Path, out: Path, **options: object) -> Manifest:
    defaults: dict[str, object] = {"lr": Size(16, 16), "hr": Size(64, 64), "max_frames": 40, "workers": 1}
    return prepare(raw, out, **defaults | options)  # type: ignore[arg-type]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvgan.data.prepare.SHARD_FRAMES", 60)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos; one is longer than a shard, by several."""
    folder = tmp_path_factory.mktemp("raw")
    for index, frames in enumerate([35, 330, 41, 50, 13, 64]):
        make_video(folder / f"{index}.mp4", size="128x96", frames=frames)
    (folder / "text.mp4").write_text("text")
    return folder


@pytest.fixture(scope="module")
def quiet(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("quiet") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lvgan.data.prepare.SHARD_FRAMES", 60)
        manifest = run(raw, out)
    assert manifest.totals["frames"] == 35 + 320 + 40 + 50 - 10 + 13 + 64
    names = sorted(path.name for path in (out / "0064x0064").iterdir())
    assert [name for name in names if name.startswith("partition_0000")] == [
        "partition_0000.zip", "partition_0000_001.zip", "partition_0000_002.zip", "partition_0000_003.zip",
        "partition_0000_004.zip",
    ]  # fmt: skip
    return tree(out)


def test_parts_of_the_work(raw: Path, quiet: dict[str, str], tmp_path: Path, small_shards: None) -> None:
    out = tmp_path / "out"
    for part in (2, 3, 1):  # the long video is the first part, the second has nothing to do
        manifest = run(raw, out, shard=(part, 3))
        assert manifest.complete == (part == 1)
    assert tree(out) == quiet
    run(raw, out, shard=(2, 3))  # a job that comes again finds nothing to do
    assert tree(out) == quiet


def test_parts_at_the_same_time(raw: Path, quiet: dict[str, str], tmp_path: Path) -> None:
    jobs = [start(raw, tmp_path / "out", f"{{'shard': ({part}, 3)}}") for part in (1, 2, 3)]
    for job in jobs:
        assert job.wait(100) == 0, job.communicate()[1]
        job.communicate()
    assert tree(tmp_path / "out") == quiet


def test_shares_are_fair_and_whole() -> None:
    for count in (1, 2, 3, 7, 40):
        units = [convert.Unit(index, frames=frames) for index, frames in enumerate([5, 900, 10, 10, 300, 20, 0, 700])]
        parts = [[unit.index for unit in share(units, part, count)] for part in range(1, count + 1)]
        assert [index for part in parts for index in part] == list(range(8))
    assert parse_share(" 3/8 ") == (3, 8)
    for text in ("0/8", "9/8", "3", "a/b", "1/0", "-1/2", ""):
        with pytest.raises(ConfigError, match="is no part of the work"):
            parse_share(text)


def test_processes(raw: Path, quiet: dict[str, str], tmp_path: Path, small_shards: None) -> None:
    seen: list[tuple[str, int, int]] = []
    run(raw, tmp_path / "out", workers=3, progress=lambda *step: seen.append(step))
    assert tree(tmp_path / "out") == quiet
    assert seen[-1] == ("frames", 533, 533)


def test_a_script_without_a_guard(raw: Path, quiet: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), str(raw), str(tmp_path / "out"), "{'workers': 2}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, check=True, env=environment, timeout=100)
    assert tree(tmp_path / "out") == quiet


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_inside_a_video(raw: Path, quiet: dict[str, str], tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    for name in ("partition_0000.zip", "partition_0000_002.zip.partial", "partition_0002.zip"):
        process = start(raw, out, f"{{'workers': {workers}}}")
        deadline = time.monotonic() + 60
        while not (out / "0064x0064" / name).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.communicate()
    kept = out / "0064x0064" / "partition_0000.zip"
    stamp = kept.stat().st_mtime_ns
    process = start(raw, out)
    assert process.wait(100) == 0, process.communicate()[1]
    process.communicate()
    assert tree(out) == quiet
    assert kept.stat().st_mtime_ns == stamp  # finished, so not written again


def test_called_off_inside_a_video(raw: Path, quiet: dict[str, str], tmp_path: Path, small_shards: None) -> None:
    class EnoughError(Exception):
        pass

    def progress(phase: str, done: int, expected: int) -> None:
        if phase == "frames" and done >= 200:
            raise EnoughError

    with pytest.raises(EnoughError):
        run(raw, tmp_path / "out", progress=progress)
    assert not list(tmp_path.rglob("*.zip.partial"))
    assert len(list(tmp_path.rglob("*.zip"))) >= 2
    run(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == quiet


def test_the_second_is_refused(raw: Path, tmp_path: Path, small_shards: None) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from lvgan.data.locks import FolderLock\n"
        "FolderLock(Path(sys.argv[1]), *map(int, sys.argv[2:])); print('held', flush=True); time.sleep(60)"
    )
    for held, refused, allowed in (
        ((), ({}, {"shard": (1, 3)}), ()),
        (("0", "1"), ({}, {"shard": (1, 3)}), ({"shard": (3, 3)},)),
    ):
        process = subprocess.Popen([sys.executable, "-c", code, str(out), *held], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        for options in refused:
            with pytest.raises(DataError, match="another `lvgan prepare` is at work in"):
                run(raw, out, **options)
        for options in allowed:
            assert not run(raw, out, **options).complete
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert run(raw, out).complete  # a killed process leaves no lock behind


def test_a_worker_leaves_with_its_parent(raw: Path, tmp_path: Path) -> None:
    # The parent halts at the first frames, so it cannot have finished before it is killed.
    progress = "lambda phase, done, _: phase == 'frames' and done and (sys.stderr.write('now\\n'), sys.stdin.read())"
    process = start(raw, tmp_path / "out", f"{{'workers': 2, 'progress': {progress}}}", stdin=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "now\n"
        children = _children(process.pid)
        assert len(children) >= 2
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 60
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children))


def _children(pid: int) -> list[int]:
    if not Path("/proc").is_dir():
        pytest.skip("finds processes by /proc, which is not there")
    stats = {path.parent.name: path.read_text().rsplit(")", 1)[1].split() for path in _stats()}
    return [int(child) for child, fields in stats.items() if int(fields[1]) == pid]


def _stats() -> Iterator[Path]:
    return (path for path in Path("/proc").glob("[0-9]*/stat") if path.exists())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _task(raw: Path, folder: Path) -> convert.Task:
    sources, _ = scan(raw, leave_out=folder, workers=1)
    settings = Settings(Size(16, 16), Size(64, 64), 30.0)
    jobs = [job for job in (plan_source(source, settings, None) for source in sources) if not isinstance(job, str)]
    return convert.Task(folder / "out", settings, gather(jobs, settings, 60)[0], 60)


def test_called_off_from_outside(raw: Path, tmp_path: Path) -> None:
    watch = Watch()
    watch.stop()
    with pytest.raises(StoppedError):
        make_unit(_task(raw, tmp_path), watch)
    assert not list(tmp_path.rglob("*.zip*"))


def test_a_decoder_killed_at_once_is_no_bad_file(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    original = convert.read_frames

    def read_frames(*arguments: object, **options: object) -> object:
        frames = original(*arguments, **options)  # type: ignore[arg-type]
        watch.stop()
        frames.kill()
        return frames

    monkeypatch.setattr(convert, "read_frames", read_frames)
    with pytest.raises(StoppedError):
        make_unit(_task(raw, tmp_path), watch)
    assert not list(tmp_path.rglob("*.json"))


def test_a_decoder_killed_by_another_is_no_bad_file(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text(f'#!/bin/sh\ncase "$*" in *rawvideo*) kill -9 $$;; esac\nexec "{find_ffmpeg()}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("LVGAN_FFMPEG", str(script))
    with pytest.raises(MachineError, match="was ended from outside"):
        run(raw, tmp_path / "out", crop="center")


# --- Dask -----------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A scheduler and two workers, each a process of its own."""
    pytest.importorskip("distributed", reason="distributed is not installed (lvgan[dask])")
    quiet = os.environ | {"DASK_DISTRIBUTED__DASHBOARD__LINK": "", "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    processes: list[subprocess.Popen[str]] = []

    def launch(*command: str) -> None:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                env=quiet,
                cwd=tmp_path,
            )
        )

    file = tmp_path / "scheduler.json"
    launch("dask_scheduler", "--scheduler-file", str(file), "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
    for _ in range(2):
        launch("dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard",
               "--local-directory", str(tmp_path / "scratch"))  # fmt: skip
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    yield json.loads(file.read_text())["address"], processes[1:]
    for process in processes:
        process.kill()
        process.communicate()


def test_dask_with_a_worker_that_dies(
    raw: Path, quiet: dict[str, str], tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[str]]]
) -> None:
    address, workers = cluster
    out = tmp_path / "out"
    process = start(raw, out, f"{{'dask': {address!r}}}")
    deadline = time.monotonic() + 90
    while not (out / "0064x0064" / "partition_0000.zip").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    workers[0].kill()
    assert process.poll() is None  # half-way
    assert process.wait(100) == 0, process.communicate()[1]
    process.communicate()
    assert tree(out) == quiet
    names = [clip.name for clip in Manifest.load(out).clips()]  # type: ignore[union-attr]
    assert len(names) == len(set(names)) == 14


def test_no_dask(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'lvgan\[dask\]'"):
        run(raw, tmp_path / "out", dask="tcp://127.0.0.1:1")


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1"])
def test_no_scheduler(raw: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed (lvgan[dask])")
    monkeypatch.setattr("lvgan.data.workers.PATIENCE", 0.5)
    with pytest.raises(ConfigError, match="no Dask scheduler answers"):  # and no warning: those are errors here
        run(raw, tmp_path / "some" / "out", dask=address)
    gc.collect()
    assert not (tmp_path / "some").exists()


def test_a_failure_leaves_what_others_put_there(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    out = tmp_path / "out"
    out.mkdir()
    (out / "cuts.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="pip install"):
        run(raw, out, dask="tcp://127.0.0.1:1")
    assert sorted(os.listdir(out)) == [".lock", "cuts.yaml"]


def test_a_disk_that_is_full_at_once_leaves_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lvgan.data.shards.zipfile.ZipFile.writestr", full)
    with pytest.raises(MachineError, match="the disk is full"):
        run(raw, tmp_path / "some" / "out")
    assert not (tmp_path / "some").exists()
