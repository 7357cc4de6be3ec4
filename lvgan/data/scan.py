"""What lies in a folder of footage: videos and folders of frames, what they are, and safe names for their clips."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lvgan.data.info import VideoInfo
from lvgan.data.pictures import SUFFIXES, list_pictures, probe_pictures
from lvgan.data.shards import find_resolutions
from lvgan.data.video import measure_duration, probe
from lvgan.errors import DataError, MediaError

# Known to be no footage: passed over without a word. Everything else is tried.
_IGNORED = (
    ".txt .md .rst .json .jsonl .yaml .yml .toml .csv .tsv .xml .html .htm .pdf .log .ini .cfg .py .sh "
    ".ipynb .nfo .srt .vtt .ass .ssa .sub .idx .lrc .zip .tar .gz .bz2 .xz .7z .rar .npy .npz .pt .pth "
    ".pkl .safetensors .db .url .torrent .md5 .sha1 .sha256 .description .annotations .thm .info"
)
IGNORED = frozenset(_IGNORED.split())
NO_FOOTAGE = frozenset({".heic", ".heif", ".cr2", ".nef", ".arw", ".dng"})  # pictures that are not read
UNFINISHED = frozenset({".part", ".crdownload", ".download", ".ytdl", ".partial", ".tmp"})

_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Source:
    """One usable video, or folder of pictures, below the folder of footage."""

    path: Path
    relative: PurePosixPath
    clip: str  # name of its clip, or of its clips without their numbers
    digest: str
    info: VideoInfo
    pictures: bool = False  # a folder of them


def scan(
    raw: Path,
    *,
    leave_out: Path,
    workers: int,
    frames_fps: float = 30,
    on_probe: Callable[[int, int], None] | None = None,
) -> tuple[list[Source], dict[str, str]]:
    """Find and examine the videos of a folder (or take a single file), in order of their paths.

    Pictures in a folder without videos are the frames of one video.

    Args:
        raw: folder or file.
        frames_fps: frames a second that pictures were taken at.
        leave_out: a folder that is not entered: where the shards go.
        workers: files examined at a time.
        on_probe: called with (files examined, files found).

    Returns:
        the usable videos, and for all others the reason, by relative path.

    Raises:
        DataError: `raw` does not exist, holds no file that could be a video, or holds shards already.
    """
    if not raw.exists():
        raise DataError(f"{raw} does not exist; give the folder that holds your videos")
    _refuse_shards(raw)
    files, reasons = _files(raw, leave_out)
    if not files and not reasons:
        raise DataError(f"{raw} holds no videos; give a folder with video files, in folders of any depth")
    folders = {relative for relative, path in files.items() if path.is_dir()}
    names = clip_names(list(files), folders)
    sources: list[Source] = []
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda path: _examine(path, frames_fps), files.values())
        for done, (relative, result) in enumerate(zip(files, results, strict=True), start=1):
            if isinstance(result, str):
                reasons[str(relative)] = result
            else:
                digest, info = result
                sources.append(
                    Source(files[relative], relative, names[relative], digest, info, pictures=relative in folders)
                )
            if on_probe is not None:
                on_probe(done, len(files))
    return sources, reasons


def _refuse_shards(raw: Path) -> None:
    for root in (raw, raw.parent):
        stored = {size: folder for size, folder in find_resolutions(root).items() if any(folder.glob("*.zip"))}
        if stored and (root == raw or raw in stored.values()):
            raise DataError(
                f"{root} holds shards already, of {' and '.join(map(str, stored))}: train on them as they are; "
                "`lvgan data resize` makes a missing resolution from a larger one"
            )


def _examine(path: Path, frames_fps: float) -> tuple[str, VideoInfo] | str:
    try:
        if path.is_dir():
            return fingerprint_pictures(path), probe_pictures(path, frames_fps)
        return fingerprint(path), probe(path)
    except MediaError as error:
        return without_path(error, path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def without_path(error: Exception, path: Path) -> str:
    """The message of an error about one file, less the file's name in front."""
    return str(error).removeprefix(str(path)).lstrip(": ")


def fingerprint(path: Path) -> str:
    """A digest of a file's size and of 34 samples of 64 KiB spread over it, first and last included."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        last = max(0, size - _SAMPLE)
        for offset in sorted({last * i // 33 for i in range(34)}):
            file.seek(offset)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def fingerprint_pictures(folder: Path) -> str:
    """A digest of the names and sizes of all pictures of a folder, and of samples of 34 of them."""
    files = list_pictures(folder)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\t{file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    for index in sorted({(len(files) - 1) * i // 33 for i in range(34)} if files else ()):
        digest.update(fingerprint(files[index]).encode())
    return digest.hexdigest()


def _files(raw: Path, leave_out: Path) -> tuple[dict[PurePosixPath, Path], dict[str, str]]:
    if raw.is_file():
        return {PurePosixPath(raw.name): raw}, {}
    """Videos, and folders of pictures, by relative path; and what cannot be used."""
    files: dict[PurePosixPath, Path] = {}
    reasons: dict[str, str] = {}
    for folder, names in _walk(raw, leave_out.resolve()):
        pictures, others = 0, 0
        place = PurePosixPath(folder.relative_to(raw).as_posix())
        for name in names:
            path, suffix = folder / name, os.path.splitext(name)[1].lower()
            relative = place / name
            pictures += suffix in SUFFIXES
            if suffix in UNFINISHED:
                reasons[str(relative)] = "is an unfinished download; finish it or rename it"
            elif suffix in NO_FOOTAGE:
                reasons[str(relative)] = "is a picture of a kind that is not read; convert it to PNG or JPEG"
            elif suffix not in IGNORED and suffix not in SUFFIXES:
                others += 1
                if path.is_file():
                    files[relative] = path
                else:
                    reasons[str(relative)] = "is not a file (a broken link, a pipe or a device)"
        if pictures and others:
            noun = "picture" if pictures == 1 else "pictures"
            reasons[f"{place}/"] = (
                f"holds {pictures} {noun} beside videos, taken for thumbnails; frames need a folder of their own"
            )
        elif pictures:
            files[place if place.parts else PurePosixPath(raw.resolve().name or "frames")] = folder
    return dict(sorted(files.items(), key=lambda item: str(item[0]))), reasons


def _walk(raw: Path, leave_out: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names in them, links to folders followed once; hidden ones are left out."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(raw, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        kept = [d for d in folders if not d.startswith(".") and (Path(folder) / d).resolve() != leave_out]
        folders[:] = sorted(kept)
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


# --- names ----------------------------------------------------------------------------------------


def clip_names(sources: Sequence[PurePosixPath], folders: Collection[PurePosixPath] = ()) -> dict[PurePosixPath, str]:
    """A name for each source's clips: its path (a file's without suffix), legal in zip files and on every system.

    Letters and digits of any script, ``.``, ``-`` and ``_`` stay; anything else becomes ``_``. Where two
    would be the same but for case, both get the first digits of a digest of their path.
    """
    names = {s: "/".join(_safe(part) for part in (*s.parts[:-1], s.name if s in folders else s.stem)) for s in sources}
    count = Counter(name.casefold() for name in names.values())
    for source, name in names.items():
        if count[name.casefold()] > 1:
            names[source] = f"{name}~{_digest(str(source))}"
    return names


def _safe(part: str) -> str:
    text = unicodedata.normalize("NFC", part)
    text = "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
    if text[0] in ".-":
        text = "_" + text[1:]
    if text[-1] == ".":
        text = text[:-1] + "_"
    return text if len(text) <= 80 else f"{text[:80]}~{_digest(part)}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def length_of(source: Source) -> float | None:
    """Seconds of video, measured where the file does not say; None if that fails too."""
    if source.info.duration is not None:
        return source.info.duration
    try:
        return measure_duration(source.path)
    except MediaError:
        return None
