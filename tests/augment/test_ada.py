"""ADA against the golden vectors, closed forms and the distributions it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lvgan.augment.ada import (
    CONDITIONING,
    DISCRIMINATOR,
    AdaController,
    AdaDraws,
    AdaSettings,
    Dice,
    ada_augment,
    apply_ada,
    draw_ada,
)
from lvgan.errors import ConfigError
from tests.conftest import Golden
from tests.helpers import assert_close_to_max

EVERYTHING = AdaSettings(**{name: 1.0 for name in vars(DISCRIMINATOR) if not name.endswith(("_max", "_std", "_size"))})


class ReplayedDice(Dice):
    """Deals the recorded draws, in order."""

    def __init__(self, rand: dict[str, Tensor]) -> None:
        self.rand = [(name, rand[name]) for name in sorted(rand)]

    def deal(self, function: str, shape: tuple[int, ...]) -> Tensor:
        name, values = self.rand.pop(0)
        assert name.endswith("_" + function)
        return values.reshape(shape)

    def uniform(self, *shape: int) -> Tensor:
        return self.deal("rand", shape).double()

    def normal(self, *shape: int) -> Tensor:
        return self.noise(*shape).double()

    def noise(self, *shape: int) -> Tensor:
        return self.deal("randn", shape)


class PercentileDice(Dice):
    """Deals one percentile for every draw, as the reference's debugging mode does.

    There a normal draw is erfinv(2q - 1), and the second turn is left out: `no_turn` is the
    index of its draw among the uniform ones.
    """

    def __init__(self, q: float, no_turn: int = -1) -> None:
        self.q, self.no_turn, self.count = q, no_turn, 0

    def uniform(self, *shape: int) -> Tensor:
        q = 0.5 if self.count == self.no_turn else self.q
        self.count += 1
        return torch.full(shape, q, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        return torch.erfinv(torch.full(shape, 2 * self.q - 1, dtype=torch.float64))


def augment(clip: Tensor, p: float, dice: Dice, settings: AdaSettings) -> Tensor:
    return apply_ada(clip, draw_ada(clip.shape, p, dice, settings))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_golden_random(golden: Golden, p: float) -> None:
    file = golden(f"ada_full_random_p{p}")
    x = file.tensors["in/x"].requires_grad_()
    dice = ReplayedDice(file.group("rand"))
    y = augment(x, p, dice, DISCRIMINATOR)
    assert not dice.rand
    assert_close_to_max(y, file.tensors["out/y"])
    (gradient,) = torch.autograd.grad(y + 0, x, file.tensors["grad_out"])
    assert_close_to_max(gradient, file.tensors["grad/x"])


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_golden_conditioning(golden: Golden, p: float) -> None:
    file = golden(f"ada_input_augment_p{p}")
    y = augment(file.tensors["in/x"], p, ReplayedDice(file.group("rand")), CONDITIONING)
    assert_close_to_max(y, file.tensors["out/y"])


@pytest.mark.parametrize("shape", ["square", "wide"])
@pytest.mark.parametrize("q", [0.1, 0.35, 0.5, 0.77, 0.9])
def test_golden_percentiles(golden: Golden, shape: str, q: float) -> None:
    file = golden(f"ada_full_percentile_{shape}")
    y = augment(file.tensors["in/x"], 1.0, PercentileDice(q, no_turn=10), DISCRIMINATOR)
    assert_close_to_max(y, file.tensors[f"out/dp{q}"])


SINGLE = {
    "xflip": "x_flip",
    "rotate90": "quarter_turn",
    "xint": "integer_shift",
    "scale": "scale",
    "rotate": "rotate",
    "aniso": "anisotropic",
    "xfrac": "fractional_shift",
    "brightness": "brightness",
    "contrast": "contrast",
    "lumaflip": "luma_flip",
    "hue": "hue",
    "saturation": "saturation",
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("q", [0.3, 0.8])
def test_golden_single(golden: Golden, name: str, q: float) -> None:
    file = golden("ada_single_percentile")
    settings = AdaSettings(**{SINGLE[name]: 1.0})
    y = augment(file.tensors["in/x"], 1.0, PercentileDice(q, no_turn=2), settings)
    assert_close_to_max(y, file.tensors[f"out/{name}_dp{q}"])


@pytest.mark.parametrize(("name", "field"), [("cutout", "cutout"), ("imgfilter", "image_filter")])
@pytest.mark.parametrize("q", [0.3, 0.8])
def test_golden_corruption(golden: Golden, name: str, field: str, q: float) -> None:
    file = golden(f"ada_{name}_percentile")
    y = augment(file.tensors["in/x"], 1.0, PercentileDice(q), AdaSettings(**{field: 1.0}))
    assert_close_to_max(y, file.tensors[f"out/dp{q}"])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_transform_for_all_frames(channels: int) -> None:
    x = torch.randn(3, channels, 1, 10, 16).expand(-1, -1, 4, -1, -1)
    settings = AdaSettings(**{**vars(EVERYTHING), "noise": 0.0})
    y = ada_augment(x, 0.9, torch.Generator().manual_seed(0), settings)
    assert y.shape == x.shape
    torch.testing.assert_close(y, y[:, :, :1].expand_as(y))
    assert not torch.equal(y, x)


def test_seeded() -> None:
    x = torch.randn(2, 3, 2, 8, 12)
    y = ada_augment(x, 0.5, torch.Generator().manual_seed(1), EVERYTHING)
    assert torch.equal(y, ada_augment(x, 0.5, torch.Generator().manual_seed(1), EVERYTHING))
    assert not torch.equal(y, ada_augment(x, 0.5, torch.Generator().manual_seed(2), EVERYTHING))


def test_untouched_clips_are_passed_on() -> None:
    x = torch.randn(40, 1, 1, 6, 6)
    assert ada_augment(x, 0.0, torch.Generator(), EVERYTHING) is x
    y = ada_augment(x, 0.05, torch.Generator().manual_seed(0))
    same = (y == x).flatten(1).all(1)
    assert 5 < int(same.sum()) < 40


@pytest.mark.parametrize("field", ["scale", "rotate", "anisotropic", "fractional_shift"])
def test_geometry_happens_with_probability_p(field: str) -> None:
    draws = draw_ada(
        torch.Size((4000, 3, 1, 8, 8)),
        0.3,
        Dice(torch.Generator().manual_seed(0)),
        AdaSettings(**{field: 1.0}),
    )
    assert draws.warp is not None
    happened = (draws.warp != torch.eye(3)).flatten(1).any(1).double().mean().item()
    assert abs(happened - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


def test_multipliers_scale_p() -> None:
    settings = AdaSettings(brightness=0.5, cutout=0.25, noise=1)
    shape = torch.Size((4000, 3, 1, 1, 1))
    draws = draw_ada(shape, 0.8, Dice(torch.Generator().manual_seed(0)), settings)
    assert draws.color is not None
    assert draws.hole_size is not None
    assert draws.noise is not None
    for happened, expected in (
        (draws.color[:, 0, 3] != 0, 0.4),
        (draws.hole_size > 0, 0.2),
        (draws.noise[:, 0, 0, 0, 0] != 0, 0.8),
    ):
        assert abs(happened.double().mean().item() - expected) < 0.035


def test_conditioning_is_gentle() -> None:
    """Spreads of the conditioning augmentation, read off its matrices."""
    H, W = 100, 200
    dice = Dice(torch.Generator().manual_seed(0))
    draws = draw_ada(torch.Size((3000, 1, 1, H, W)), 1.0, dice, AdaSettings(**{**vars(CONDITIONING), "noise": 0}))
    assert draws.color is None
    assert draws.warp is not None
    linear, shift = draws.warp[:, :2, :2], draws.warp[:, :2, 2]
    area = torch.linalg.det(linear)  # (1 / scale)², nothing else changes areas
    assert abs((-area.log2() / 2).std().item() - 0.08) < 0.005
    u, _, vt = torch.linalg.svd(linear)
    turn = u @ vt
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert angle.abs().max() < 2 * 0.016 * math.pi
    assert abs(shift[:, 0].std().item() - 0.016 * W) < 0.2
    assert abs(shift[:, 1].std().item() - 0.016 * H) < 0.1


def test_integer_shift_reaches_an_eighth_of_each_side() -> None:
    settings = AdaSettings(integer_shift=1)
    dice = Dice(torch.Generator().manual_seed(0))
    draws = draw_ada(torch.Size((3000, 1, 1, 16, 32)), 1.0, dice, settings)
    assert draws.warp is not None
    assert draws.warp[:, 0, 2].unique().tolist() == list(range(-4, 5))
    assert draws.warp[:, 1, 2].unique().tolist() == list(range(-2, 3))


def color_of(settings: AdaSettings, channels: int, seed: int = 0) -> Tensor:
    dice = Dice(torch.Generator().manual_seed(seed))
    draws = draw_ada(torch.Size((500, channels, 1, 2, 2)), 1.0, dice, settings)
    assert draws.color is not None
    return draws.color


def test_hue_turns_about_gray() -> None:
    color = color_of(AdaSettings(hue=1), 3)
    turn, gray = color[:, :, :3], torch.ones(3, dtype=torch.double)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).double().expand_as(turn))
    torch.testing.assert_close(turn @ gray, gray.expand(500, 3))
    assert (torch.linalg.det(turn) > 0).all()
    angle = torch.arccos(((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    assert angle.max() > 0.98 * math.pi


def test_saturation_and_luma_flip_about_gray() -> None:
    gray, tint = torch.ones(3).double(), torch.tensor([1.0, -2.0, 1.0]).double()
    saturation = color_of(AdaSettings(saturation=1), 3)[:, :, :3]
    torch.testing.assert_close(saturation @ gray, gray.expand(500, 3))
    factor = (saturation @ tint)[:, 0]
    torch.testing.assert_close(saturation @ tint, factor[:, None] * tint)
    assert abs(factor.log2().std().item() - 1) < 0.15
    flip = color_of(AdaSettings(luma_flip=1), 3)[:, :, :3]
    sign = (flip @ gray)[:, :1]
    torch.testing.assert_close(flip @ tint, tint.expand(500, 3))
    assert set(sign.round(decimals=6).unique().tolist()) == {-1.0, 1.0}


def test_gray_equals_the_mean_of_a_gray_rgb_clip() -> None:
    gray = torch.randn(5, 1, 2, 4, 6)
    settings = AdaSettings(brightness=1, contrast=1, luma_flip=1, hue=1, saturation=1)
    y = ada_augment(gray, 1.0, torch.Generator().manual_seed(0), settings)
    rgb = ada_augment(gray.expand(-1, 3, -1, -1, -1), 1.0, torch.Generator().manual_seed(0), settings)
    torch.testing.assert_close(y, rgb.mean(1, keepdim=True))


def test_other_channel_counts_keep_their_channels_apart() -> None:
    color = color_of(AdaSettings(brightness=1, contrast=1, luma_flip=1, hue=1, saturation=1), 5)
    contrast, offset = color[:, 0, 0], color[:, 0, 5]
    expected = torch.cat([torch.eye(5).expand(500, 5, 5), torch.zeros(500, 5, 1)], 2).double()
    expected = expected * contrast[:, None, None]
    expected[:, :, 5] = offset[:, None]
    torch.testing.assert_close(color, expected)
    assert abs(contrast.log2().std().item() - 0.5) < 0.07
    assert abs((offset / contrast).std().item() - 0.2) < 0.03


def test_hole_is_half_of_each_side() -> None:
    draws = AdaDraws(hole=torch.tensor([[0.5, 0.5], [0.0, 1.0]]), hole_size=torch.tensor([0.5, 0.5]))
    y = apply_ada(torch.ones(2, 1, 1, 8, 4), draws)[:, 0, 0]
    expected = torch.ones(2, 8, 4)
    expected[0, 2:6, 1:3] = 0
    expected[1, 6:, :1] = 0
    assert torch.equal(y, expected)


def test_second_gradient_flows_through_everything() -> None:
    x = torch.randn(2, 3, 1, 4, 5, dtype=torch.double, requires_grad=True)
    draws = draw_ada(x.shape, 1.0, Dice(torch.Generator().manual_seed(3)), EVERYTHING)
    assert torch.autograd.gradcheck(lambda x: apply_ada(x, draws), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: apply_ada(x, draws), x, fast_mode=True)


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match=r"p is 1.5, expected 0 to 1"):
        ada_augment(torch.zeros(1, 3, 1, 4, 4), 1.5, torch.Generator())
    with pytest.raises(ValueError, match="clip has 4 axes"):
        ada_augment(torch.zeros(3, 1, 4, 4), 0.5, torch.Generator())


def test_golden_controller(golden: Golden) -> None:
    for row in golden.json("schedules")["ada"]:
        control = AdaController(
            target=row["target"],
            rate=row["rate"],
            interval=row["gain"],
            p_max=row["p_max"],
            p=row["p_before"],
        )
        logits = torch.zeros(1000)
        positive = round((1 + row["sign"]) * 500)
        logits[:positive], logits[positive:] = 2.5, -0.5
        for _ in range(row["gain"]):
            control.observe(logits)
            p = control.step()
        assert p == pytest.approx(row["p_after"], abs=1e-7)


def test_controller_moves_every_interval_and_sums_over_processes() -> None:
    control = AdaController(rate=0.01, interval=3)
    moved = []
    for _ in range(6):
        control.observe(torch.ones(2, 1))
        moved.append(control.step())
    assert moved == pytest.approx([0, 0, 0.03, 0.03, 0.03, 0.06])

    def others_disagree(totals: Tensor) -> Tensor:
        assert totals.tolist() == [6, 6]
        return totals + torch.tensor([-100.0, 100.0])

    for _ in range(3):
        control.observe(torch.ones(2, 1))
        control.step(others_disagree)
    assert control.p == pytest.approx(0.03)


def test_controller_without_observations_stays() -> None:
    control = AdaController(interval=1, p=0.2)
    assert control.step() == 0.2


def test_controller_resumes() -> None:
    first = AdaController(rate=0.01, p=0.1)
    for sign in (1, -1):
        first.observe(torch.full((5,), float(sign)))
        first.step()
    state = first.state_dict()
    assert all(type(value) in (int, float) for value in state.values())
    second = AdaController(rate=0.01)
    second.load_state_dict(state)
    for control in (first, second):
        for _ in range(2):
            control.observe(torch.tensor([1.0, 1.0, -1.0]))
            control.step()
    assert second.state_dict() == first.state_dict()
    assert first.p != 0.1
