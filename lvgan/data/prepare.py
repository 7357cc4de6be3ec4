"""Footage to shards: every source is decoded once, cut, brought to one rate and two sizes, and stored.

A run that was stopped goes on where it stopped: shards that are finished, and whose footage and settings
have not changed, are kept. The same footage and settings give the same bytes, however often a run
was stopped, whatever the number of workers, processes and machines.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from lvgan.data.cache import cache_files
from lvgan.data.convert import WORK, Journal, Task, is_whole
from lvgan.data.cuts import match_cuts, read_cuts, unmatched
from lvgan.data.locks import FolderLock
from lvgan.data.manifest import FILE_NAME, Manifest, ShardRecord, SourceRecord
from lvgan.data.outcome import CUTS_FILE, check_cuts_file, check_report, write_cuts, write_page
from lvgan.data.plan import Job, Settings, Unit, folders, gather, plan_source, share
from lvgan.data.program import ffmpeg_version
from lvgan.data.scan import scan
from lvgan.data.shards import find_resolutions
from lvgan.data.workers import Made, run_dask, run_here, run_processes
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.files import writing
from lvgan.sizes import Size
from lvgan.version import __version__

SHARD_FRAMES = 1000  # sources are gathered into a shard until it holds about so many frames
LONGEST = 10_000  # frames of a clip: the directory of its shard is held in memory

Progress = Callable[[str, int, int], None]  # "files" or "frames"; done; expected (frames: an estimate)


@dataclass(frozen=True)
class _How:
    """Who does the work."""

    workers: int
    cores: int
    part: tuple[int, int] | None
    dask: str | None


def prepare(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    lr: Size = Size(64, 64),
    hr: Size = Size(256, 256),
    fps: float = 30,
    frames_fps: float | None = None,
    cuts: str | os.PathLike[str] | None = None,
    scene_cut: str | float = "auto",
    cut_margin: int = 2,
    trim_start: float = 0,
    trim_end: float = 0,
    crop: str = "auto",
    min_frames: int = 12,
    max_frames: int | None = LONGEST,
    drop_static: bool = False,
    report: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Turn the footage below `raw` into shards of both sizes below `out`, with ``manifest.json``.

    Footage is videos, and folders of pictures. A file that cannot be used never stops the others; the
    manifest says why it was left out. Running it again continues, and takes up new or changed footage.
    ``cuts.yaml`` in `out` says which parts are used; edited, it can be given as `cuts`.

    Args:
        raw: a folder of footage, of any depth, or one video.
        out: the folder for the shards, new or made by this function before.
        lr, hr: low and high resolution; the high one a whole multiple of the low one.
        fps: frames a second of the result.
        frames_fps: frames a second that folders of pictures were taken at; None takes `fps`: every picture
            is one frame.
        cuts: a file that names the parts to use (:func:`lvgan.data.cuts.read_cuts`); videos that it
            does not name are used whole.
        scene_cut: "auto" splits videos that `cuts` does not name at cuts and fades, "off" splits none, a
            threshold above 0 (see :class:`lvgan.data.scenes.SceneFinder`) splits all.
        cut_margin: frames left out on both sides of a scene cut.
        trim_start, trim_end: seconds left out at the ends of every video.
        crop: "auto" cuts black bars off, then crops the centre to the aspect ratio; "center" does the
            latter only; "X:Y:W:H" uses that part of the picture, in pixels as displayed.
        min_frames: shorter clips are left out.
        max_frames: longer clips are split, so that no shard grows without end; None for never.
        drop_static: leave out clips in which nothing moves, and black ones.
        report: an HTML file to write, with the first and last frame of every clip.
        workers: sources converted at a time, in processes of their own; None takes the number of CPU cores.
        shard: (i, n) makes part i of n of the work, counted from 1; whoever comes last completes the set.
        dask: address of the scheduler of a Dask cluster that does the work.
        overwrite: begin anew where `out` was made with other settings.
        progress: called with ``("files", examined, found)``, then ``("frames", done, expected)``.

    Raises:
        ConfigError: impossible settings.
        DataError: no usable footage, `out` was made with other settings or is in use, or a wrong file of cuts.
        MachineError: the disk is full, or ffmpeg is missing.
    """
    root, target = Path(raw), Path(out)
    if isinstance(scene_cut, int):
        scene_cut = float(scene_cut)
    settings = Settings(
        lr, hr, float(fps), float(trim_start), float(trim_end), min_frames, max_frames, scene_cut, cut_margin,
        crop, drop_static, frames_fps,
    )  # fmt: skip
    settings.check()
    cores = _cores()
    how = _How(workers or cores, cores, shard, dask)
    _check(root, target, workers, how, overwrite)
    page = check_report(report) if report is not None else None
    if cuts is None:
        check_cuts_file(target)
    _open_target(target, settings, overwrite=overwrite, look=True)
    on_probe = None if progress is None else functools.partial(progress, "files")
    jobs, reasons = _find(root, target, settings, Path(cuts) if cuts is not None else None, how.workers, on_probe)
    units = gather(jobs, settings, SHARD_FRAMES)
    mine = share(units, *shard) if shard is not None else units
    lock = FolderLock(target, *((mine[0].index if mine else 0, len(mine)) if shard is not None else ()))
    with lock, _without_trace(target, settings, lock, how):
        with lock.manifest():
            manifest = _open_target(target, settings, overwrite=overwrite)
            manifest.unusable = [SourceRecord(path, skipped=reason) for path, reason in sorted(reasons.items())]
            run = _Run(target, settings, manifest, units, progress)
        run.make(mine, how)
        with lock.manifest():
            run.complete(write_cuts_to=_writable_cuts(target, cuts))
            empty = manifest.complete and not any(True for _ in manifest.clips())
            if empty:
                _clear(target, folders(target, settings))
        if empty:
            lock.undo()
            raise _nothing_usable(root, {s.path: s.skipped or "" for s in manifest.skipped})
    if page is not None and manifest.complete:
        write_page(page, target, manifest)
    return manifest


# --- before the work ------------------------------------------------------------------------------


def _check(raw: Path, out: Path, workers: int | None, how: _How, overwrite: bool) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers cannot work; give 1 or more")
    if how.part is not None and not 1 <= how.part[0] <= how.part[1]:
        raise ConfigError(f"part {how.part[0]} of {how.part[1]} cannot be made; parts are counted from 1")
    if how.part is not None and overwrite:
        raise ConfigError(
            "jobs of an array would remove each other's work with --overwrite; remove the folder first, or take another"
        )
    blocking = next((p for p in (out, *out.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None and blocking != out:
        raise DataError(f"{blocking} is a file, so {out} cannot be a folder for the shards; choose another place")
    if blocking is not None:
        raise DataError(f"{out} is a file, and a folder for the shards was expected; choose another name")
    if raw.exists() and out.exists() and raw.resolve() == out.resolve():
        raise DataError(f"{out} is the folder of the footage itself; choose another folder for the shards")


def _find(
    raw: Path,
    out: Path,
    settings: Settings,
    cuts: Path | None,
    workers: int,
    on_probe: Callable[[int, int], None] | None,
) -> tuple[list[Job], dict[str, str]]:
    """What is used of the footage; and for the rest the reason, by path."""
    intervals = read_cuts(cuts) if cuts is not None else None
    rate = settings.frames_fps or settings.fps
    sources, reasons = scan(raw, leave_out=out, workers=workers, frames_fps=rate, on_probe=on_probe)
    paths = [source.relative for source in sources] + [PurePosixPath(path) for path in reasons]
    matched = match_cuts(intervals, paths) if intervals is not None else {}
    for name in unmatched(intervals, paths) if intervals is not None else ():
        reasons[name] = "the cuts file names it, and no such video was found"
    jobs: list[Job] = []
    for source in sources:
        source = replace(source, path=source.path.absolute())  # found from wherever a worker stands
        job = plan_source(source, settings, matched.get(source.relative))
        if isinstance(job, str):
            reasons[str(source.relative)] = job
        else:
            jobs.append(job)
    if not jobs:
        raise _nothing_usable(raw, reasons)
    return jobs, reasons


def _open_target(out: Path, settings: Settings, *, overwrite: bool, look: bool = False) -> Manifest:
    """The manifest to go on with. With `overwrite`, what other settings made is removed, unless this is but a look."""
    fresh = Manifest(settings.lr, settings.hr, settings.as_json(), ffmpeg_version(), __version__)
    try:
        found = Manifest.load(out)
    except DataError:
        if not overwrite:
            raise
        found = None
    if found is not None and found.settings == fresh.settings:
        fresh.shards, fresh.cuts_file = found.shards, found.cuts_file
        return fresh
    made = list(find_resolutions(out).values())
    if found is None and not made:
        return fresh
    if not overwrite:
        remedy = "choose another folder, or give --overwrite to replace them"
        if found is None:
            raise DataError(f"{out} holds shards without a {FILE_NAME} of lvgan; {remedy}")
        changed = ", ".join(
            f"{name} {found.settings.get(name)} (now {value})"
            for name, value in fresh.settings.items()
            if found.settings.get(name) != value
        )
        raise DataError(f"{out} holds shards made with {changed}; {remedy}")
    if not look:
        _clear(out, made)
    return fresh


def _clear(out: Path, made: Sequence[Path]) -> None:
    with writing(out):
        for name in (FILE_NAME, CUTS_FILE):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / WORK, ignore_errors=True)
        for folder in made:
            _remove_shards(folder, keep=())


@contextlib.contextmanager
def _without_trace(out: Path, settings: Settings, lock: FolderLock, how: _How) -> Iterator[None]:
    """After an error nothing is left of a run that has finished no shard."""
    try:
        yield
    except (ConfigError, DataError, MachineError) as error:
        # Others may be at work in the folder: jobs of an array, or workers of a cluster after one has died.
        alone = how.part is None and not (how.dask is not None and isinstance(error, MachineError))
        made = folders(out, settings)
        finished = [*(out / WORK).glob("*.json"), *(path for folder in made for path in folder.glob("*.zip"))]
        if alone and not finished:
            with contextlib.suppress(OSError):
                (out / FILE_NAME).unlink(missing_ok=True)
                shutil.rmtree(out / WORK, ignore_errors=True)
                for folder in made:
                    if folder.is_dir():
                        _remove_shards(folder, keep=())
            lock.undo()
        raise


def _remove_shards(folder: Path, keep: Sequence[str]) -> None:
    for path in folder.glob("partition_*"):
        if re.fullmatch(r"partition_\d+(_\d+)?\.zip(\.partial)?", path.name) and path.name not in keep:
            path.unlink()
    for path in cache_files(folder) if not keep else ():  # frames decoded from shards that are gone
        path.unlink()
    with contextlib.suppress(OSError):  # it holds something else
        folder.rmdir()


def _writable_cuts(out: Path, cuts: str | os.PathLike[str] | None) -> Path | None:
    """Where the parts that are used are written down: nowhere, if this is the file that was given."""
    path = out / CUTS_FILE
    return None if cuts is not None and path.exists() and path.samefile(cuts) else path


def _nothing_usable(raw: Path, reasons: Mapping[str, str]) -> DataError:
    listed = [f"{path!r} {reason}" for path, reason in sorted(reasons.items())]
    more = f"; and {len(listed) - 10} more" if len(listed) > 10 else ""
    return DataError(f"{raw} holds no usable video: {'; '.join(listed[:10])}{more}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- the work -------------------------------------------------------------------------------------


class _Run:
    """The units of one set: which are finished, making the others, and the manifest of all."""

    def __init__(
        self, out: Path, settings: Settings, manifest: Manifest, units: list[Unit], progress: Progress | None
    ) -> None:
        self._out, self._settings, self._manifest, self._progress = out.absolute(), settings, manifest, progress
        self._tasks = [Task(self._out, settings, unit, SHARD_FRAMES) for unit in units]
        self._before = self._stored(manifest)
        self._done, self._expected = 0, 0
        manifest.complete = False
        manifest.shards = [shard for task in self._tasks for shard in self._before.get(task.unit.index, ())]
        manifest.save(out)

    def _stored(self, manifest: Manifest) -> dict[int, list[ShardRecord]]:
        """What an earlier run completed, by unit."""
        by_key: dict[str, list[ShardRecord]] = {}
        for shard in manifest.shards:
            by_key.setdefault(shard.key, []).append(shard)
        found = {}
        for task in self._tasks:
            shards = by_key.get(task.unit.key, [])
            named = [shard for shard in shards if shard.name.startswith(f"partition_{task.unit.index:04d}")]
            if named and len(named) == len(shards) and all(is_whole(task, shard) for shard in named):
                found[task.unit.index] = named
        return found

    def make(self, units: Sequence[Unit], how: _How) -> None:
        """Make those of the units that are not there yet."""
        wanted = {unit.index for unit in units}
        tasks = [task for task in self._tasks if task.unit.index in wanted]
        self._expected = sum(task.unit.frames for task in tasks)
        todo = [task for task in tasks if self._finished(task) is None]
        self._advance(self._expected - sum(task.unit.frames for task in todo))
        if todo:
            for _ in self._start(todo, how):
                pass
        self._expected = self._done
        self._advance(0)

    def _start(self, tasks: list[Task], how: _How) -> Iterator[Made]:
        if how.dask is not None:
            return run_dask(how.dask, tasks, self._advance)
        workers = min(how.workers, len(tasks))
        threads = max(1, math.ceil(how.cores / workers))
        tasks = [replace(task, threads=threads) for task in tasks]
        return run_here(tasks, self._advance) if workers == 1 else run_processes(tasks, workers, self._advance)

    def _advance(self, frames: int) -> None:
        self._done += frames
        if self._progress is not None:
            self._progress("frames", self._done, max(self._expected, self._done))

    def _finished(self, task: Task) -> list[ShardRecord] | None:
        if task.unit.index in self._before:
            return self._before[task.unit.index]
        journal = Journal(task)
        return journal.shards if journal.done else None

    def complete(self, write_cuts_to: Path | None) -> None:
        """If all units are there: the manifest of all, and nothing else left in the folder."""
        finished = [self._finished(task) for task in self._tasks]
        other = Manifest.load(self._out)
        keys = [task.unit.key for task in self._tasks]
        if other is not None and other.complete and list(dict.fromkeys(s.key for s in other.shards)) == keys:
            # Another job of the array has come to the end in the meantime, with what this one made.
            self._manifest.shards, self._manifest.complete = other.shards, True
            self._manifest.unusable, self._manifest.cuts_file = other.unusable, other.cuts_file
            return
        if any(shards is None for shards in finished):
            self._manifest.shards = [shard for shards in finished if shards is not None for shard in shards]
            return
        manifest = self._manifest
        manifest.shards = [shard for shards in finished if shards is not None for shard in shards]
        manifest.complete = True
        with writing(self._out):
            for folder in folders(self._out, self._settings):
                _remove_shards(folder, keep=[shard.name for shard in manifest.shards])
        if write_cuts_to is not None:
            write_cuts(write_cuts_to, manifest)
            manifest.cuts_file = hashlib.sha256(write_cuts_to.read_bytes()).hexdigest()
        manifest.save(self._out)
        shutil.rmtree(self._out / WORK, ignore_errors=True)
