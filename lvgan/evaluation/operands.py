"""What is named on the command line of ``lvgan eval`` as sources of clips, all of one size.

::

    [LABEL=]WHAT            WHAT is shards, a video, a folder of videos or of frames, a .npy array,
                            a checkpoint, a run, a folder of runs (its newest ones) or a bundle
    [LABEL=]LOW+SR          LOW is any of these, SR a super-resolution checkpoint, run or bundle:
                            lr.pt+sr.pt is both networks, shards+sr.pt super-resolution of real frames
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from lvgan import checkpoint as ckpt
from lvgan.config import USUAL_FPS
from lvgan.data.shards import find_resolutions
from lvgan.data.video import probe
from lvgan.errors import ConfigError, DataError, MediaError
from lvgan.evaluation.models import ModelSource, UpscaledSource
from lvgan.evaluation.sources import (
    ArraySource,
    ClipSource,
    FrameFolderSource,
    ShardSource,
    StoredSource,
    StoredVideos,
    VideoSource,
    open_source,
)
from lvgan.generate.generators import load_sr
from lvgan.sizes import Size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operand:
    """One operand, taken apart.

    Attributes:
        text: as it was written.
        label: given or made up.
        what: shards, a checkpoint ...; low resolution where there is an `sr`.
        sr: a super-resolution checkpoint, run or bundle.
        named: the label was given.
    """

    text: str
    label: str
    what: Path
    sr: Path | None
    named: bool

    @classmethod
    def parse(cls, text: str) -> Operand:
        """Take an operand apart; a path that exists is never taken apart.

        Raises:
            ConfigError: empty, or + without both sides.
        """
        label, rest = split_label(text)
        low, sr = _split_pair(rest)
        if not low or sr == "":
            raise ConfigError(f"{text!r} was given, but [LABEL=]PATH or [LABEL=]LOW+SR was expected; see --help")
        what, second = Path(low), None if sr is None else Path(sr)
        made_up = _name(what) if second is None else f"{_name(what)} + {_name(second)}"
        return cls(text, label or made_up, what, second, label is not None)

    @property
    def is_model(self) -> bool:
        """A network takes part in it."""
        return self.sr is not None or is_checkpoint(self.what)


def split_label(text: str) -> tuple[str | None, str]:
    """``LABEL=PATH`` as its parts; a file whose name holds a = is a path."""
    label, equals, path = text.partition("=")
    return (label.strip(), path) if equals and label.strip() and not Path(text).exists() else (None, text)


def _split_pair(text: str) -> tuple[str, str | None]:
    """``LOW+SR`` at the + that leaves two paths which exist, else at the first one."""
    if Path(text).exists() or "+" not in text:
        return text, None
    places = [i for i, letter in enumerate(text) if letter == "+"]
    parts = [(text[:i], text[i + 1 :]) for i in places]
    there = [pair for pair in parts if all(part and Path(part).exists() for part in pair)]
    return (there or parts)[0]


def _name(path: Path) -> str:
    return path.stem if path.is_file() or path.suffix == ".pt" else path.absolute().name or str(path)


def is_checkpoint(path: Path) -> bool:
    """A checkpoint file, a run, a folder of checkpoints or a folder of runs."""
    if path.suffix == ".pt" or (path / "checkpoints").is_dir():
        return True
    if not path.is_dir() or find_resolutions(path):
        return False
    return any(path.glob("*.pt")) or any(path.glob("*/checkpoints")) or any(path.glob("runs/*/checkpoints"))


def parse_all(texts: Sequence[str]) -> list[Operand]:
    """Operands with labels that differ: made-up ones that do not are replaced by what was written.

    Raises:
        ConfigError: no operand, or a label given twice.
    """
    if not texts:
        raise ConfigError("nothing to measure was named: give shards, a run, a video or a folder; see --help")
    operands = [Operand.parse(text) for text in texts]
    counts = Counter(operand.label for operand in operands)
    operands = [op if op.named or counts[op.label] == 1 else replace(op, label=op.text) for op in operands]
    for label, count in Counter(operand.label for operand in operands).items():
        if count > 1:
            raise ConfigError(f"{count} operands are called {label!r}: give each a label of its own, as in NAME=PATH")
    return operands


def open_operands(
    texts: Sequence[str], device: torch.device, size: Size | None = None, fps: float | None = None
) -> list[ClipSource]:
    """A source for each operand, all of one size.

    Args:
        texts: operands as the module says.
        device: for networks.
        size: that all are fitted to. Where not given, the size of the smallest network; without a network, that of
            the smallest source.
        fps: that videos are brought to. Where not given, that of the first network or shards, or 30.

    Raises:
        ConfigError: an operand that cannot be taken apart, or a label given twice.
        DataError, CheckpointError: one that does not exist or cannot be used.
    """
    operands = parse_all(texts)
    for operand in operands:
        for path in (operand.what, *([] if operand.sr is None else [operand.sr])):
            if not path.exists():
                raise DataError(
                    f"{path} does not exist: give shards, a checkpoint, a run, a video or a folder of videos or frames"
                )
    opened: dict[str, ClipSource] = {op.text: _open_model(op, device) for op in operands if op.is_model}
    sizes = [native_size(source) for source in opened.values()]
    opened |= {op.text: _open_stored(op.what, op.label, None) for op in operands if not op.is_model}
    if size is None:
        size = _smallest(sizes or [native_size(source) for source in opened.values()])
    sources = [_fitted(operand, opened[operand.text], size) for operand in operands]
    _pace(sources, fps)
    return sources


def _pace(sources: Sequence[ClipSource], fps: float | None) -> None:
    """Bring videos to the rate of the others, whose frames are what they are."""
    fixed = [source for source in sources if isinstance(_stored(source), ModelSource | ShardSource)]
    for source in fixed[1:]:
        if source.fps != fixed[0].fps:
            log.warning(
                "%s has %g frames a second and %s %g: they are compared frame by frame, not second by second",
                source.label, source.fps, fixed[0].label, fixed[0].fps,
            )  # fmt: skip
    rate = fps or (fixed[0].fps if fixed else USUAL_FPS)
    for source in sources:
        stored = _stored(source)
        if isinstance(stored, StoredVideos) and not isinstance(stored, ShardSource):
            stored.fps = rate


def _stored(source: ClipSource) -> ClipSource:
    """Where its frames are from; super-resolution has the rate of its input."""
    return source.low if isinstance(source, UpscaledSource) else source


def _smallest(sizes: Sequence[Size]) -> Size:
    return min(sizes, key=lambda size: (size.height * size.width, size))


def _open_model(operand: Operand, device: torch.device) -> ModelSource | UpscaledSource:
    if operand.sr is None:
        # A folder of runs is its newest low-resolution run with its newest super-resolution one.
        path = ckpt.find_pair(operand.what, None)[0]
        if ckpt.load(path)["stage"] == "sr":
            return UpscaledSource(path, device, operand.label)
        return ModelSource(operand.what, None, device, operand.label)
    if is_checkpoint(operand.what):
        return ModelSource(operand.what, operand.sr, device, operand.label)
    _, low_size = load_sr(operand.sr, device)
    low = _open_stored(operand.what, operand.label, low_size)
    return UpscaledSource(operand.sr, device, operand.label, low)


def _open_stored(path: Path, label: str, size: Size | None) -> StoredSource:
    """Footage, fitted to `size`; of shards the smallest resolution that is not smaller."""
    if size is not None and path.is_dir():
        found = find_resolutions(path)
        larger = [known for known in found if known.height >= size.height and known.width >= size.width]
        if found and size not in found:
            return ShardSource(path, label, next(iter(larger), None), fit=size)
        if not found and find_resolutions(path.absolute().parent) and any(path.glob("*.zip")):
            return ShardSource(path, label, fit=size)
    source = open_source(path, label=label, size=size)
    assert source is not None  # checkpoints were taken out before
    return source


def _fitted(operand: Operand, source: ClipSource, size: Size) -> ClipSource:
    """The source at `size`; enlarging is told, since it shows as a lack of detail in any score."""
    native = native_size(source)
    if isinstance(source, ModelSource | UpscaledSource):
        source.size = size
    else:
        stored = source = _open_stored(operand.what, operand.label, size)
        native = stored.native = stored.native or native
    if native.height < size.height or native.width < size.width:
        log.warning("%s is %s and is enlarged to %s: it will lack detail", operand.label, native, size)
    return source


def native_size(source: ClipSource) -> Size:
    """The size at which a source is stored or made; of videos or frames of many sizes, the first.

    Raises:
        DataError: nothing of it can be read.
    """
    if isinstance(source, ModelSource | UpscaledSource):
        return source.native
    if isinstance(source, ShardSource):
        assert source.native is not None
        return source.native
    if isinstance(source, ArraySource):
        height, width = source.videos.shape[2:4]
        return Size(height, width)
    if isinstance(source, FrameFolderSource):
        return _picture_size(source.folders[0][0])
    assert isinstance(source, VideoSource)  # the last of them
    for path in source.files:
        try:
            info = probe(path)
        except MediaError as error:
            if len(source.files) == 1:
                raise
            log.debug("%s", error)
        else:
            return Size(info.height, info.width)
    raise DataError(f"{source.path} holds {len(source.files)} videos, none of which can be read: give another folder")


def _picture_size(path: Path) -> Size:
    try:
        with Image.open(path) as picture:
            return Size(picture.height, picture.width)
    except OSError as error:
        raise DataError(f"{path} is not a readable picture ({error}): replace or remove it") from error
