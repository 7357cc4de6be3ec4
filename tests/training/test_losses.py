"""Losses, gradient cleaning, EMA and rates against the reference schedules and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lvgan.augment.ada import AdaController
from lvgan.config import build
from lvgan.pixels import from_bytes, to_bytes
from lvgan.training.ema import ema_decay, update_ema
from lvgan.training.health import bad_gradients
from lvgan.training.losses import (
    discriminator_loss_fake,
    discriminator_loss_real,
    generator_loss,
    r1_penalty,
)
from tests.helpers import assert_close_to_max


def test_losses_golden(golden) -> None:
    table = golden.json("schedules")["losses"]
    logits = torch.tensor(table["logits"])
    assert_close_to_max(generator_loss(logits), torch.tensor(table["G"]))
    assert_close_to_max(discriminator_loss_fake(logits), torch.tensor(table["D_fake"]))
    assert_close_to_max(discriminator_loss_real(logits), torch.tensor(table["D_real"]))


def test_ema_decay_golden(golden) -> None:
    table = golden.json("schedules")["G_ema"]
    for step, values in table["LowResVideoGAN"].items():
        decay = ema_decay(int(step), table["G_ema_beta"], table["G_ema_warmup_steps"])
        assert decay == pytest.approx(values["beta"], rel=1e-6)
        average, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(average.weight)
        nn.init.ones_(model.weight)
        update_ema(average, model, decay)
        assert average.weight.item() == pytest.approx(values["ema_after"], rel=1e-3)


def test_ada_moves_golden(golden) -> None:
    for case in golden.json("schedules")["ada"]:
        controller = AdaController(
            target=case["target"],
            rate=case["rate"],
            interval=case["gain"],
            p_max=case["p_max"],
            p=case["p_before"],
        )
        for _ in range(case["gain"]):
            # A mean sign is made of ones and minus ones.
            count = 20
            ones = round(count * (case["sign"] + 1) / 2)
            controller.observe(torch.tensor([1.0] * ones + [-1.0] * (count - ones)))
            controller.step()
        assert controller.p == pytest.approx(case["p_after"], abs=1e-7)


def test_rates_golden(golden) -> None:
    from lvgan.training.trainer import Trainer
    from tests.training.toy import ToyTask

    tables = golden.json("schedules")
    for case in tables["lrate"]:
        task = ToyTask(build("lr", {"training": {"warmup": case["warmup"]}}))
        trainer = Trainer(task)
        trainer.step = case["step"]
        trainer._set_rates()
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(case["G"])
    for stage, name in (("lr", "lres"), ("sr", "sres")):
        trainer = Trainer(ToyTask(build(stage, {})))
        group = trainer.optimizers[1].param_groups[0]
        assert group["lr"] == pytest.approx(tables["lazy_reg"][name]["D_lrate"])
        assert group["betas"] == (0.0, pytest.approx(tables["lazy_reg"][name]["D_beta2"]))


def test_pixels_golden(golden) -> None:
    tensors = golden("pixels").tensors
    assert torch.equal(from_bytes(tensors["bytes_to_float/in"]), tensors["bytes_to_float/out"])
    assert torch.equal(to_bytes(tensors["float_to_bytes/in"]), tensors["float_to_bytes/out"])


def test_bad_gradients_are_those_with_a_nan_or_an_infinity(golden) -> None:
    tensors = golden("pixels").tensors
    module = nn.Module()
    module.good, module.poor = (nn.Parameter(torch.zeros_like(tensors["grads_in"])) for _ in range(2))
    module.unused = nn.Parameter(torch.zeros(1))
    assert bad_gradients(module) == []
    module.good.grad, module.poor.grad = tensors["grads_out"].clone(), tensors["grads_in"].clone()
    assert bad_gradients(module) == ["poor"]


def test_r1_of_a_quadratic() -> None:
    # D(x) = a/2 · |x|²: the gradient is a·x, the penalty a²·|x|², its derivative by a is 2·a·|x|².
    a = torch.tensor(3.0, requires_grad=True)
    low, x = torch.randn(2, 5), torch.randn(2, 3, 4)
    penalty, logits = r1_penalty(lambda s: (a / 2 * s[1].square().flatten(1).sum(1) + s[0].sum(1))[:, None], (low, x))
    norm = x.square().flatten(1).sum(1)
    assert_close_to_max(penalty, 9 * norm)
    assert logits.shape == (2, 1)
    (slope,) = torch.autograd.grad(penalty.sum(), [a])
    assert slope.item() == pytest.approx(2 * 3 * norm.sum().item(), rel=1e-5)


def test_ema_half_life() -> None:
    assert ema_decay(10**6, 0.99985, 25_000) == pytest.approx(0.99985)
    half_life = math.log(0.5) / math.log(ema_decay(4, 0.99985, 25_000))
    assert half_life == pytest.approx(math.log(0.5) / math.log(0.99985) * 5 / 25_001)
