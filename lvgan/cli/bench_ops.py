"""``lvgan bench ops``: what the compiled operators save, from one layer up to a whole training step.

Three ways of computing the same are timed: the operators as this installation runs them, our PyTorch
reference, and the straightforward composition that the published reference computes (insert zeros,
convolve each channel at the full rate, drop samples).
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.models.sr_discriminator import SrDiscriminator
from lvgan.models.sr_generator import SrGenerator, SynthesisLayer
from lvgan.ops import bias_act, filtered_lrelu, native, setup_filter, upfirdn2d
from lvgan.ops.arguments import check_factor, check_padding

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Row = dict[str, Any]
Work = Callable[[], object]

# --- the straightforward composition ----------------------------------------------------------------


def plain_upfirdn2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor | None,
    *,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
    padding: int | tuple[int, ...] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """:func:`lvgan.ops.upfirdn2d` by zero insertion and depthwise convolutions at the full rate."""
    N, C, H, W = x.shape
    up_x, up_y = check_factor(up, "up")
    down_x, down_y = check_factor(down, "down")
    x0, x1, y0, y1 = check_padding(padding)
    if up_x > 1 or up_y > 1:
        x = F.pad(x.view(N, C, H, 1, W, 1), [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(N, C, H * up_y, W * up_x)
    x = F.pad(x, [max(side, 0) for side in (x0, x1, y0, y1)])
    x = x[:, :, max(-y0, 0) : x.shape[2] - max(-y1, 0), max(-x0, 0) : x.shape[3] - max(-x1, 0)]
    if f is None:
        x = x * gain
    else:
        taps = (f if flip_filter else f.flip(tuple(range(f.ndim)))).to(x.dtype) * gain ** (f.ndim / 2)
        kernels = [taps[None, :], taps[:, None]] if taps.ndim == 1 else [taps]
        for kernel in kernels:
            x = F.conv2d(x, kernel.expand(C, 1, -1, -1), groups=C)
    return x[:, :, ::down_y, ::down_x]


def plain_bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    activation: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """:func:`lvgan.ops.bias_act` in a pass for each part (linear and lrelu only)."""
    if b is not None:
        x = x + b.view([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
    if activation == "lrelu":
        x = F.leaky_relu(x, alpha)
        gain = math.sqrt(2) if gain is None else gain
    if gain not in (None, 1):
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def plain_filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | tuple[int, ...] = 0,
    clamp: float | None = None,
) -> Tensor:
    """:func:`lvgan.ops.filtered_lrelu` as a chain of the two above."""
    x = plain_upfirdn2d(plain_bias_act(x, b), fu, up=up, padding=padding, gain=float(up**2))
    return plain_upfirdn2d(plain_bias_act(x, activation="lrelu", clamp=clamp), fd, down=down)


_USERS = {
    "lvgan.models.sr_generator": ("filtered_lrelu", "bias_act"),
    "lvgan.models.sr_discriminator": ("upfirdn2d", "bias_act"),
    "lvgan.models.resample": ("upfirdn2d",),
    "lvgan.models.layers": ("bias_act",),
    "lvgan.models.lr_generator": ("bias_act",),
    "lvgan.augment.warp": ("upfirdn2d",),
}
_PLAIN = {"filtered_lrelu": plain_filtered_lrelu, "bias_act": plain_bias_act, "upfirdn2d": plain_upfirdn2d}


@contextmanager
def straightforward() -> Iterator[None]:
    """Let the networks and warps use the straightforward compositions inside the block."""
    places = [(importlib.import_module(module), name) for module, names in _USERS.items() for name in names]
    kept = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, _PLAIN[name])
        yield
    finally:
        for (module, name), function in zip(places, kept, strict=True):
            setattr(module, name, function)


# --- measuring --------------------------------------------------------------------------------------


def _seconds(work: Work, device: torch.device, repeats: int, warm: bool) -> float:
    """Median wall time of `work`; with `warm` after a call that does not count."""
    times = []
    for _ in range(repeats + warm):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm:])


def _row(name: str, ours: float, torch_reference: float, plain: float) -> Row:
    return {
        "name": name,
        "ratio": plain / ours,
        "ratio_torch": torch_reference / ours,
        "seconds": ours,
        "torch_seconds": torch_reference,
        "plain_seconds": plain,
    }


def _compare(name: str, ours: Work, plain: Work, device: torch.device, slow_repeats: int = 1) -> Row:
    """`ours` with and without compiled operators, and `plain`."""
    fast = _seconds(ours, device, max(3, slow_repeats), True)
    with native.disabled():
        torch_reference = _seconds(ours, device, slow_repeats, slow_repeats > 1)
    return _row(name, fast, torch_reference, _seconds(plain, device, slow_repeats, slow_repeats > 1))


def _total(name: str, rows: list[Row]) -> Row:
    """The sum over layers."""
    return _row(name, *(sum(row[key] for row in rows) for key in ("seconds", "torch_seconds", "plain_seconds")))


def _gradient(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], dy: Tensor) -> Work:
    """Forward and backward with respect to all inputs."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)

    def work() -> object:
        return torch.autograd.grad(function(*inputs), inputs, dy)

    return work


def _forward(function: Callable[..., Tensor], *inputs: Tensor) -> Work:
    def work() -> object:
        with torch.inference_mode():
            return function(*inputs)

    return work


def _pair(
    name: str,
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    slow_repeats: int,
) -> tuple[Row, Row]:
    """The rows forward and forward+backward."""
    device = inputs[0].device
    forward = _compare(f"{name} forward", _forward(ours, *inputs), _forward(plain, *inputs), device, slow_repeats)
    dy = torch.ones_like(ours(*inputs))
    both = _compare(
        f"{name} forward+backward", _gradient(ours, inputs, dy), _gradient(plain, inputs, dy), device, slow_repeats
    )
    return forward, both


# --- what is measured -------------------------------------------------------------------------------


def layer_rows(generator: SrGenerator, label: str, slow_repeats: int, say: Callable[[Row], object]) -> list[Row]:
    """filtered_lrelu at the shape of each layer (one frame), and the sums over the layers."""
    device = generator.w_avg.device
    rows: list[tuple[Row, Row]] = []
    for index, layer in enumerate(generator.layers):
        assert isinstance(layer, SynthesisLayer)
        spec = layer.spec
        if spec.is_rgb:
            continue
        height, width = (side + spec.kernel - 1 for side in spec.in_size)
        settings: dict[str, Any] = {"up": spec.up, "down": spec.down, "padding": spec.padding, "clamp": layer.clamp}
        fu, fd = layer.up_taps, layer.down_taps

        def ours(x: Tensor, b: Tensor, fu: Any = fu, fd: Any = fd, settings: Any = settings) -> Tensor:
            return filtered_lrelu(x, fu, fd, b, **settings)

        def plain(x: Tensor, b: Tensor, fu: Any = fu, fd: Any = fd, settings: Any = settings) -> Tensor:
            return plain_filtered_lrelu(x, fu, fd, b, **settings)

        generator_of_noise = torch.Generator().manual_seed(index)
        x = torch.randn(1, spec.out_channels, height, width, generator=generator_of_noise).to(device)
        b = torch.zeros(spec.out_channels, device=device)
        name = f"{label}layer {index} ({spec.out_channels}x{height}x{width}, up {spec.up}, down {spec.down})"
        rows.append(_pair(name, ours, plain, (x, b), slow_repeats))
        for row in rows[-1]:
            say(row)
    totals = [
        _total(f"{label}filtered_lrelu {('forward', 'forward+backward')[i]}", [r[i] for r in rows]) for i in (0, 1)
    ]
    for row in totals:
        say(row)
    return [row for pair in rows for row in pair] + totals


def small_op_rows(device: torch.device, say: Callable[[Row], object]) -> list[Row]:
    """bias_act at a size of the low-resolution generator, upfirdn2d at one of the discriminator."""
    clip, b = (
        torch.linspace(-1, 1, 64 * 32 * 64 * 64, device=device).view(1, 64, 32, 64, 64),
        torch.ones(64, device=device),
    )
    image, taps = (
        torch.linspace(-1, 1, 64 * 256 * 256, device=device).view(1, 64, 256, 256),
        setup_filter([1.0, 3, 3, 1]),
    )
    taps = taps.to(device)
    rows = [
        *_pair(
            "bias_act",
            lambda x, b: bias_act(x, b, activation="lrelu", clamp=256.0),
            lambda x, b: plain_bias_act(x, b, activation="lrelu", clamp=256.0),
            (clip, b),
            3,
        ),
        *_pair(
            "upfirdn2d",
            lambda x: upfirdn2d(x, taps, down=2, padding=1),
            lambda x: plain_upfirdn2d(x, taps, down=2, padding=1),
            (image,),
            3,
        ),
    ]
    for row in rows:
        say(row)
    return rows


def frame_row(generator: SrGenerator, label: str, slow_repeats: int) -> Row:
    """One frame of super-resolution, convolutions and all."""
    low = torch.zeros(
        1, generator.channels, 2 * generator.context + 1, *generator.lr_size, device=generator.w_avg.device
    )
    w = torch.ones(1, generator.w_dim, device=low.device)
    return _whole(f"{label}sr frame", _forward(lambda: generator.synthesis(w, low)), low.device, slow_repeats)


def step_row(
    generator: SrGenerator,
    discriminator: SrDiscriminator,
    label: str,
    slow_repeats: int,
    layers: Sequence[Row] | None = None,
) -> Row:
    """One training step of both networks on one frame: no augmentation, no R1, no optimiser.

    Given the sums over `layers` (forward, forward+backward), the straightforward step is not timed (it takes
    minutes, and more memory than many machines have): the step with compiled operators is, with the layers' times
    exchanged. That leaves out what the discriminator would lose.
    """
    device = generator.w_avg.device
    (height, width), (h, w) = generator.size, generator.lr_size
    low = torch.zeros(1, generator.channels, 2 * generator.context + 1, h, w, device=device)
    middle = low[:, :, generator.context : generator.context + 1]
    real = torch.zeros(1, generator.channels, 1, height, width, device=device)
    z = torch.ones(1, generator.z_dim, device=device)

    def step() -> None:
        with torch.no_grad():
            fake = generator(z, low)
        loss = F.softplus(discriminator(middle, fake)) + F.softplus(-discriminator(middle, real))
        torch.autograd.grad(loss.sum(), list(discriminator.parameters()))
        loss = F.softplus(-discriminator(middle, generator(z, low)))
        torch.autograd.grad(loss.sum(), list(generator.parameters()))

    lost = None if layers is None else sum(row["plain_seconds"] - row["seconds"] for row in layers)
    return _whole(f"{label}sr step", step, device, slow_repeats, lost)


def _whole(name: str, work: Work, device: torch.device, slow_repeats: int, lost: float | None = None) -> Row:
    """`lost`: what the straightforward way takes more, where it is not timed."""
    fast = _seconds(work, device, slow_repeats, True)

    def slow(way: AbstractContextManager[None]) -> float:
        with way:
            return _seconds(work, device, slow_repeats, slow_repeats > 1)

    return _row(name, fast, slow(native.disabled()), slow(straightforward()) if lost is None else fast + lost)


def run(device: torch.device, say: Callable[[str], object]) -> list[Row]:
    """All rows, printed as they are measured."""
    rows: list[Row] = []

    def show(row: Row) -> None:
        times = f"{row['seconds'] * 1e3:9.1f} {row['torch_seconds'] * 1e3:9.1f} {row['plain_seconds'] * 1e3:9.1f}"
        say(f"{row['name']:<58} {row['ratio']:7.2f} {row['ratio_torch']:7.2f}   {times}")

    say(f"{'':<58} {'ratio':>7} {'/torch':>7}   {'ms':>9} {'torch':>9} {'plain':>9}")
    rows += small_op_rows(device, show)
    tiny = SrGenerator(128, 128, 32, 32, z_dim=32, w_dim=32, layers=8, margin=6, channel_base=1024, channel_max=32)
    tiny_judge = SrDiscriminator(128, 128, 32, 32, frames=1, channel_base=2048, channel_max=64)
    rows += _network_rows(tiny.to(device), tiny_judge.to(device), "tiny: ", 5, show)
    slow_repeats = 3 if device.type == "cuda" else 1
    return rows + _network_rows(SrGenerator().to(device), SrDiscriminator(frames=1).to(device), "", slow_repeats, show)


def _network_rows(
    generator: SrGenerator,
    discriminator: SrDiscriminator,
    label: str,
    slow_repeats: int,
    say: Callable[[Row], object],
) -> list[Row]:
    rows = layer_rows(generator, label, slow_repeats, say)
    layers = rows[-2:] if slow_repeats == 1 else None
    rows.append(frame_row(generator, label, slow_repeats))
    say(rows[-1])
    rows.append(step_row(generator, discriminator, label, slow_repeats, layers))
    say(rows[-1])
    return rows
