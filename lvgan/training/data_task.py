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
        """Sizes and fingerprint of the data."""
        lr, hr = self._dataset.lr, self._dataset.hr
        return {"lr": str(lr), "hr": str(hr), "fingerprint": self._dataset.fingerprint}

    def close(self) -> None:
        """Stop loading data."""
        self._batches.close()
