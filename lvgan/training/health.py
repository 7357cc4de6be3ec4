"""Whether a run is well: what is watched, and what each ailment leads to.

Three kinds are *failures*: a loss or a gradient that is not finite, and a running magnitude of the
generator's features that explodes. The trainer skips a step whose gradients are not finite, so that neither
weights nor optimisers see it; when failures become frequent the loop goes back to the newest checkpoint, with
other randomness, and after a few such roll-backs it stops.

Two kinds are *warnings*: a saturated discriminator and generated clips without variety. Both lie in the
balance of the two networks, from which going back a few hundred steps does not help; they are logged and said
with advice, and the user decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d

RATES = "smaller training.generator_rate and training.discriminator_rate"


@dataclass(frozen=True)
class Limits:
    """Where health ends. Steps are counted in a row, where nothing else is said.

    Attributes:
        failures: so many failed steps ...
        window: ... among so many make the loop roll back;
        penalties: or so many phases of R1 in a row, which are too rare (one step in 16) to fill the window.
        roll_backs: this many within `span` checkpoint intervals; the next one stops the run.
        span: see `roll_backs`.
        magnitude: largest running mean square of a layer's features, which start at about 1. At 1e6 an
            ordinary value is 1000 and peaks leave float16 (6.5e4).
        saturated_gap: distance of the mean logits of real and generated clips, and
        saturated_loss: sum of the discriminator's two losses, beyond and below which it has nothing left to
            learn (a chance level is 0 and 1.39);
        saturated_steps: for so many steps.
        collapsed: spread of generated clips as a fraction of that of real ones, below which they are
            alike (across the batch) or stand still (over time),
        collapsed_steps: for so many steps.
    """

    failures: int = 10
    window: int = 20
    penalties: int = 10
    roll_backs: int = 3
    span: int = 10
    magnitude: float = 1e6
    saturated_gap: float = 20.0
    saturated_loss: float = 1e-3
    saturated_steps: int = 200
    collapsed: float = 0.05
    collapsed_steps: int = 500


@dataclass(frozen=True)
class Event:
    """Something that went wrong at a step: a line of the log."""

    kind: str
    culprit: str
    advice: str

    @property
    def logged(self) -> dict[str, str]:
        """For ``log.jsonl``."""
        return {"event": self.kind, "culprit": self.culprit}

    def __str__(self) -> str:
        return f"{self.kind} ({self.culprit}); {self.advice}"


SKIPPED = "the step was skipped: weights and optimisers are as before it"
SATURATED = (
    "the discriminator tells every clip and teaches no more: a smaller training.discriminator_rate, a larger "
    "training.r1_gamma or more data helps"
)
COLLAPSED = "the generator makes one thing only: start again from an earlier checkpoint (--init) with " + RATES


@dataclass(frozen=True)
class _Counts:
    """Steps in a row."""

    saturated: int = 0
    alike: int = 0
    still: int = 0


class Monitor:
    """Looks at every step. Its state goes into checkpoints, so that a resumed run says the same.

    Attributes:
        well: whether the last step was free of failures; checkpoints are only written then.
        culprit: of the last failure.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self._failed: list[int] = []  # steps
        self._penalties: list[int] = []  # steps whose R1 was skipped, since the last good one
        self._counts = _Counts()
        self.well = True
        self.culprit = ""

    def check(
        self,
        step: int,
        values: Mapping[str, float],
        bad_gradients: Mapping[str, Sequence[str]],
        magnitudes: Mapping[str, float],
    ) -> list[Event]:
        """What is wrong after a step.

        Args:
            values: what the step logs.
            bad_gradients: by phase, the parameters whose gradients were not finite.
            magnitudes: by name, the running mean squares of the generator's features.
        """
        failures = self._failures(values, bad_gradients, magnitudes)
        self.well = not failures
        if failures:
            self.culprit = f"{failures[0].kind} ({failures[0].culprit})"
        self._failed = [s for s in self._failed if s > step - self.limits.window] + [step] * bool(failures)
        if "r1" in bad_gradients:
            self._penalties = [*self._penalties, step] if bad_gradients["r1"] else []
        return failures + self._warnings(values)

    @property
    def failing(self) -> bool:
        """Whether it is time to roll back."""
        return len(self._failed) >= self.limits.failures or len(self._penalties) >= self.limits.penalties

    @property
    def failing_since(self) -> int:
        """The first of the failed steps that are remembered."""
        return min(self._failed + self._penalties)

    def _failures(
        self,
        values: Mapping[str, float],
        bad_gradients: Mapping[str, Sequence[str]],
        magnitudes: Mapping[str, float],
    ) -> list[Event]:
        events = []
        for phase, names in bad_gradients.items():
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                culprit = f"{phase} phase, first in {names[0]}{more}"
                events.append(Event("non-finite gradient", culprit, SKIPPED))
        for key, value in values.items():
            if key.startswith("loss/") and not math.isfinite(value):
                events.append(Event("non-finite loss", key, "no checkpoint is written meanwhile"))
        for name, value in magnitudes.items():
            if not value <= self.limits.magnitude:
                advice = f"features began at about 1, at most {self.limits.magnitude:g} is sound: use {RATES}"
                events.append(Event("exploding magnitude", f"{name} = {value:.3g}", advice))
                break
        return events

    def _warnings(self, values: Mapping[str, float]) -> list[Event]:
        limits, counts, events = self.limits, self._counts, []
        gap = values.get("logits/real", 0.0) - values.get("logits/fake", 0.0)
        loss = values.get("loss/discriminator_real", 1.0) + values.get("loss/discriminator_fake", 1.0)
        saturated = gap > limits.saturated_gap and loss < limits.saturated_loss
        counts = replace(counts, saturated=counts.saturated + 1 if saturated else 0)
        if counts.saturated == limits.saturated_steps:
            culprit = f"logits {gap:.3g} apart, loss {loss:.2g}, for {counts.saturated} steps"
            events.append(Event("saturated discriminator", culprit, SATURATED))
        for name, key, what in (
            ("alike", "std", "clips of a batch are alike"),
            ("still", "motion", "clips stand still"),
        ):
            fake, real = values.get(f"health/fake_{key}"), values.get(f"health/real_{key}")
            low = fake is not None and real is not None and fake < limits.collapsed * real
            counts = replace(counts, **{name: getattr(counts, name) + 1 if low else 0})
            if getattr(counts, name) == limits.collapsed_steps:
                culprit = f"{what}: health/fake_{key} {fake:.3g}, real {real:.3g}, for {limits.collapsed_steps} steps"
                events.append(Event("collapsed variance", culprit, COLLAPSED))
        self._counts = counts
        return events

    def state(self) -> dict[str, Any]:
        """Plain values."""
        steps = {"failed": list(self._failed), "penalties": list(self._penalties)}
        return {**steps, "well": self.well, "culprit": self.culprit, **vars(self._counts)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`."""
        self._failed, self.well = list(state["failed"]), bool(state["well"])
        self._penalties = list(state.get("penalties", ()))
        self.culprit = str(state["culprit"])
        self._counts = _Counts(*(int(state[name]) for name in ("saturated", "alike", "still")))


# --- what is measured -----------------------------------------------------------------------------


def bad_gradients(network: nn.Module) -> list[str]:
    """Names of the parameters whose gradient holds a NaN or an infinity."""
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if not grads:
        return []
    # One number to wait for first: which ones is only asked in the rare step that needs it.
    norms = torch.stack(torch._foreach_norm([g.float() for g in grads.values()]))
    if bool(torch.isfinite(norms).all()):
        return []
    return [name for name, grad in grads.items() if not bool(torch.isfinite(grad).all())]


def magnitudes(generator: nn.Module) -> dict[str, float]:
    """The running mean squares of a generator's features, by buffer."""
    found = {name: b for name, b in generator.named_buffers() if name.rpartition(".")[2] == "mean_square"}
    if not found:
        return {}
    return dict(zip(found, torch.stack([b.detach().float() for b in found.values()]).tolist(), strict=True))


@torch.no_grad()
def describe(clips: Tensor) -> Tensor:
    """A small picture of each clip: ``[N, C, T, H, W] -> [N, T', C·H'·W']``, at most 8 along each axis.

    Clips of other shapes, which have no time axis, are taken as one frame.
    """
    clips = clips.detach().float()
    if clips.ndim != 5:
        return clips.flatten(1)[:, None]
    small = adaptive_avg_pool3d(clips, tuple(min(8, size) for size in clips.shape[2:]))  # type: ignore[arg-type]
    return small.transpose(1, 2).flatten(2)


def spread(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Standard deviations of what :func:`describe` gives, of all clips of a batch: across clips, and over time."""
    values = {}
    for name, small in (("fake", fake), ("real", real)):
        if len(small) > 1:
            values[f"health/{name}_std"] = small.std(0).mean().item()
        if small.shape[1] > 1:
            values[f"health/{name}_motion"] = small.std(1).mean().item()
    return values
