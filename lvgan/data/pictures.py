"""Folders of pictures as footage: one picture a frame, in natural order of their names."""

from __future__ import annotations

import itertools
import os
import re
import statistics
import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lvgan.data.filters import Region, Span, centre, frame_numbers
from lvgan.data.info import LARGEST_PICTURE, VideoInfo, too_large
from lvgan.errors import MediaError
from lvgan.files import natural_key
from lvgan.sizes import Size

Frame = NDArray[np.uint8]  # [H, W, 3]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError, struct.error, zlib.error,
    UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in natural order; hidden files, links to nowhere, pipes and devices left out."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.name[0] != "." and entry.is_file()
        ]
    return [folder / name for name in sorted(names, key=natural_key)]


def missing_numbers(folder: Path) -> str | None:
    """What is to be said where the numbers in the names of a folder's pictures leave some out; else None."""
    numbers = [int(m[1]) for m in (re.search(r"([0-9]{1,15})$", file.stem) for file in list_pictures(folder)) if m]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if not steps or min(steps) < 1:  # no one row of numbers
        return None
    usual = statistics.mode(steps)
    gaps = [i for i, step in enumerate(steps) if step > usual]
    if not gaps or 2 * steps.count(usual) < len(steps):  # such as times of day
        return None
    first = gaps[0]
    more = f", and in {len(gaps) - 1} more places" if len(gaps) > 1 else ""
    return f"its pictures' numbers leave some out, between {numbers[first]} and {numbers[first + 1]}{more}"


def probe_pictures(folder: Path, fps: float) -> VideoInfo:
    """What a folder of pictures holds, seen as a video of so many frames a second.

    Raises:
        MediaError: none of its pictures can be opened.
    """
    files = list_pictures(folder)
    problem = "it holds no picture"
    for file in files:
        try:
            with _open(file) as image:
                turned = image.getexif().get(0x0112, 1) >= 5
                width, height = image.size[::-1] if turned else image.size
                return VideoInfo(width, height, fps, len(files) / fps, "pictures", image.mode)
        except _UNREADABLE as error:
            problem = problem if file is not files[0] else _reason(file, error)
    raise MediaError(f"{folder}: none of its pictures can be opened ({problem})")


def sample_pictures(folder: Path, count: int = 12) -> list[Frame]:
    """A few pictures spread over the folder: uint8 [H, W, 3]. What cannot be decoded is left out."""
    files = list_pictures(folder)
    found: list[Frame] = []
    for index in sorted({len(files) * i // count for i in range(count)}):
        try:
            found.append(np.asarray(_load(files[index])))
        except _UNREADABLE:
            continue
    return [frame for frame in found if frame.shape == found[0].shape]


class PictureReader:
    """The pictures of a folder as frames: used as `lvgan.data.video.FrameReader` is.

    At `files_fps` equal to `fps` every picture comes once; otherwise they are repeated or left out as
    ffmpeg's filter `fps` does it. A picture that cannot be read, or is of another size than the first, is
    left out and counted in `breaks`.

    Args:
        sizes: the centre is cropped to each size's aspect ratio and scaled with Lanczos.
        spans: intervals in seconds, ascending and apart.
        region: the part of the pictures that counts.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Sequence[Size],
        *,
        fps: float,
        files_fps: float | None = None,
        spans: Sequence[Span] | None = None,
        region: Region | None = None,
    ) -> None:
        self.path, self.number, self.span, self.breaks = folder, -1, 0, 0
        self.damage: str | None = None
        self.info = probe_pictures(folder, files_fps or fps)
        self._files = list_pictures(folder)
        self._sizes, self._region = sizes, region
        self._plan = _plan(len(self._files), fps, files_fps or fps, spans)
        self._size: tuple[int, int] | None = None
        self._last: tuple[int, tuple[Frame, ...] | None] = (-1, None)
        self._bad: dict[int, str] = {}
        self._given = 0

    def __iter__(self) -> PictureReader:
        return self

    def __next__(self) -> tuple[Frame, ...]:
        for number, span, index in self._plan:
            if self._last[0] != index:
                self._last = (index, self._decode(index))
            pictures = self._last[1]
            if pictures is None:
                self.breaks = len(self._bad)
                continue
            self.number, self.span = number, span
            self._given += 1
            return pictures
        self._finish()
        raise StopIteration

    def _decode(self, index: int) -> tuple[Frame, ...] | None:
        file = self._files[index]
        try:
            image = _load(file)
            self._size = self._size or image.size
            if image.size != self._size:
                raise ValueError(f"is {image.size[0]}x{image.size[1]} pixels, not {self._size[0]}x{self._size[1]}")
            return tuple(_scaled(image, size, self._region) for size in self._sizes)
        except _UNREADABLE as error:
            self._bad[index] = _reason(file, error)
            return None

    def _finish(self) -> None:
        if not self._bad:
            return
        first = self._bad[min(self._bad)]
        if not self._given:
            raise MediaError(f"{self.path}: none of its pictures can be used ({first})")
        count = len(self._bad)
        self.damage = f"{count} of its {len(self._files)} pictures cannot be used ({first})"

    def kill(self) -> None:
        """From another thread: come to the end."""
        self._plan = iter(())

    def close(self) -> None:
        """Nothing stays open."""

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plan(files: int, fps: float, files_fps: float, spans: Sequence[Span] | None) -> Iterator[tuple[int, int, int]]:
    """(number at the constant rate, index of its span, index of its picture)."""
    rate, own = Fraction(fps).limit_denominator(1001), Fraction(files_fps).limit_denominator(1001)
    # Picture i is shown from the frame that its time rounds to, until the next one is.
    total = _round(files * rate / own)
    for index, (first, stop) in enumerate(frame_numbers(spans or [(0.0, None)], fps)):
        picture = max(0, int(first * own / rate) - 2)
        for number in range(first, total if stop is None else min(stop, total)):
            while picture + 1 < files and _round((picture + 1) * rate / own) <= number:
                picture += 1
            yield number, index, picture


def _round(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


def _open(file: Path) -> Image.Image:
    image = Image.open(file, formats=_FORMATS)
    if image.size[0] * image.size[1] > LARGEST_PICTURE:
        image.close()
        raise ValueError(too_large(*image.size))
    return image


def _load(file: Path) -> Image.Image:
    """A picture, upright, as RGB of 8 bits; transparency is ignored."""
    with _open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits of grey
            return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert(
                "RGB"
            )
        if image.mode == "F":
            raise ValueError("holds floating-point numbers; convert it to 8 or 16 bits")
        if image.mode == "P":
            image = image.convert("RGBA")
        return image.convert("RGB")


def _scaled(image: Image.Image, size: Size, region: Region | None) -> Frame:
    whole = region or Region(image.width, image.height, 0, 0)
    if whole.x + whole.width > image.width or whole.y + whole.height > image.height:
        raise ValueError(f"is {image.width}x{image.height} pixels, too small for the crop")
    part = centre(Size(whole.height, whole.width), size)
    left, top = whole.x + part.x, whole.y + part.y
    box = (left, top, left + part.width, top + part.height)
    # reducing_gap: whole pixels are averaged first where the picture is more than three times too large.
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))


def picture_problem(error: BaseException) -> str | None:
    """Pillow's complaints of its own kinds, put for people; None for another."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture, or of an unknown format"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "it claims to be larger than a picture can be"
    return None


def _reason(file: Path, error: BaseException) -> str:
    said = picture_problem(error) or str(error).replace(str(file), "it")
    return f"{file.name} {said}" if isinstance(error, ValueError) else f"{file.name}: {said}"
