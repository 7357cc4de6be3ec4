"""What a run writes while it trains: ``log.jsonl`` and TensorBoard scalars."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class RunLog:
    """Appends one JSON object a logged step to ``log.jsonl``, and the same numbers to TensorBoard.

    Opened at `step` it drops lines of later steps: they belong to work that is done again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "log.jsonl"
        self._truncate(step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def _truncate(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self._path)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log `values` for `step`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for key, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        self._board.close()


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
