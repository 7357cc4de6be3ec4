"""The trainer's optimisers: how a step is computed, and checkpoints from before."""

from __future__ import annotations

import copy

import torch

from lvgan.config import build
from lvgan.training.trainer import Trainer
from tests.training.toy import ToyTask


def _trainer() -> Trainer:
    task = ToyTask(build("lr", {"training": {"batch": 4}}))
    torch.manual_seed(1)
    task.discriminator = torch.nn.Sequential(
        torch.nn.Unflatten(1, (4, 1, 1)), torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(6, 1)
    )
    return Trainer(task)


def test_steps_are_those_of_adam() -> None:
    """Against Adam as its paper states it, in float64, by the optimiser's own gradients."""
    trainer = _trainer()
    (group,) = trainer.optimizers[0].param_groups
    weight = group["params"][0]
    expected, square = weight.detach().double(), torch.zeros(4, 4, dtype=torch.float64)
    for step in range(1, 6):
        trainer.run_step()
        assert weight.grad is not None
        gradient = weight.grad.double()
        square = 0.99 * square + 0.01 * gradient.square()
        expected = expected - group["lr"] * gradient / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-7)


def test_a_checkpoint_of_steps_that_were_not_fused_and_of_another_layout_goes_on() -> None:
    reference, resumed = _trainer(), _trainer()
    for _ in range(3):
        reference.run_step()
    old = copy.deepcopy(reference.checkpoint())
    for state in old["optimizers"]:
        for group in state["param_groups"]:
            group["fused"] = None  # as saved by versions before
    conv = resumed.task.discriminator[1]
    assert isinstance(conv, torch.nn.Conv2d)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    resumed.restore(old, path=None)  # type: ignore[arg-type]
    for optimizer in resumed.optimizers:
        assert all(group["fused"] for group in optimizer.param_groups)
        for weight, moments in optimizer.state.items():
            assert moments["exp_avg_sq"].stride() == weight.stride()
    for _ in range(3):
        a, b = reference.run_step(), resumed.run_step()
        torch.testing.assert_close(torch.tensor(list(b.values())), torch.tensor(list(a.values())))
    for ours, theirs in zip(
        resumed.task.discriminator.parameters(), reference.task.discriminator.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
