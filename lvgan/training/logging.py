"""What a run writes while it trains: ``log.jsonl`` and TensorBoard scalars."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lvgan.errors import MachineError


class RunLog:
    """Appends one JSON object a logged step to ``log.jsonl``, and the same numbers to TensorBoard.

    Opened at `step` it drops lines of later steps: they belong to work that is done again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "log.jsonl"
        with _machine_errors(self._path):
            self._truncate(step)
            self._file = self._path.open("a", encoding="utf-8")
            self._board = _Board(folder / "tensorboard", step)

    def _truncate(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self._path)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log `values` for `step`."""
        with _machine_errors(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            self._board.write(step, {k: v for k, v in values.items() if isinstance(v, (int, float))})

    def close(self) -> None:
        """Close both."""
        with contextlib.suppress(OSError):  # what matters was flushed, or has been reported
            self._file.close()
        with contextlib.suppress(OSError):
            self._board.close()


class _Board:
    """Scalars in TensorBoard's format, written at once: its own writer does so in a thread, where errors get lost."""

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
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._put(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def _put(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _machine_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"cannot write the log {path} ({error.strerror}); free some space or check the folder's permissions, "
            "and run the same command again"
        ) from error


def _step_of(line: str) -> float:
    """The step of a log line; infinite for a line that a kill has cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``, in order; a last line cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]
