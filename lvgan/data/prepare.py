"""Footage to shards: every video is decoded once, cut, brought to one rate and two sizes, and stored.

A run that was stopped goes on where it stopped: shards that are finished, and whose footage and settings
have not changed, are kept. The same footage and settings give the same bytes, however often a run
was stopped, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lvgan import __version__
from lvgan.data.cuts import Interval, match_cuts, read_cuts
from lvgan.data.info import VideoInfo
from lvgan.data.manifest import FILE_NAME, ClipRecord, Manifest, ShardRecord, SourceRecord
from lvgan.data.program import ffmpeg_version
from lvgan.data.scan import Source, length_of, scan, without_path
from lvgan.data.shards import ShardWriter, encode_jpeg, find_resolutions, shard_name
from lvgan.data.video import FrameReader, Span, read_frames
from lvgan.data.writers import writing
from lvgan.errors import ConfigError, DataError, MediaError
from lvgan.sizes import LARGEST_SIDE, Size

SHARD_FRAMES = 1000  # sources are gathered into a shard until it holds about so many frames
_FORMAT = 1  # counted up when the same footage and settings give other bytes

Progress = Callable[[str, int, int], None]  # "files" or "frames"; done; expected (frames: an estimate)


class _StoppedError(Exception):
    """Another worker has failed: leave."""


@dataclass(frozen=True)
class _Settings:
    lr: Size
    hr: Size
    fps: float
    trim_start: float
    trim_end: float
    min_frames: int

    def as_json(self) -> dict[str, Any]:
        return {
            "lr": str(self.lr),
            "hr": str(self.hr),
            "fps": self.fps,
            "trim_start": self.trim_start,
            "trim_end": self.trim_end,
            "min_frames": self.min_frames,
        }


@dataclass(frozen=True)
class _Job:
    """One video and the parts of it that are used."""

    source: Source
    spans: tuple[Span, ...]  # () for all of it
    several: bool  # its clips are numbered

    def frames(self, fps: float) -> int:
        """About how many frames it gives."""
        spans = self.spans or ((0.0, None),)
        length = self.source.info.duration or 30.0
        ends = [length if end is None else min(end, max(length, start)) for start, end in spans]
        return sum(max(1, math.ceil((end - start) * fps)) for (start, _), end in zip(spans, ends, strict=True))


@dataclass
class _Shard:
    index: int
    jobs: list[_Job] = field(default_factory=list)
    key: str = ""
    frames: int = 0  # expected


def prepare(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    lr: Size = Size(64, 64),
    hr: Size = Size(256, 256),
    fps: float = 30,
    cuts: str | os.PathLike[str] | None = None,
    trim_start: float = 0,
    trim_end: float = 0,
    min_frames: int = 12,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Turn the videos below `raw` into shards of both sizes below `out`, with ``manifest.json``.

    A file that cannot be used never stops the others; the manifest says why it was left out. Running
    it again continues, and takes up new or changed footage.

    Args:
        raw: a folder of videos, of any depth, or one video.
        out: the folder for the shards, new or made by this function before.
        lr, hr: low and high resolution; the high one a whole multiple of the low one.
        fps: frames a second of the result.
        cuts: a file that names the parts to use (:func:`lvgan.data.cuts.read_cuts`); videos that it
            does not name are used whole.
        trim_start, trim_end: seconds left out at the ends of every video.
        min_frames: shorter clips are left out.
        workers: shards made at a time; None takes the number of CPU cores.
        overwrite: begin anew where `out` was made with other settings.
        progress: called with ``("files", examined, found)``, then ``("frames", done, expected)``.

    Raises:
        ConfigError: impossible settings.
        DataError: no usable footage, `out` was made with other settings, or a wrong file of cuts.
        MachineError: the disk is full, or ffmpeg is missing.
    """
    root, target = Path(raw), Path(out)
    settings = _Settings(lr, hr, float(fps), float(trim_start), float(trim_end), min_frames)
    _check(settings, root, target, workers)
    intervals = read_cuts(Path(cuts)) if cuts is not None else None
    manifest = _open_target(target, settings, overwrite)
    cores = _cores()
    on_probe = None if progress is None else functools.partial(progress, "files")
    sources, reasons = scan(root, leave_out=target, workers=workers or cores, on_probe=on_probe)
    paths = [source.relative for source in sources] + [PurePosixPath(path) for path in reasons]
    matched = match_cuts(intervals, paths) if intervals is not None else {}
    jobs: list[_Job] = []
    for source in sources:
        job = _plan(source, settings, matched.get(source.relative))
        if isinstance(job, str):
            reasons[str(source.relative)] = job
        else:
            jobs.append(job)
    if not jobs:
        raise _nothing_usable(root, reasons)
    manifest.unusable = [SourceRecord(path, skipped=reason) for path, reason in sorted(reasons.items())]
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    run = _Run(target, settings, manifest, _gather(jobs, settings), workers or cores, cores, progress)
    run.go()
    if not any(True for _ in manifest.clips()):
        _clear(target, [target / lr.folder(), target / hr.folder()])
        raise _nothing_usable(root, {s.path: s.skipped or "" for s in manifest.skipped})
    return manifest


# --- before the work ------------------------------------------------------------------------------


def _check(settings: _Settings, raw: Path, out: Path, workers: int | None) -> None:
    lr, hr = settings.lr, settings.hr
    factor = max(2, round(hr.width / lr.width))
    if (hr.height, hr.width) != (lr.height * factor, lr.width * factor):
        while max(lr) * factor > LARGEST_SIDE and factor > 2:
            factor -= 1
        near = Size(lr.height * factor, lr.width * factor)
        raise ConfigError(f"the high resolution {hr} is not 2, 3, 4, ... times the low one, {lr}; {near} would be")
    if not 0.1 <= settings.fps <= 1000:
        raise ConfigError(f"{settings.fps:g} frames a second are not possible; give a number from 0.1 to 1000")
    if not (0 <= settings.trim_start < math.inf and 0 <= settings.trim_end < math.inf):
        raise ConfigError("the seconds to trim cannot be negative or endless; give 0 to trim nothing")
    if settings.min_frames < 1:
        raise ConfigError(f"clips of {settings.min_frames} frames are not possible; give a minimum of 1 or more")
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers cannot work; give 1 or more")
    blocking = next((p for p in (out, *out.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None and blocking != out:
        raise DataError(f"{blocking} is a file, so {out} cannot be a folder for the shards; choose another place")
    if blocking is not None:
        raise DataError(f"{out} is a file, and a folder for the shards was expected; choose another name")
    if raw.exists() and out.exists() and raw.resolve() == out.resolve():
        raise DataError(f"{out} is the folder of the footage itself; choose another folder for the shards")


def _open_target(out: Path, settings: _Settings, overwrite: bool) -> Manifest:
    """The manifest to go on with; with `overwrite`, what other settings made is removed."""
    fresh = Manifest(settings.lr, settings.hr, settings.as_json(), ffmpeg_version(), __version__)
    try:
        found = Manifest.load(out)
    except DataError:
        if not overwrite:
            raise
        found = None
    if found is not None and found.settings == fresh.settings:
        fresh.shards = found.shards
        return fresh
    folders = list(find_resolutions(out).values())
    if found is None and not folders:
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
    _clear(out, folders)
    return fresh


def _clear(out: Path, folders: Sequence[Path]) -> None:
    with writing(out):
        (out / FILE_NAME).unlink(missing_ok=True)
        for folder in folders:
            _remove_shards(folder, keep=())
        with contextlib.suppress(OSError):  # it holds something else
            out.rmdir()


def _remove_shards(folder: Path, keep: Sequence[str]) -> None:
    for path in folder.glob("partition_*"):
        if re.fullmatch(r"partition_\d+\.zip(\.partial)?", path.name) and path.name not in keep:
            path.unlink()
    with contextlib.suppress(OSError):  # it holds something else
        folder.rmdir()


def _plan(source: Source, settings: _Settings, cut: Sequence[Interval] | None) -> _Job | str:
    """What is used of a video, or why nothing is."""
    part = _part_used(source.info, settings.lr)
    if part.height < settings.lr.height or part.width < settings.lr.width:
        picture = Size(source.info.height, source.info.width)
        return f"is {picture}, smaller than the low resolution {settings.lr}"
    if cut is not None and not cut:
        return "the cuts file uses nothing of it"
    first, last = settings.trim_start, None
    if settings.trim_end:
        length = length_of(source)
        if length is None:
            return "does not say how long it is, which trimming the end needs; convert it to another format"
        last = length - settings.trim_end
        if last <= first:
            return f"is {length:.1f} s long, and trimming leaves nothing of it"
    if cut is None:
        return _Job(source, ((first, last),) if first or last is not None else (), several=False)
    spans = [(max(start, first), end if last is None else min(end, last)) for start, end in cut]
    spans = [(start, end) for start, end in spans if start < end]
    return _Job(source, tuple(spans), several=True) if spans else "trimming leaves nothing of its cuts"


def _part_used(info: VideoInfo, size: Size) -> Size:
    """The largest centred part of the picture with the aspect ratio of `size`, as displayed."""
    width = min(info.width, info.height * size.width / size.height)
    return Size(math.floor(width * size.height / size.width + 0.5), math.floor(width + 0.5))


def _gather(jobs: Sequence[_Job], settings: _Settings) -> list[_Shard]:
    shards: list[_Shard] = []
    for job in jobs:
        if not shards or shards[-1].frames >= SHARD_FRAMES:
            shards.append(_Shard(len(shards)))
        shards[-1].jobs.append(job)
        shards[-1].frames += job.frames(settings.fps)
    for shard in shards:
        made_from = [(str(j.source.relative), j.source.clip, j.source.digest, j.spans) for j in shard.jobs]
        text = json.dumps([_FORMAT, settings.as_json(), made_from])
        shard.key = hashlib.sha256(text.encode()).hexdigest()
    return shards


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
    """Makes the shards that are missing, several at a time, and keeps the manifest up to date."""

    def __init__(
        self,
        out: Path,
        settings: _Settings,
        manifest: Manifest,
        shards: list[_Shard],
        workers: int,
        cores: int,
        progress: Progress | None,
    ) -> None:
        self._out, self._settings, self._manifest, self._shards = out, settings, manifest, shards
        self._folders = [out / settings.lr.folder(), out / settings.hr.folder()]
        self._workers = min(workers, len(shards))
        self._threads = max(1, math.ceil(cores / self._workers))
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[FrameReader] = set()
        self._done = 0
        self._expected = sum(shard.frames for shard in shards)

    def go(self) -> None:
        before = {shard.name: shard for shard in self._manifest.shards}
        finished = {s.index: before[shard_name(s.index)] for s in self._shards if self._is_kept(s, before)}
        self._count(sum(self._shards[index].frames for index in finished))
        self._note(finished)
        with ThreadPoolExecutor(self._workers) as pool:
            todo = [shard for shard in self._shards if shard.index not in finished]
            futures = [pool.submit(self._make, shard, finished) for shard in todo]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # done, an error, or Ctrl-C: the others leave
                self._leave()
        errors = [future.exception() for future in futures]
        for error in sorted((e for e in errors if e is not None), key=lambda e: isinstance(e, _StoppedError)):
            raise error
        self._expected = self._done
        self._count(0)
        with writing(self._out):
            for folder in self._folders:
                _remove_shards(folder, keep=[shard_name(shard.index) for shard in self._shards])
        self._manifest.complete = True
        self._manifest.save(self._out)

    def _leave(self) -> None:
        self._stop.set()
        with self._lock:
            for frames in self._open:
                frames.kill()

    def _is_kept(self, shard: _Shard, before: Mapping[str, ShardRecord]) -> bool:
        record = before.get(shard_name(shard.index))
        if record is None or record.key != shard.key:
            return False
        files = [folder / record.name for folder in self._folders]
        return all(f.is_file() and f.stat().st_size == record.bytes.get(f.parent.name) for f in files)

    def _note(self, finished: Mapping[int, ShardRecord]) -> None:
        self._manifest.shards = [finished[index] for index in sorted(finished)]
        self._manifest.save(self._out)

    def _count(self, frames: int) -> None:
        with self._lock:
            self._done += frames
            if self._progress is not None:
                self._progress("frames", self._done, max(self._expected, self._done))

    def _make(self, shard: _Shard, finished: dict[int, ShardRecord]) -> None:
        if self._stop.is_set():
            raise _StoppedError
        name = shard_name(shard.index)
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(ShardWriter(folder / name)) for folder in self._folders]
            sources = tuple(self._convert(job, writers) for job in shard.jobs)
            sizes = {writer.path.parent.name: writer.finish() for writer in writers}
            digests = {writer.path.parent.name: writer.digest for writer in writers}
            for writer in writers:
                writer.commit()
        with self._lock:
            finished[shard.index] = ShardRecord(name, shard.key, sizes, sources, digests)
            self._note(finished)

    def _convert(self, job: _Job, writers: Sequence[ShardWriter]) -> SourceRecord:
        settings, source = self._settings, job.source
        clips: list[_Clip] = []
        damage = None
        try:
            with read_frames(
                source.path,
                [settings.lr, settings.hr],
                fps=settings.fps,
                spans=job.spans or None,
                threads=self._threads,
            ) as frames:
                for span, pictures in self._watched(frames):
                    if not clips or clips[-1].span != span:
                        name = f"{source.clip}~{span:03d}" if job.several else source.clip
                        clips.append(_Clip(name, span, settings.min_frames, writers))
                    clips[-1].add([encode_jpeg(picture) for picture in pictures])
                damage = frames.damage
        except MediaError as error:
            if not clips:
                return SourceRecord(str(source.relative), skipped=without_path(error, source.path))
            damage = without_path(error, source.path)
        return _record(job, settings, clips, damage)

    def _watched(self, frames: FrameReader) -> Iterator[tuple[int, tuple[Any, ...]]]:
        number = 0
        with self._lock:
            self._open.add(frames)
        try:
            for number, pictures in enumerate(frames, start=1):
                if self._stop.is_set():
                    break
                yield frames.span, pictures
                if number % 30 == 0:
                    self._count(30)
            self._count(number % 30)
        finally:
            with self._lock:
                self._open.discard(frames)
            if self._stop.is_set():
                raise _StoppedError


class _Clip:
    """Frames on their way into the shards; the first ones wait until the clip is long enough."""

    def __init__(self, name: str, span: int, min_frames: int, writers: Sequence[ShardWriter]) -> None:
        self.name, self.span, self.frames = name, span, 0
        self._min_frames, self._writers = min_frames, writers
        self._waiting: list[list[bytes]] = []

    def add(self, jpegs: list[bytes]) -> None:
        self.frames += 1
        self._waiting.append(jpegs)
        if self.frames >= self._min_frames:
            for waiting in self._waiting:
                for writer, jpeg in zip(self._writers, waiting, strict=True):
                    writer.add(self.name, jpeg)
            self._waiting = []


def _record(job: _Job, settings: _Settings, clips: Sequence[_Clip], damage: str | None) -> SourceRecord:
    least, notes = settings.min_frames, []
    kept = tuple(ClipRecord(clip.name, clip.frames) for clip in clips if clip.frames >= least)
    short = [clip.frames for clip in clips if clip.frames < least]
    if damage is not None:
        seconds = sum(clip.frames for clip in clips) / settings.fps
        notes.append(f"{damage}; {seconds:.1f} s of it could be used")
    if job.several and len(clips) < len(job.spans):
        notes.append(f"{len(job.spans) - len(clips)} of its {len(job.spans)} cuts lie beyond its end")
    part = _part_used(job.source.info, settings.hr)
    if part.height < settings.hr.height:
        notes.append(f"its {part} pixels are enlarged to {settings.hr}")
    if kept and short:
        notes.append(f"{len(short)} of its cuts are left out, with fewer than {least} frames")
    reason = None
    if not kept:
        longest = max(short, default=0)
        reason = f"gives {longest} frame{'s' * (longest != 1)}, fewer than {least} (the least that is asked for)"
    return SourceRecord(str(job.source.relative), kept, reason, damage is not None, tuple(notes))
