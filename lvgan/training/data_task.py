"""What the tasks of both stages have in common: real clips come from shards."""

from __future__ import annotations

from typing import Any

import torch

from lvgan.data.dataset import ClipDataset
from lvgan.data.windows import Batches
from lvgan.pixels import from_bytes
from lvgan.training.task import Sample


class DataTask:
    """Real clips of a step (this rank's part of the batch), and the record of the data in checkpoints."""

    def __init__(self, dataset: ClipDataset, batches: Batches, device: torch.device) -> None:
        self.device = device
        self._dataset = dataset
        self._batches = batches

    def real(self, step: int) -> Sample:
        """This rank's clips of a step, in [-1, 1]; a pure function of (seed, step, clip)."""
        return tuple(from_bytes(clip.to(self.device)) for clip in self._batches.get(step))

    def data_record(self) -> dict[str, Any]:
        """Sizes, names and lengths (fingerprint) and contents of the data."""
        data = self._dataset
        return {
            "lr": str(data.lr),
            "hr": str(data.hr),
            "fingerprint": data.fingerprint,
            "lr_content": data.content("lr"),
        }

    def close(self) -> None:
        """Stop loading data."""
        self._batches.close()
