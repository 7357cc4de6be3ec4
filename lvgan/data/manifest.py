"""``manifest.json``: what a set of shards holds, where it came from, and what was left out and why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lvgan.errors import DataError
from lvgan.files import writing
from lvgan.sizes import Size

FILE_NAME = "manifest.json"
VERSION = 1
STATIC, BLACK = "static", "black"
PAPER_FRAMES = 128  # length of the paper's training clips


@dataclass(frozen=True)
class ClipRecord:
    """One clip: its path inside the shards, and its number of frames.

    `start` is the number of its first frame in the source, at the constant rate; `begins` and `ends` say why
    it begins and ends there ("cut", "fade", "dissolve", "cuts file", "max frames", "damage", or "" for the
    start and the end of what is used); `static` and `black`, that nothing moves, or nothing is seen.
    """

    name: str
    frames: int
    start: int = 0
    begins: str = ""
    ends: str = ""
    static: bool = False
    black: bool = False


@dataclass(frozen=True)
class Dropped:
    """Frames ``start <= n < end`` of a source that are not used, and why."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True)
class SourceRecord:
    """What became of one file of footage.

    `skipped` says why nothing of it is used; `truncated`, that it is damaged and was used as far as
    it could be decoded; `notes`, what else its owner should know; `cuts` are the transitions found in it:
    first frame, end and kind.
    """

    path: str
    clips: tuple[ClipRecord, ...] = ()
    skipped: str | None = None
    truncated: bool = False
    notes: tuple[str, ...] = ()
    cuts: tuple[tuple[int, int, str], ...] = ()
    dropped: tuple[Dropped, ...] = ()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> SourceRecord:
        clips = tuple(ClipRecord(**clip) for clip in content["clips"])
        cuts = tuple((start, end, kind) for start, end, kind in content.get("cuts", ()))
        dropped = tuple(Dropped(**part) for part in content.get("dropped", ()))
        notes, truncated = tuple(content["notes"]), bool(content["truncated"])
        return cls(content["path"], clips, content["skipped"], truncated, notes, cuts, dropped)


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard: a digest of everything it was made from, its files' sizes in bytes, and digests
    of the frames in them (:func:`lvgan.data.shards.clips_digest`; empty in sets of earlier versions)."""

    name: str
    key: str
    bytes: dict[str, int]  # by resolution folder
    sources: tuple[SourceRecord, ...]
    digests: dict[str, str] = field(default_factory=dict)  # by resolution folder

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ShardRecord:
        sources = tuple(SourceRecord.from_json(source) for source in content["sources"])
        sizes, digests = dict(content["bytes"]), dict(content.get("digests", {}))
        return cls(content["name"], content["key"], sizes, sources, digests)


@dataclass
class Manifest:
    """The contents of ``manifest.json``.

    `complete` is False while footage is being prepared; `settings` are those that every shard was
    made with; `unusable` are the sources that gave no picture at all; `cuts_file` is a digest of the
    ``cuts.yaml`` that was written.
    """

    lr: Size
    hr: Size
    settings: dict[str, Any]
    ffmpeg: str = ""
    lvgan: str = ""
    complete: bool = False
    shards: list[ShardRecord] = field(default_factory=list)
    unusable: list[SourceRecord] = field(default_factory=list)
    cuts_file: str = ""

    @property
    def sources(self) -> list[SourceRecord]:
        """Every source, by path. What several shards hold of one source is put together."""
        found: dict[str, SourceRecord] = {}
        for source in (*(source for shard in self.shards for source in shard.sources), *self.unusable):
            before = found.get(source.path)
            clips = (*before.clips, *source.clips) if before is not None else source.clips
            found[source.path] = replace(source, clips=clips)
        return sorted(found.values(), key=lambda source: source.path)

    @property
    def skipped(self) -> list[SourceRecord]:
        """The sources of which nothing is used."""
        return [source for source in self.sources if source.skipped is not None]

    def clips(self) -> Iterator[ClipRecord]:
        """Every clip, by source."""
        for source in self.sources:
            yield from source.clips

    @property
    def totals(self) -> dict[str, int | float]:
        """Counts over all sources."""
        frames = [clip.frames for clip in self.clips()]
        dropped = [part.reason for source in self.sources for part in source.dropped]
        return {
            "sources": len(self.sources),
            "skipped": len(self.skipped),
            "truncated": sum(source.truncated for source in self.sources),
            "clips": len(frames),
            "frames": sum(frames),
            "hours": round(sum(frames) / float(self.settings["fps"]) / 3600, 4),
            "shorter_than_128_frames": sum(n < PAPER_FRAMES for n in frames),
            "dropped_short": sum(reason.startswith("shorter") for reason in dropped),
            "dropped_static": sum(reason in (STATIC, BLACK) for reason in dropped),
            "static": sum(clip.static for clip in self.clips()),
            "black": sum(clip.black for clip in self.clips()),
        }

    def save(self, root: Path) -> None:
        """Write ``manifest.json`` into `root`: at once or not at all.

        Raises:
            MachineError: it cannot be written.
        """
        content = {
            "format": "lvgan shards",
            "version": VERSION,
            "complete": self.complete,
            "lvgan": self.lvgan,
            "ffmpeg": self.ffmpeg,
            "sizes": {"lr": self.lr.folder(), "hr": self.hr.folder()},
            "settings": self.settings,
            "totals": self.totals,
            "shards": [asdict(shard) for shard in self.shards],
            "unusable": [asdict(source) for source in self.unusable],
            "cuts_file": self.cuts_file,
        }
        path = root / FILE_NAME
        partial = root / (FILE_NAME + ".partial")
        try:
            with writing(path):
                partial.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")
                os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, root: Path) -> Manifest | None:
        """The manifest in `root`; None where there is none.

        Raises:
            DataError: it is damaged, of another program, or of a later version.
        """
        path = root / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); prepare the footage again with --overwrite") from error
        if not isinstance(content, dict) or content.get("format") != "lvgan shards":
            raise DataError(f"{path} is not a manifest of lvgan; move it away or choose another folder")
        if content.get("version") != VERSION:
            raise DataError(
                f"{path} has version {content.get('version')}, and this lvgan reads {VERSION}; update lvgan"
            )
        try:
            return cls(
                lr=Size.parse(content["sizes"]["lr"]),
                hr=Size.parse(content["sizes"]["hr"]),
                settings=dict(content["settings"]),
                ffmpeg=content["ffmpeg"],
                lvgan=content["lvgan"],
                complete=bool(content["complete"]),
                shards=[ShardRecord.from_json(shard) for shard in content["shards"]],
                unusable=[SourceRecord.from_json(source) for source in content["unusable"]],
                cuts_file=str(content.get("cuts_file", "")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} lacks {error}; prepare the footage again with --overwrite") from error
