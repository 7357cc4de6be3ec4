"""What a run writes while it trains: ``log.jsonl``, which holds everything, and TensorBoard's copy of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lvgan.errors import MachineError

GIF_FRAMES = 64  # a clip in TensorBoard: at most so many of its frames, evenly spread
GIF_WIDTH = 384  # pixels


class Tracker(Protocol):
    """Another place that the log is sent to (:mod:`lvgan.training.wandb_log`). Its methods do not raise."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Numbers of a step."""
        ...

    def show(self, step: int, files: dict[str, Path]) -> None:
        """Pictures and videos of a step, by title."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class RunLog:
    """Appends one JSON object a logged step to ``log.jsonl``, and the same numbers to TensorBoard.

    What is measured at a preview comes as a line of its own, with the same step.
    Opened at `step` it drops lines of later steps: they belong to work that is done again.
    """

    def __init__(self, folder: Path, step: int, tracker: Tracker | None = None) -> None:
        self.path = folder / "log.jsonl"
        self._tracker = tracker
        with _machine_errors(self.path):
            self._truncate(step)
            self._file = self.path.open("a", encoding="utf-8")
            self._board = _Board(folder / "tensorboard", step)

    def _truncate(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [line for line in _lines(self.path) if _step_of(line) <= step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self.path)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log `values` for `step`."""
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        with _machine_errors(self.path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            self._board.write(step, numbers)
        if self._tracker is not None:
            self._tracker.write(step, numbers)

    def show(self, step: int, files: dict[str, Path]) -> None:
        """Pictures (``.png``) and clips (any video) of `step`, by title.

        Raises:
            LvganError, OSError: a file cannot be read, or the disk is full.
        """
        self._board.show(step, files)
        if self._tracker is not None:
            self._tracker.show(step, files)

    def close(self) -> None:
        """Close all."""
        with contextlib.suppress(OSError):  # what matters was flushed, or has been reported
            self._file.close()
        with contextlib.suppress(OSError):
            self._board.close()
        if self._tracker is not None:
            self._tracker.close()


class _Board:
    """TensorBoard's format, written at once: its own writer does so in a thread, where errors get lost."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000:019d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Steps after this one were done before, and are done again.
        restart = SessionLog(status=SessionLog.SessionStatus.START)
        self._put(Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._summary(step, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def show(self, step: int, files: dict[str, Path]) -> None:
        """Pictures as they are; clips as animated GIFs, which TensorBoard plays among its images."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = []
        for title, path in files.items():
            encoded = path.read_bytes() if path.suffix == ".png" else animation(path)
            with Image.open(io.BytesIO(encoded)) as picture:
                width, height = picture.size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
            shown.append(Summary.Value(tag=title, image=image))
        self._summary(step, shown)

    def _summary(self, step: int, values: Sequence[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._put(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _put(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._file.close()


def animation(path: Path) -> bytes:
    """A video as a GIF of at most `GIF_FRAMES` frames that lasts as long, at most `GIF_WIDTH` wide."""
    from PIL import Image

    from lvgan.data.video import read_frames

    with read_frames(path) as reader:
        total = round((reader.info.duration or 0) * 30)
        stride = max(1, -(-total // GIF_FRAMES))
        frames = [frame for index, (frame,) in enumerate(reader) if index % stride == 0]
    pictures = [Image.fromarray(frame) for frame in frames]
    if (width := pictures[0].width) > GIF_WIDTH:
        size = (GIF_WIDTH, max(1, round(pictures[0].height * GIF_WIDTH / width)))
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    gif = io.BytesIO()
    pictures[0].save(
        gif, format="gif", save_all=True, append_images=pictures[1:], duration=round(1000 * stride / 30), loop=0
    )
    return gif.getvalue()


@contextlib.contextmanager
def _machine_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"cannot write the log {path} ({error.strerror}); free some space or check the folder's permissions, "
            "and run the same command again"
        ) from error


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _step_of(line: str) -> float:
    """The step of a log line; infinite for a line that a kill has cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's steps in order, each with everything that was logged for it; events are records of their own.

    Lines that a kill or a full disk cut short are left out; a missing file is an empty log.
    """
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for line in _lines(path):
        if not _step_of(line) < float("inf"):
            continue
        values = json.loads(line)
        last = records[-1] if records else None
        if last is not None and last["step"] == values["step"] and not {"event"} & (last.keys() | values.keys()):
            last.update(values)
        else:
            records.append(values)
    return records
