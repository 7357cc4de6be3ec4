"""How a run computes: precision, layout in memory, recomputed activations, compiled networks.

All of it may change when a run goes on: checkpoints hold float32 weights under the same names whatever is chosen.

=========  ==========================================================================================================
precision  what it means
=========  ==========================================================================================================
``fp32``   float32 everywhere (published setting of the low resolution)
``tf32``   as ``fp32``, but NVIDIA GPUs since Ampere may round factors to 10 bits; elsewhere the same as ``fp32``
``bf16``   activations in bfloat16: the whole low resolution but the discriminator's head, the four highest
           resolutions of both super-resolution networks. The same as ``fp32`` on a CPU without bfloat16 (x86: without
           AVX-512): to imitate it takes tens of times as long
``fp16``   activations in float16 at the four highest resolutions of super-resolution (published setting). There is no
           loss scaler, as published: activations are clamped to 256. A step whose gradients overflow is skipped and
           counts as ill health like any other (:mod:`lvgan.training.health`), from the first step on: nothing makes
           overflows ordinary, as a scaler's search for its scale would. The low resolution refuses it: a clip of 128
           frames spreads the gradient of one logit so thin that without a scaler most of it would round to zero.
=========  ==========================================================================================================

Weights, styles, demodulation, running statistics, logits, losses, the average and Adam stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lvgan import config as cfg
from lvgan.errors import ConfigError, MachineError
from lvgan.models.running import Network

_HALF = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def computing(
    config: cfg.Config,
    generator: nn.Module,
    discriminator: nn.Module,
    device: torch.device,
    say: Callable[[str], None],
) -> Iterator[None]:
    """Let both networks compute as ``training.*`` says; what is global is put back at the end.

    To be entered before the generator is copied for its average.

    Raises:
        ConfigError: fp16 for the low resolution.
        MachineError: bf16 on a GPU that has none.
    """
    s = config.training
    _check(config, device)
    if s.precision == "tf32" and device.type != "cuda":
        say(f"tf32 is a mode of NVIDIA GPUs; on {device.type} it is the same as fp32")
    if s.precision == "fp16" and device.type == "cpu":
        say("fp16 convolutions take many times as long as fp32 on most CPUs; bf16 does not")
    half = _HALF[s.precision]
    if half is torch.bfloat16 and device.type == "cpu" and not cpu_has_bfloat16():
        say("this CPU has no bfloat16, and imitating it takes tens of times as long: bf16 is the same as fp32 here")
        half = None
    for network in (generator, discriminator):
        if isinstance(network, Network):
            network.run_in(half, recompute=s.checkpoint_activations)
            if s.channels_last:
                keep_channels_last(network)
    with ExitStack() as stack:
        stack.enter_context(_rounding(s.precision == "tf32"))
        if s.compile:
            stack.enter_context(_compiled([generator, discriminator], device, say))
        yield


def _check(config: cfg.Config, device: torch.device) -> None:
    precision = config.training.precision
    if precision == "fp16" and isinstance(config, cfg.LrConfig):
        raise ConfigError(
            "training.precision is 'fp16', in which most gradients of the low resolution round to zero; "
            "use bf16, or fp32 as published"
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MachineError(
            f"--precision bf16 was asked for, but {torch.cuda.get_device_name(device)} has no bfloat16; "
            "use fp32 (or fp16 for super-resolution)"
        )


def cpu_has_bfloat16() -> bool:
    """Whether convolutions on this CPU are quick in bfloat16."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def _rounding(tf32: bool) -> Iterator[None]:
    """Whether float32 convolutions and products may be rounded to TF32 on a GPU (torch allows it for some)."""
    # Torch's newer settings of the same (fp32_precision) make torch.compile fail, which asks for these.
    places: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    kept = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = tf32
        yield
    finally:
        for place, value in zip(places, kept, strict=True):
            place.allow_tf32 = value


def keep_channels_last(network: nn.Module) -> None:
    """Lay the weights of convolutions out with their channels last; the activations follow them."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in formats and parameter.shape[2:].numel() > 1:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


# --- torch.compile ------------------------------------------------------------------------------------

RECOMPILE_LIMIT = 256  # the parts share one piece of code, and each is compiled for several uses


@contextmanager
def _compiled(networks: list[nn.Module], device: torch.device, say: Callable[[str], None]) -> Iterator[None]:
    """Compile the parts of the networks: what is the same in each is compiled once, and names stay as they are."""
    reason = _no_compiler(device)
    if reason is not None:
        say(f"the networks are not compiled, because the compiler does not work here ({reason})")
        yield
        return
    import torch._dynamo

    parts = [part for network in networks if isinstance(network, Network) for part in network.parts()]
    for part in parts:
        part.compile(dynamic=False)
    say(f"compiling {len(parts)} parts of the networks: the first steps take minutes")
    patch: Any = torch._dynamo.config.patch
    try:
        # A part that the compiler cannot do runs as it is.
        with patch(recompile_limit=RECOMPILE_LIMIT, accumulated_recompile_limit=4 * RECOMPILE_LIMIT,
                   suppress_errors=True):  # fmt: skip
            yield
    finally:
        for part in parts:
            part._compiled_call_impl = None


def _no_compiler(device: torch.device) -> str | None:
    """Why torch.compile does not work for `device`; None if it does."""

    def probe(x: Tensor) -> Tensor:
        return (x * 2 + 1).sin().sum()

    try:
        x = torch.ones(64, device=device, requires_grad=True)
        torch.compile(probe)(x).backward()
    except Exception as error:  # whatever a missing compiler, driver or header leads to
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


@contextmanager
def differentiated_twice(settings: cfg.Training) -> Iterator[None]:
    """Run compiled parts as they are: torch.compile has no second derivatives, which R1 needs."""
    if not settings.compile:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
