"""What `prepare` leaves for people beside the shards: ``cuts.yaml`` and the page of the report."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lvgan.data.manifest import ClipRecord, Manifest, SourceRecord
from lvgan.data.report import ReportClip, VideoParts, thumbnail, write_cuts_yaml, write_report
from lvgan.data.scenes import Cut
from lvgan.data.shards import ShardFolder
from lvgan.errors import ConfigError, DataError

CUTS_FILE = "cuts.yaml"


def check_cuts_file(out: Path) -> None:
    """Raise :class:`DataError` where ``cuts.yaml`` was edited and would be written over."""
    path = out / CUTS_FILE
    if not path.is_file():
        return
    manifest = None
    try:
        manifest = Manifest.load(out)
    except DataError:
        return  # said by others, better
    if manifest is not None and manifest.cuts_file not in ("", hashlib.sha256(path.read_bytes()).hexdigest()):
        raise DataError(f"{path} was edited; give --cuts {path} to use it, or remove it to have it written anew")


def check_report(report: str | os.PathLike[str]) -> Path:
    """The path of the report, if a file can be there; raised before any work."""
    path = Path(report)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name an HTML file for the report")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"the report {path} is a page; give it a name that ends in .html")
    return path


def write_cuts(path: Path, manifest: Manifest) -> None:
    """Every source with the parts that are used, for ``--cuts``."""
    fps = float(manifest.settings["fps"])
    used = [source for source in manifest.sources if source.clips or source.dropped]
    write_cuts_yaml(path, [_parts(source) for source in used], fps)


def _parts(source: SourceRecord) -> VideoParts:
    kept = sorted((clip.start, clip.start + clip.frames) for clip in source.clips)
    cuts = [Cut(start, end, kind) for start, end, kind in source.cuts]
    dropped = {(part.start, part.end): part.reason for part in source.dropped}
    return VideoParts(source.path, kept, cuts, dropped)


def write_page(path: Path, out: Path, manifest: Manifest) -> None:
    """The report: the first and last frame of every clip, read from the shards of the high resolution."""
    stored = ShardFolder(out / manifest.hr.folder(), manifest.hr)
    fps = float(manifest.settings["fps"])
    clips = [_report_clip(source, clip, stored, fps) for source in manifest.sources for clip in source.clips]
    skipped = {source.path: source.skipped for source in manifest.skipped if source.skipped is not None}
    for source in manifest.sources:
        for part in source.dropped if source.skipped is None else ():
            skipped[f"{source.path}, {part.start / fps:.1f} s to {part.end / fps:.1f} s"] = part.reason
    write_report(path, f"{out.absolute().name}: {len(clips)} clips", clips, skipped)


def _report_clip(source: SourceRecord, clip: ClipRecord, stored: ShardFolder, fps: float) -> ReportClip:
    ends = [thumbnail(stored.read(clip.name, number, 1)[0]) for number in (0, clip.frames - 1)]
    marks = [word for word, is_so in (("static", clip.static), ("black", clip.black)) if is_so]
    start, end = clip.start / fps, (clip.start + clip.frames) / fps
    return ReportClip(clip.name, source.path, start, end, clip.frames, ends[0], ends[1], marks, clip.begins, clip.ends)
