"""Half precision and recomputed activations: what they may change, and what they must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lvgan.models.lr_discriminator import LrDiscriminator
from lvgan.models.lr_generator import BlockSpec, LrGenerator
from lvgan.models.running import Network
from lvgan.models.sr_discriminator import SrDiscriminator
from lvgan.models.sr_generator import SrGenerator
from lvgan.training.losses import r1_penalty

BLOCKS = tuple(BlockSpec.parse(text) for text in ("8 t", "8 t s", "6 1x3x3 s"))
Made = tuple[Network, Callable[..., Tensor], tuple[Tensor, ...]]


def _lr_generator() -> Made:
    network = LrGenerator(
        8, 16, filters=4, footprint_min=8, footprint_max=40, latent=16, input_channels=8, blocks=BLOCKS
    )
    noise = torch.randn(2, 8, sum(network.noise_margin(8)) + 8)
    return network, lambda noise, **update: network(noise, 8, **update), (noise,)


def _lr_discriminator() -> Made:
    network = LrDiscriminator(8, 8, 16, stem=4, widths=(6, 8), head=8)
    return network, network, (torch.randn(2, 3, 8, 8, 16),)


def _sr_generator() -> Made:
    network = SrGenerator(
        64, 32, 16, 8, context=1, z_dim=8, w_dim=8, layers=6, channel_base=64, channel_max=8, margin=2
    )
    return network, network, (torch.randn(2, 8), torch.randn(2, 3, 4, 16, 8))


def _sr_discriminator() -> Made:
    network = SrDiscriminator(64, 32, 16, 8, frames=2, channel_base=128, channel_max=8)
    return network, network, (torch.randn(2, 3, 2, 16, 8), torch.randn(2, 3, 2, 64, 32))


NETWORKS = {f.__name__: f for f in (_lr_generator, _lr_discriminator, _sr_generator, _sr_discriminator)}


@pytest.fixture(params=list(NETWORKS))
def made(request: pytest.FixtureRequest) -> Made:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def _gradients(made: Made, **update: bool) -> tuple[Tensor, list[Tensor]]:
    network, forward, inputs = made
    y = forward(*inputs, **update)
    return y.detach(), list(torch.autograd.grad(y.square().sum(), list(network.parameters())))


def test_recomputing_changes_no_bit(made: Made) -> None:
    network = made[0]
    y, gradients = _gradients(made)
    network.run_in(None, recompute=True)
    y_again, again = _gradients(made)
    assert torch.equal(y, y_again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_recomputing_keeps_less(made: Made) -> None:
    network, forward, inputs = made
    kept = []
    for recompute in (False, True):
        network.run_in(None, recompute=recompute)
        sizes: dict[int, int] = {}

        def note(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            y = forward(*inputs)
        weights = {p.data_ptr() for p in network.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
        del y
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("make", [_lr_generator, _sr_generator])
def test_recomputing_does_not_move_statistics_twice(make: Callable[[], Made]) -> None:
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        made = make()
        made[0].run_in(None, recompute=recompute)
        _, gradients = _gradients(made, update_ema=True)
        results.append((gradients, dict(made[0].named_buffers())))
    (one, buffers), (two, again) = results
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(buffers[name], again[name]) for name in buffers)
    assert any("mean_square" in name and buffer != 1 for name, buffer in buffers.items())


@pytest.mark.parametrize("make", [_lr_discriminator, _sr_discriminator])
@pytest.mark.parametrize(
    ("half", "tolerance"), [(None, 0.0), (torch.bfloat16, 0.08), (torch.float16, 0.01)], ids=["fp32", "bf16", "fp16"]
)
def test_r1_through_recomputed_and_half_precision(
    make: Callable[[], Made], half: torch.dtype | None, tolerance: float
) -> None:
    # Its gradient is a second derivative: against float32 with everything kept.
    results = []
    for settings in ((None, False), (half, True)):
        torch.manual_seed(0)
        network, _, inputs = make()
        network.run_in(settings[0], recompute=settings[1])
        penalty, logits = r1_penalty(lambda sample, network=network: network(*sample), inputs)
        assert penalty.dtype == logits.dtype == torch.float32
        (penalty.sum() + 0 * logits.sum()).backward()
        results.append((penalty.detach(), _flat([p.grad for p in network.parameters()])))
    for exact, ours in zip(*results, strict=True):
        assert (ours - exact).norm() <= tolerance * exact.norm()


def _flat(tensors: list[Tensor | None]) -> Tensor:
    assert all(t is not None and t.dtype == torch.float32 for t in tensors)
    return torch.cat([t.flatten() for t in tensors if t is not None])


# Rounding to 8 bits (bfloat16) or 11 (float16), a few layers deep.
@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)], ids=["bf16", "fp16"])
def test_half_precision_is_close_and_ends_in_float32(made: Made, half: torch.dtype, tolerance: float) -> None:
    network = made[0]
    y, gradients = _gradients(made)
    network.run_in(half)
    y_half, halves = _gradients(made)
    assert y_half.dtype == torch.float32
    assert not torch.equal(y, y_half)
    assert (y_half - y).norm() <= tolerance * y.norm()
    exact, ours = _flat(gradients), _flat(halves)  # type: ignore[arg-type]
    assert (ours - exact).norm() <= 2 * tolerance * exact.norm()


def test_which_parts_of_super_resolution_take_half_precision() -> None:
    # A long edge of 64: rates 8 to 64 are the four highest.
    for network, _, inputs in (_sr_generator(), _sr_discriminator()):
        network.run_in(torch.bfloat16)
        types: list[tuple[int, torch.dtype]] = []
        hooks = [
            part.register_forward_hook(lambda part, given, y, types=types: types.append((y.shape[-2], given[0].dtype)))
            for part in network.parts()
        ]
        network(*inputs)
        for hook in hooks:
            hook.remove()
        assert len(types) == len(network.parts())
        assert types[-1][1] == (torch.bfloat16 if isinstance(network, SrGenerator) else torch.float32)
        assert {kind for _, kind in types[1:3]} == {torch.bfloat16}
    rates = {layer.out_rate for layer in _sr_generator()[0].schedule}  # type: ignore[attr-defined]
    assert max(rates) == 64


def test_magnitudes_are_counted_in_float32() -> None:
    torch.manual_seed(0)
    network, forward, inputs = _lr_generator()
    network.run_in(torch.float16)
    forward(*inputs, update_ema=True)
    for name, buffer in network.named_buffers():
        assert buffer.dtype == torch.float32, name


def test_what_is_no_half_precision_is_refused() -> None:
    network: nn.Module = _lr_discriminator()[0]
    assert isinstance(network, Network)
    with pytest.raises(ValueError, match="half: expected"):
        network.run_in(torch.float64)
