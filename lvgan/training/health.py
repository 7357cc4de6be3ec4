"""Whether a run is well."""

from __future__ import annotations

import math
from pathlib import Path

from lvgan.errors import TrainingError


class Finite:
    """Stops a run whose losses have left the finite numbers for good; nothing is saved meanwhile."""

    PATIENCE = 10  # steps

    def __init__(self) -> None:
        self.now = True
        self._since: int | None = None

    def check(self, step: int, values: dict[str, float], newest: Path | None) -> None:
        bad = [key for key, value in values.items() if key.startswith("loss/") and not math.isfinite(value)]
        self.now = not bad
        if not bad:
            self._since = None
            return
        self._since = step if self._since is None else self._since
        if step - self._since >= self.PATIENCE - 1:
            kept = f"the newest good checkpoint is {newest}" if newest else "there is no good checkpoint yet"
            raise TrainingError(
                f"{bad[0]} is not finite since step {self._since}: training has diverged; {kept}: start another run "
                "(--new) with smaller training.generator_rate and training.discriminator_rate"
            )
