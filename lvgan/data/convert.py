"""One unit of footage to shards: decoded once, split into clips, stored at both resolutions.

A unit is made by one process. Its shards have their names only once they are complete, and a journal
names those that are: a unit that was stopped is decoded again, and what is finished is not written again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvgan.data.checks import StillFinder, find_bars
from lvgan.data.filters import Region
from lvgan.data.locks import unit_lock
from lvgan.data.manifest import BLACK, STATIC, ClipRecord, Dropped, ShardRecord, SourceRecord
from lvgan.data.pictures import PictureReader, missing_numbers, sample_pictures
from lvgan.data.plan import Job, Settings, Unit, folders, part_used, too_small
from lvgan.data.scan import without_path
from lvgan.data.scenes import SceneFinder
from lvgan.data.shards import ShardWriter, encode_jpeg, shard_name
from lvgan.data.splitter import Piece, Splitter
from lvgan.data.video import FrameReader, read_frames, sample_frames
from lvgan.errors import MediaError
from lvgan.files import writing

Frame = NDArray[np.uint8]  # [H, W, 3]
Reader = FrameReader | PictureReader
Pictures = tuple[Frame | bytes, ...]  # one for each resolution, as pixels or as JPEG

WORK = ".prepare"  # in the folder of the shards, while they are being made
_FEW = 8  # pictures; black bars found in fewer are looked at again


class StoppedError(Exception):
    """The work has been called off."""


@dataclass(frozen=True)
class Task:
    """All that it takes to make one unit, on any machine that sees the same folders."""

    out: Path
    settings: Settings
    unit: Unit
    shard_frames: int
    threads: int = 1  # of the decoder


class Watch:
    """Where the one who waits learns how far the work is, and can call it off."""

    def __init__(self, advance: Callable[[int], None] | None = None) -> None:
        self._advance, self._reader, self._stopped, self._frames = advance, None, False, 0

    _reader: Reader | None

    def open(self, reader: Reader) -> None:
        """A source is being read."""
        self._reader = reader
        self.check()

    def check(self) -> None:
        """Raise :class:`StoppedError` if the work was called off: a decoder that was killed says nothing true."""
        if self._stopped:
            raise StoppedError

    def tick(self) -> None:
        """A frame is done."""
        self._frames += 1
        if self._frames % 30 == 0:
            self.tell()

    def tell(self) -> None:
        """Report the frames since the last report."""
        self.check()
        if self._advance is not None and self._frames:
            self._advance(self._frames)
        self._frames = 0

    def stop(self) -> None:
        """From another thread: stop as soon as possible."""
        self._stopped = True
        if self._reader is not None:
            self._reader.kill()


def make_unit(task: Task, watch: Watch | None = None) -> list[ShardRecord]:
    """Make the shards of a unit that are not there yet; the records of all of them.

    Raises:
        MachineError: the disk is full, or ffmpeg is missing.
        StoppedError: `watch` said so.
    """
    watch = watch or Watch()
    with unit_lock(task.out / WORK, task.unit.index):
        journal = Journal(task)
        if journal.done:
            watch.tell()
            return journal.shards
        with _Output(task, journal) as output:
            for job in task.unit.jobs:
                _convert(job, task, output, watch)
            output.finish()
        return journal.shards


# --- what is finished -----------------------------------------------------------------------------


class Journal:
    """Which shards of a unit are finished: one small file, replaced at once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._path = task.out / WORK / f"{task.unit.index:06d}.json"
        self.done = False
        self.shards: list[ShardRecord] = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["key"] == task.unit.key:
                found = [ShardRecord.from_json(shard) for shard in content["shards"]]
                while len(self.shards) < len(found) and is_whole(task, found[len(self.shards)]):
                    self.shards.append(found[len(self.shards)])
                self.done = content["done"] is True and len(self.shards) == len(found)

    def save(self) -> None:
        """Put it on the disk."""
        content = {"key": self._task.unit.key, "done": self.done, "shards": [asdict(shard) for shard in self.shards]}
        partial = self._path.with_name(self._path.name + ".partial")
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(content) + "\n", encoding="ascii")
            os.replace(partial, self._path)


def is_whole(task: Task, record: ShardRecord) -> bool:
    """Whether the files of a shard are there, in their full sizes."""
    files = [folder / record.name for folder in folders(task.out, task.settings)]
    return all(f.is_file() and f.stat().st_size == record.bytes.get(f.parent.name) for f in files)


# --- shards ---------------------------------------------------------------------------------------


class _Output:
    """The shards of a unit, one after the other: full ones are closed between two clips."""

    def __init__(self, task: Task, journal: Journal) -> None:
        self._task, self._journal = task, journal
        self._kept = list(journal.shards)
        journal.shards = []
        self._writers: list[ShardWriter] = []
        self._sources: list[SourceRecord] = []
        self._frames = 0
        self._begun = False

    @property
    def known(self) -> bool:
        """Whether the shard in hand is finished already: then nothing is encoded."""
        return len(self._journal.shards) < len(self._kept)

    def add(self, clip: str, pictures: Pictures) -> None:
        """A frame of a clip, at every resolution."""
        self._begin()
        for writer, picture in zip(self._writers, pictures, strict=False):
            writer.add(clip, picture if isinstance(picture, bytes) else encode_jpeg(picture))

    def drop(self, clip: str) -> None:
        """Take a clip back."""
        for writer in self._writers:
            writer.drop(clip)

    def keep(self, source: str, clip: ClipRecord) -> None:
        """A clip is complete."""
        if self._sources and self._sources[-1].path == source:
            last = self._sources[-1]
            self._sources[-1] = replace(last, clips=(*last.clips, clip))
        else:
            self._sources.append(SourceRecord(source, (clip,)))
        self._frames += clip.frames
        if self._frames >= self._task.shard_frames:
            self._close()

    def end_source(self, record: SourceRecord) -> None:
        """All is known about a source; its clips are those kept before."""
        shards = self._journal.shards
        if self._sources or not shards:
            self._sources = _with(self._sources, record)
        else:  # what it gave lies in the shard that was closed last; no empty one is made for the record
            shards[-1] = replace(shards[-1], sources=tuple(_with(shards[-1].sources, record)))

    def finish(self) -> None:
        """The last shard. An empty one only where there is no other."""
        if self._sources or not self._journal.shards:
            self._close()
        self._journal.done = True
        self._journal.save()

    def _name(self) -> str:
        part = len(self._journal.shards)
        name = shard_name(self._task.unit.index)
        return name if part == 0 else name.replace(".zip", f"_{part:03d}.zip")

    def _begin(self) -> None:
        if self._begun or self.known:
            return
        self._begun = True
        for folder in folders(self._task.out, self._task.settings):
            self._writers.append(ShardWriter(folder / self._name()))

    def _close(self) -> None:
        sources = tuple(self._sources)
        if self.known:
            record = replace(self._kept[len(self._journal.shards)], sources=sources)
        else:
            self._begin()
            sizes = {writer.path.parent.name: writer.finish() for writer in self._writers}
            digests = {writer.path.parent.name: writer.digest for writer in self._writers}
            record = ShardRecord(self._name(), self._task.unit.key, sizes, sources, digests)
            for writer in self._writers:
                writer.commit()
        self._writers, self._sources, self._frames, self._begun = [], [], 0, False
        self._journal.shards.append(record)
        if len(self._journal.shards) > len(self._kept):
            self._journal.save()

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.abort()


def _with(sources: Sequence[SourceRecord], record: SourceRecord) -> list[SourceRecord]:
    """The records, and what is known at the end about the last of them or the next one."""
    if sources and sources[-1].path == record.path:
        return [*sources[:-1], replace(record, clips=sources[-1].clips)]
    return [*sources, record]


# --- one source -----------------------------------------------------------------------------------


def _convert(job: Job, task: Task, output: _Output, watch: Watch) -> None:
    settings, source = task.settings, job.source
    path = str(source.relative)
    region, notes = settings.region, []
    try:
        if settings.crop == "auto":
            region = _without_bars(job)
        problem = too_small(source, settings, region)
        if problem is not None:
            output.end_source(SourceRecord(path, skipped=problem))
            return
        if region is not None and settings.crop == "auto":
            notes.append(
                f"its black bars are cut off: {region.width}x{region.height} at {region.x}, {region.y} is used"
            )
        gap = missing_numbers(source.path) if source.pictures else None
        if gap is not None:
            notes.append(gap)
        clips = _Clips(job, task, output)
        damage = _read(job, task, region, clips, output, watch)
    except MediaError as error:
        watch.check()
        output.end_source(SourceRecord(path, skipped=without_path(error, source.path)))
        return
    part = part_used(source, region, settings.hr)
    if part.height < settings.hr.height:
        notes.append(f"its {part} pixels are enlarged to {settings.hr}")
    output.end_source(clips.record(damage, notes))


def _without_bars(job: Job) -> Region | None:
    """The picture inside black bars, if there are any."""
    source = job.source
    frames = sample_pictures(source.path) if source.pictures else sample_frames(source.path, source.info)
    crop = find_bars(frames) if frames else None
    if crop is not None and len(frames) < _FEW and not source.pictures:
        frames = sample_frames(source.path, source.info, every=True)
        crop = find_bars(frames) if frames else None
    return None if crop is None else Region(crop.width, crop.height, crop.x, crop.y)


def _open(job: Job, task: Task, region: Region | None) -> Reader:
    settings, sizes = task.settings, [task.settings.lr, task.settings.hr]
    spans = job.spans or None
    if job.source.pictures:
        own = settings.frames_fps
        return PictureReader(job.source.path, sizes, fps=settings.fps, files_fps=own, spans=spans, region=region)
    return read_frames(
        job.source.path,
        sizes,
        fps=settings.fps,
        spans=spans,
        region=region,
        info=job.source.info,
        threads=task.threads,
    )


def _read(job: Job, task: Task, region: Region | None, clips: _Clips, output: _Output, watch: Watch) -> str | None:
    """All frames of a source to its clips; what is wrong with it."""
    try:
        with _open(job, task, region) as frames:
            watch.open(frames)
            for pictures in frames:
                small = _small(pictures[0])
                stored: Pictures = pictures if output.known else tuple(encode_jpeg(p) for p in pictures)
                clips.push((frames.span, frames.breaks), frames.number, stored, small)
                watch.tick()
            watch.tell()
            damage = frames.damage
    except MediaError as error:
        watch.check()
        if not clips.frames:
            raise
        damage = without_path(error, job.source.path)
    clips.finish()
    return damage


def _small(low: Frame) -> Frame:
    """What the finders look at: at most 127 pixels on the shorter side."""
    step = max(1, min(low.shape[:2]) // 64)
    return np.ascontiguousarray(low[::step, ::step])


class _Clips:
    """The clips of one source as they come: which are kept, and what there is to say about them."""

    def __init__(self, job: Job, task: Task, output: _Output) -> None:
        self._job, self._settings, self._output = job, task.settings, output
        self.frames = 0  # decoded
        self._splitter: Splitter[tuple[Pictures, Frame]] | None = None
        self._at: tuple[int, int] | None = None  # span and breaks
        self._spans: set[int] = set()
        self._base = 0
        self._count = 0
        self._name = ""
        self._still = StillFinder()
        self._kept: list[ClipRecord] = []
        self._dropped: list[Dropped] = []
        self._cuts: list[tuple[int, int, str]] = []

    def push(self, at: tuple[int, int], number: int, pictures: Pictures, small: Frame) -> None:
        """The next frame, `number` at the constant rate; `at` changes where the footage is not continuous."""
        if at != self._at:
            self._end("damage" if self._at is not None and at[0] == self._at[0] else "")
            self._begin(at, number)
        self.frames += 1
        assert self._splitter is not None
        self._splitter.push((pictures, small), small)

    def finish(self) -> None:
        """After the last frame."""
        self._end("")

    def _begin(self, at: tuple[int, int], number: int) -> None:
        settings = self._settings
        finder = None
        if self._job.detects(settings):
            finder = SceneFinder(settings.scene_cut if isinstance(settings.scene_cut, float) else None)
        first = self._at is None or at[0] != self._at[0]
        begins = ("cuts file" if self._job.listed else "") if first else "damage"
        self._at, self._base = at, number
        self._spans.add(at[0])
        self._splitter = Splitter(finder, settings.cut_margin, settings.max_frames, self._take, self._close, begins)

    def _end(self, why: str) -> None:
        if self._splitter is not None:
            self._splitter.finish(why or ("cuts file" if self._job.listed else ""))
            self._cuts += [(self._base + c.start, self._base + c.end, c.kind) for c in self._splitter.found]
        self._splitter = None

    def _take(self, piece: Piece, item: tuple[Pictures, Frame]) -> None:
        pictures, small = item
        if piece.frames == 0:
            number = self._at[0] if self._at is not None and self._numbered_by_span else self._count
            clip = self._job.source.clip
            self._name = clip if number == 0 and not self._job.listed else f"{clip}~{number:03d}"
            self._count += 1
            self._still = StillFinder()
        self._still.push(small)
        self._output.add(self._name, pictures)

    @property
    def _numbered_by_span(self) -> bool:
        settings = self._settings
        whole = not self._job.detects(settings) and settings.max_frames is None and not self._job.source.pictures
        return self._job.listed and whole

    def _close(self, piece: Piece) -> None:
        settings, start = self._settings, self._base + piece.start
        reason = None
        if piece.frames < settings.min_frames:
            reason = f"shorter than {settings.min_frames} frames"
        elif settings.drop_static and self._still.black:
            reason = BLACK
        elif settings.drop_static and self._still.static:
            reason = STATIC
        if reason is not None:
            self._output.drop(self._name)
            self._dropped.append(Dropped(start, start + piece.frames, reason))
            return
        clip = ClipRecord(
            self._name, piece.frames, start, piece.begins, piece.ends, self._still.static, self._still.black
        )
        self._kept.append(clip)
        self._output.keep(str(self._job.source.relative), clip)

    def record(self, damage: str | None, notes: Sequence[str]) -> SourceRecord:
        """What became of the source."""
        settings, job = self._settings, self._job
        said: list[str] = []
        if damage is not None:
            said.append(f"{damage}; {self.frames / settings.fps:.1f} s of it could be used")
        if job.listed and len(self._spans) < len(job.spans):
            said.append(f"{len(job.spans) - len(self._spans)} of its {len(job.spans)} cuts lie beyond its end")
        said += notes
        short = [part.end - part.start for part in self._dropped if part.reason not in (STATIC, BLACK)]
        still = len(self._dropped) - len(short)
        if self._kept and short:
            noun = "cuts" if job.listed else "clips"
            said.append(f"{len(short)} of its {noun} are left out, with fewer than {settings.min_frames} frames")
        if self._kept and still:
            said.append(f"{still} of its clips are left out, standing still or black")
        marked = [word for word in (_mark(clip) for clip in self._kept) if word]
        said += [f"{marked.count(word)} of its clips {does}" for word, does in _STILL.items() if word in marked]
        reason = None if self._kept else self._nothing(short, still)
        return SourceRecord(
            str(job.source.relative),
            (),
            reason,
            damage is not None,
            tuple(said),
            tuple(self._cuts),
            tuple(self._dropped),
        )

    def _nothing(self, short: Sequence[int], still: int) -> str:
        if still:
            return "stands still or is black" if not short else "gives clips that stand still, are black or too short"
        if self._cuts and not short:
            return "is nothing but cuts and fades"
        longest = max(short, default=0)
        least = self._settings.min_frames
        return f"gives {longest} frame{'s' * (longest != 1)}, fewer than {least} (the least that is asked for)"


_STILL = {STATIC: "stand still", BLACK: "are black"}


def _mark(clip: ClipRecord) -> str:
    return BLACK if clip.black else STATIC if clip.static else ""
