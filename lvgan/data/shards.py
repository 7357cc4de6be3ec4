"""The stored format: clips of frames in uncompressed zip files, one folder a resolution (spec 3-data).

::

    0064x0064/partition_0000.zip    bike ride/frame_000000.jpg ... frame_paths.json
    0256x0256/partition_0000.zip    the same clips under the same names

``frame_paths.json`` holds ``{clip path: [frame file names in order]}``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lvgan.data.writers import sync_and_close
from lvgan.errors import DataError
from lvgan.files import ZIP_DAMAGE, natural_key, writing
from lvgan.sizes import Size

Frames = NDArray[np.uint8]  # [T, H, W, 3] or [T, H, W, 1]

FRAME_PATHS = "frame_paths.json"
PICTURES = (".jpg", ".jpeg", ".png")
_LISTING_BYTES = 1 << 28  # more than ten million frame names; what unpacks to more is no list


def shard_name(index: int) -> str:
    """``partition_0000.zip`` and so on."""
    return f"partition_{index:04d}.zip"


def find_resolutions(root: Path) -> dict[Size, Path]:
    """The folders of `root` that are named like a resolution, smallest first."""
    found: dict[Size, Path] = {}
    if root.is_dir():
        for folder in root.iterdir():
            match = re.fullmatch(r"(\d{4})x(\d{4})", folder.name, flags=re.ASCII)
            if match and folder.is_dir() and int(match[1]) and int(match[2]):
                found[Size(int(match[1]), int(match[2]))] = folder
    return dict(sorted(found.items(), key=lambda item: (item[0].height * item[0].width, item[0])))


# --- write ----------------------------------------------------------------------------------------


def encode_jpeg(frame: NDArray[np.uint8]) -> bytes:
    """A frame [H, W, 3] as JPEG: quality 100, no chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


class ShardWriter:
    """Writes one shard: the same clips in the same bytes make the same file.

    The file has its name only once it is complete. A context manager, as :class:`VideoWriter` is.

    Attributes:
        digest: once finished: of names, order and contents of all frames (:func:`clips_digest`).

    Raises:
        MachineError: the place cannot be written or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = ""
        self._partial = path.with_name(path.name + ".partial")
        self._clips: dict[str, list[str]] = {}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._partial, "wb")  # noqa: SIM115  (closed by close or abort)
        self._zip: zipfile.ZipFile | None = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)

    def add(self, clip: str, picture: bytes, name: str | None = None) -> None:
        """Append a frame to a clip, called `name` or ``frame_000000.jpg`` and so on.

        The frames of a clip come one after the other.
        """
        names = self._clips.setdefault(clip, [])
        names.append(name or f"frame_{len(names):06d}.jpg")
        self._store(f"{clip}/{names[-1]}" if clip else names[-1], picture)

    def drop(self, clip: str) -> None:
        """Take back the frames of the last clip."""
        count = len(self._clips.pop(clip, ()))
        if not count:
            return
        assert self._zip is not None
        gone = self._zip.filelist[-count:]
        del self._zip.filelist[-count:]
        for info in gone:
            del self._zip.NameToInfo[info.filename]
        # Where zipfile goes on writing, and where it will put its directory.
        self._zip.start_dir = gone[0].header_offset
        with writing(self.path):
            self._file.seek(gone[0].header_offset)
            self._file.truncate()

    def finish(self, comment: bytes = b"") -> int:
        """Write the rest, and `comment` into the archive; the size in bytes.

        :meth:`commit` then gives the file its name.
        """
        self._store(FRAME_PATHS, json.dumps(self._clips, ensure_ascii=False).encode())
        assert self._zip is not None
        with writing(self.path):
            self._zip.comment = comment
            self._zip.close()
            self._zip = None
            sync_and_close(self._file)
            self.digest = clips_digest(index_shard(self._partial))
            return self._partial.stat().st_size

    def commit(self) -> None:
        """Give the finished file its name."""
        with writing(self.path):
            os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Stop, and remove what was written. Does nothing after :meth:`commit`."""
        for thing in (self._zip, self._file):
            if thing is not None:
                with contextlib.suppress(OSError, ValueError):  # a full disk shows once more
                    thing.close()
        self._zip = None
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _store(self, name: str, content: bytes) -> None:
        if self._zip is None:
            raise ValueError(f"{self.path} is finished")
        info = zipfile.ZipInfo(name)  # dated 1980, always
        info.create_system = 3
        info.external_attr = 0o644 << 16
        with writing(self.path):
            self._zip.writestr(info, content)


# --- read -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredClip:
    """Where the frames of a clip lie: a row of `members` is header offset, stored bytes, CRC, method."""

    name: str
    shard: Path
    members: NDArray[np.int64]  # [T, 4]
    names: tuple[str, ...]  # of the frames, in order

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.members)


class ShardFolder:
    """All clips of one resolution, read by any number of threads; can be pickled.

    Takes published sets as downloaded: any number of partitions, JPEG or PNG, members in any order,
    with or without ``frame_paths.json``. Nothing stays open between two reads.

    Args:
        folder: such as ``data/0064x0064``.
        size: of the frames; what the folder's name says.

    Raises:
        DataError: no shard, a damaged one, or two clips of one name.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size
        self.clips: dict[str, StoredClip] = {}
        shards = sorted(folder.glob("*.zip"))
        if not shards:
            raise DataError(f"{folder} holds no zip files; it should hold {shard_name(0)} and so on")
        for shard in shards:
            for clip in index_shard(shard):
                if clip.name in self.clips:
                    other = self.clips[clip.name].shard
                    raise DataError(f"clip {clip.name!r} stands in {other} and in {shard.name}; remove one of them")
                self.clips[clip.name] = clip
        self.clips = dict(sorted(self.clips.items()))

    @classmethod
    def of(cls, folder: Path, size: Size, clips: Mapping[str, StoredClip]) -> ShardFolder:
        """Some clips of a folder, found before: for reading what is left of a damaged one."""
        shards = cls.__new__(cls)
        shards.folder, shards.size, shards.clips = folder, size, dict(clips)
        return shards

    def read(self, name: str, start: int, count: int, channels: int = 3, stride: int = 1) -> Frames:
        """`count` frames of a clip from `start` on, every `stride`-th: uint8 [T, H, W, channels], RGB or grey.

        Raises:
            DataError: a damaged shard, or a frame of another size.
            ValueError: an unknown clip, or frames beyond its ends.
        """
        clip, stop = self.check_range(name, start, count, stride), start + (count - 1) * stride + 1
        frames = np.empty((count, *self.size, channels), np.uint8)
        rows = clip.members[start:stop:stride].tolist()
        with _reading(clip, start), open(clip.shard, "rb", buffering=0) as file:
            for i, member in enumerate(rows):
                content = _extract(file, member, self._most_bytes)
                frames[i] = self._decode(content, channels, clip, start + i * stride)
        return frames

    def check_range(self, name: str, start: int, count: int, stride: int = 1) -> StoredClip:
        """The clip, if it holds these frames.

        Raises:
            ValueError: it does not, or there is none of that name.
        """
        clip = self.clips.get(name)
        if clip is None:
            raise ValueError(f"no clip {name!r} in {self.folder}")
        stop = start + (count - 1) * stride + 1
        if start < 0 or count < 1 or stride < 1 or stop > clip.frames:
            raise ValueError(f"frames {start} to {stop} of clip {name!r}, which has {clip.frames}")
        return clip

    @property
    def _most_bytes(self) -> int:
        # A PNG of 16 bits and four channels is the largest that such a picture can honestly be, plus its notes.
        return 8 * self.size.height * (self.size.width + 1) + (1 << 22)

    def _decode(self, content: bytes, channels: int, clip: StoredClip, number: int) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                width, height = image.size
                if (height, width) != self.size:  # said by the header: nothing large is unpacked first
                    raise DataError(
                        f"frame {number} of {clip.name!r} in {clip.shard} is {height}x{width}, and its folder's "
                        f"name says {self.size}; rename the folder or prepare the set again"
                    )
                picture = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        except _NO_PICTURE as error:
            raise _damaged(clip.shard, f"frame {number} of {clip.name!r} is no picture{_why(error)}") from error
        return picture if channels == 3 else picture[:, :, None]


_NO_PICTURE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def _why(error: BaseException) -> str:
    # Pillow names the buffer in memory.
    return "" if isinstance(error, UnidentifiedImageError) else f": {error}"


@contextlib.contextmanager
def _reading(clip: StoredClip, start: int) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _damaged(clip.shard, f"frame {start} of {clip.name!r} and those after it: {error}") from error


def _extract(file: Any, member: Sequence[int], most: int) -> bytes:
    offset, size, crc, method = member
    if size > most:
        raise EOFError(f"{size} bytes for one frame")
    # The local header's length is known only once it is read; 64 bytes of extra fields are usual at most.
    guess = 30 + 256 + 64 + size
    file.seek(offset)
    data = file.read(guess)
    if data[:4] != b"PK\x03\x04":
        raise EOFError("no frame where the index says")
    name, extra = struct.unpack_from("<HH", data, 26)
    begin = 30 + name + extra
    if begin + size > len(data):
        data += file.read(begin + size - len(data))
    content = data[begin : begin + size]
    if method == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-15).decompress(content, most + 1)
        if len(content) > most:
            raise EOFError(f"it unpacks to more than {most} bytes")
    if zlib.crc32(content) != crc:
        raise EOFError("checksum differs")
    return content


def _damaged(shard: Path, what: str) -> DataError:
    return DataError(f"{shard} is damaged ({what}); download or prepare it again")


def index_shard(shard: Path) -> list[StoredClip]:
    """The clips of one shard, in stored order. Reads its directory and ``frame_paths.json``, no frame.

    Raises:
        DataError: the shard is damaged, its list is wrong or does not match what it holds, or a name in
            it points out of its folder.
    """
    try:
        with zipfile.ZipFile(shard) as archive:
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            listed = _read_listing(archive, shard) if FRAME_PATHS in members else _listing(members)
    except (OSError, *ZIP_DAMAGE) as error:  # RuntimeError: JSON that is nested without end, too
        raise _damaged(shard, str(error)) from error
    return [_stored(shard, members, clip, names) for clip, names in listed.items()]


def _read_listing(archive: zipfile.ZipFile, shard: Path) -> dict[str, list[str]]:
    with archive.open(FRAME_PATHS) as file:
        content = file.read(_LISTING_BYTES + 1)
    if len(content) > _LISTING_BYTES:
        raise _damaged(shard, f"{FRAME_PATHS} unpacks to more than {_LISTING_BYTES >> 20} MB")
    listed = json.loads(content)
    if not isinstance(listed, dict):
        raise _damaged(shard, f"{FRAME_PATHS} holds no clips")
    for clip, names in listed.items():
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise _damaged(shard, f"{FRAME_PATHS} gives {clip!r} no list of frame names")
    return listed


def _stored(shard: Path, members: dict[str, zipfile.ZipInfo], clip: str, names: list[str]) -> StoredClip:
    for name in (clip, *names):
        if _leaves(name):
            raise _damaged(shard, f"the name {name!r} points out of its folder")
        if not _is_text(name):
            raise _damaged(shard, f"the name {name!r} cannot be the name of a file")
    rows = [_row(shard, members, clip, name) for name in names]
    short = tuple(name.removeprefix(f"{clip}/") for name in names)
    return StoredClip(clip, shard, np.array(rows, np.int64).reshape(-1, 4), short)


def _leaves(name: str) -> bool:
    """Whether a member's name, written out as a file, could lie outside the folder it is written to."""
    return (
        name.startswith(("/", "\\"))
        or "\0" in name
        or bool(re.match(r"[A-Za-z]:[/\\]", name))
        or (".." in re.split(r"[/\\]", name))
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character, as JSON can write it
        return False
    return True


def _row(shard: Path, members: dict[str, zipfile.ZipInfo], clip: str, name: str) -> tuple[int, int, int, int]:
    info = members.get(f"{clip}/{name}") or members.get(name)
    if info is None:
        raise _damaged(shard, f"{FRAME_PATHS} names {f'{clip}/{name}'!r}, which is not there")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise DataError(
            f"{shard} is encrypted or compressed in a way that cannot be read frame by frame; store it uncompressed"
        )
    return info.header_offset, info.compress_size, info.CRC, info.compress_type


def doubled_members(shard: Path) -> list[str]:
    """Names under which an archive holds several files, of which only the last is ever read."""
    with zipfile.ZipFile(shard) as archive:
        return sorted(name for name, count in Counter(archive.namelist()).items() if count > 1)


def order_differs(one: StoredClip, other: StoredClip) -> str | None:
    """Where the frames of a clip at two resolutions are not the same ones: what is found there.

    Names are compared without their suffixes. None where they agree, or have nothing in common, so that they
    say nothing about each other.
    """
    if one.names == other.names:
        return None
    a, b = ([name.rpartition(".")[0] for name in clip.names] for clip in (one, other))
    if a == b or set(a).isdisjoint(b):
        return None
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    found = [repr(clip.names[at]) if at < clip.frames else "missing" for clip in (one, other)]
    return f"frame {at} is {found[0]} in {one.shard.parent.name} and {found[1]} in {other.shard.parent.name}"


def shard_comment(path: Path) -> bytes:
    """The comment of an archive; empty where there is none, or no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment
    except (OSError, *ZIP_DAMAGE):
        return b""


def clips_digest(clips: Iterable[StoredClip]) -> str:
    """A digest of names, order and contents (their checksums) of all frames of some clips. Reads no frame."""
    digest = hashlib.sha256()
    for clip in sorted(clips, key=lambda clip: clip.name):
        digest.update(json.dumps([clip.name, clip.names]).encode())
        digest.update(np.ascontiguousarray(clip.members[:, 2]).astype("<i8").tobytes())
    return digest.hexdigest()


def _listing(names: Iterable[str]) -> dict[str, list[str]]:
    """What ``frame_paths.json`` would say: folders of pictures, in the order of their numbers."""
    clips: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if file.lower().endswith(PICTURES) and not file.startswith("."):
            clips.setdefault(folder, []).append(file)
    return {clip: sorted(files, key=natural_key) for clip, files in clips.items()}
