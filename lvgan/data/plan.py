"""What `prepare` is going to make: its settings, and sources gathered into units that are made as a whole."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvgan.data.filters import Region, Span, centre
from lvgan.data.scan import Source, length_of
from lvgan.errors import ConfigError
from lvgan.sizes import LARGEST_SIDE, Size

if TYPE_CHECKING:  # YAML would make every worker start later
    from lvgan.data.cuts import Interval

FORMAT = 3  # counted up when the same footage and settings give other bytes


@dataclass(frozen=True)
class Settings:
    """What shards are made with; see :func:`lvgan.data.prepare.prepare`."""

    lr: Size
    hr: Size
    fps: float
    trim_start: float = 0.0
    trim_end: float = 0.0
    min_frames: int = 12
    max_frames: int | None = None
    scene_cut: str | float = "auto"  # "auto", "off" or a threshold
    cut_margin: int = 2
    crop: str = "auto"  # "auto", "center" or "X:Y:W:H"
    drop_static: bool = False
    frames_fps: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"lr": str(self.lr), "hr": str(self.hr)}

    @property
    def region(self) -> Region | None:
        """The part of the picture that `crop` names."""
        match = re.fullmatch(r"(\d{1,5}):(\d{1,5}):(\d{1,5}):(\d{1,5})", self.crop, flags=re.ASCII)
        if match is None:
            return None
        x, y, width, height = map(int, match.groups())
        return Region(width, height, x, y)

    def check(self) -> None:
        """Raise :class:`ConfigError` where something is impossible."""
        self._check_sizes()
        if not 0.1 <= self.fps <= 1000:
            raise ConfigError(f"{self.fps:g} frames a second are not possible; give a number from 0.1 to 1000")
        if self.frames_fps is not None and not 0.001 <= self.frames_fps <= 1000:
            raise ConfigError(
                f"pictures of {self.frames_fps:g} frames a second are not possible; give a number from 0.001 to 1000"
            )
        if not (0 <= self.trim_start < math.inf and 0 <= self.trim_end < math.inf):
            raise ConfigError("the seconds to trim cannot be negative or endless; give 0 to trim nothing")
        if self.min_frames < 1:
            raise ConfigError(f"clips of {self.min_frames} frames are not possible; give a minimum of 1 or more")
        if self.max_frames is not None and self.max_frames < self.min_frames:
            raise ConfigError(
                f"clips of {self.min_frames} to {self.max_frames} frames are not possible; "
                "give a maximum that is not below the minimum"
            )
        if not 0 <= self.cut_margin <= 1000:
            raise ConfigError(f"a margin of {self.cut_margin} frames is not possible; give a number from 0 to 1000")
        cut = self.scene_cut
        if cut not in ("auto", "off") and not (isinstance(cut, float) and 0 < cut < math.inf):
            raise ConfigError(f"scene cuts by {cut!r} are not known; give auto, off or a threshold above 0")
        region = self.region
        if self.crop not in ("auto", "center") and (region is None or not (region.width and region.height)):
            raise ConfigError(f"{self.crop!r} is no crop: give auto, center, or X:Y:W:H in pixels, as in 0:60:1280:600")

    def _check_sizes(self) -> None:
        lr, hr = self.lr, self.hr
        factor = max(2, round(hr.width / lr.width))
        if (hr.height, hr.width) != (lr.height * factor, lr.width * factor):
            while max(lr) * factor > LARGEST_SIDE and factor > 2:
                factor -= 1
            near = Size(lr.height * factor, lr.width * factor)
            raise ConfigError(f"the high resolution {hr} is not 2, 3, 4, ... times the low one, {lr}; {near} would be")


@dataclass(frozen=True)
class Job:
    """One source and the parts of it that are used."""

    source: Source
    spans: tuple[Span, ...]  # () for all of it
    listed: bool  # by a file of cuts: its clips are numbered

    def detects(self, settings: Settings) -> bool:
        """Whether scene cuts are looked for: what a person has listed is cut further only on demand."""
        return settings.scene_cut != "off" and not (self.listed and settings.scene_cut == "auto")

    def frames(self, fps: float) -> int:
        """About how many frames it gives."""
        spans = self.spans or ((0.0, None),)
        length = self.source.info.duration or 30.0
        ends = [length if end is None else min(end, max(length, start)) for start, end in spans]
        return sum(max(1, math.ceil((end - start) * fps)) for (start, _), end in zip(spans, ends, strict=True))


@dataclass
class Unit:
    """Sources whose clips are stored together, in one shard or in several of their own."""

    index: int
    jobs: list[Job] = field(default_factory=list)
    key: str = ""  # of everything that its bytes depend on
    frames: int = 0  # expected


def plan_source(source: Source, settings: Settings, cut: Sequence[Interval] | None) -> Job | str:
    """What is used of a source, or why nothing is."""
    problem = too_small(source, settings, settings.region)
    if problem is not None:
        return problem
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
        return Job(source, ((first, last),) if first or last is not None else (), listed=False)
    spans = [(max(start, first), end if last is None else min(end, last)) for start, end in cut]
    spans = [(start, end) for start, end in spans if start < end]
    return Job(source, tuple(spans), listed=True) if spans else "trimming leaves nothing of its cuts"


def too_small(source: Source, settings: Settings, region: Region | None) -> str | None:
    """Why a source cannot be scaled to the low resolution, if so."""
    picture = Size(source.info.height, source.info.width)
    if region is not None and (region.x + region.width > picture.width or region.y + region.height > picture.height):
        return (
            f"is {picture.width} pixels wide and {picture.height} high, and the crop {settings.crop} "
            f"(X:Y:W:H) reaches beyond it, to {region.x + region.width} and {region.y + region.height}"
        )
    part = part_used(source, region, settings.lr)
    if part.height < settings.lr.height or part.width < settings.lr.width:
        return f"is {picture}, smaller than the low resolution {settings.lr}"
    return None


def part_used(source: Source, region: Region | None, size: Size) -> Size:
    """The largest centred part of the picture, or of `region`, with the aspect ratio of `size`."""
    within = Size(source.info.height, source.info.width) if region is None else Size(region.height, region.width)
    part = centre(within, size)
    return Size(part.height, part.width)


def gather(jobs: Sequence[Job], settings: Settings, shard_frames: int) -> list[Unit]:
    """Units of about `shard_frames` frames, in order of the sources; a long source is one by itself."""
    units: list[Unit] = []
    for job in jobs:
        if not units or units[-1].frames >= shard_frames:
            units.append(Unit(len(units)))
        units[-1].jobs.append(job)
        units[-1].frames += job.frames(settings.fps)
    for unit in units:
        made_from = [(str(j.source.relative), j.source.clip, j.source.digest, j.spans, j.listed) for j in unit.jobs]
        text = json.dumps([FORMAT, shard_frames, settings.as_json(), made_from])
        unit.key = hashlib.sha256(text.encode()).hexdigest()
    return units


def share(units: Sequence[Unit], index: int, count: int) -> list[Unit]:
    """The part of one job of an array, `index` from 1 to `count`: neighbours, about as many frames for each."""
    total, begun, mine = sum(unit.frames for unit in units), 0, []
    for unit in units:
        if min(count - 1, begun * count // max(total, 1)) == index - 1:
            mine.append(unit)
        begun += unit.frames
    return mine


def parse_share(text: str) -> tuple[int, int]:
    """``3/8`` as (3, 8).

    Raises:
        ConfigError: anything else, or a number outside 1 to the second one.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), flags=re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"{text!r} is no part of the work: give 1/8, 2/8 ... 8/8 to the jobs of an array of 8")
    return int(match[1]), int(match[2])


def folders(out: Path, settings: Settings) -> list[Path]:
    """Where the shards of both resolutions lie."""
    return [out / settings.lr.folder(), out / settings.hr.folder()]
