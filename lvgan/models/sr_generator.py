"""The super-resolution generator: low-resolution frames and one latent -> high-resolution frames.

LongVideoGAN, section 3.3: the synthesis network of StyleGAN3-T without Fourier features;
every layer sees the neighbourhood of low-resolution frames, resampled to its rate. All
frames of a video share one latent. See :mod:`lvgan.models.sr_schedule` for the layers.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan.models.layers import FullyConnected, MagnitudeEMA, RunningStatistic, normalize_rms
from lvgan.models.resample import FrameResampler, stack_context
from lvgan.models.sr_schedule import Size, SrLayer, low_pass, sr_schedule
from lvgan.ops import bias_act, filtered_lrelu

RGB_GAIN = 0.25  # brings the output of the last layer to about [-1, 1]


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    padding: int = 0,
    gain: Tensor | None = None,
) -> Tensor:
    """A convolution whose input channels are scaled for each sample by its style.

    `x` [N * T, I, H, W] holds T frames for each of the N rows of `style` [N, I]; `weight` is
    [O, I, k, k]; `gain`, a scalar, scales the input. With `demodulate`, weights (per output
    channel) and styles (over the whole batch) are divided by their RMS, and the output by
    the norm of the modulated weights. Returns [N * T, O, H', W'].

    The weights are built once for each style, not for each frame, and the frames that share
    a style go through one plain convolution. (Measured on a CPU with four styles: as fast
    as or faster than scaling the activations, twice as fast as a grouped convolution.)
    """
    scale = None
    if demodulate:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        style = style * style.square().mean().rsqrt()
        scale = (style.square() @ weight.square().sum((2, 3)).t() + 1e-8).rsqrt()  # [N, O]
    if gain is not None:
        style = style * gain
    weights = weight[None] * style[:, None, :, None, None]  # [N, O, I, k, k]
    if scale is not None:
        weights = weights * scale[:, :, None, None, None]
    if len(weights) == 1:
        return F.conv2d(x, weights[0], padding=padding)
    clips = x.chunk(len(weights))
    return torch.cat([F.conv2d(clip, w, padding=padding) for clip, w in zip(clips, weights, strict=True)])


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU (RGB: 1x1, not demodulated, linear).

    ``forward(x [N * T, in, h, w], w [N, w_dim]) -> [N * T, out, h', w']``. `clamp` bounds
    the activations; `radial` makes the downsampling filter circular (StyleGAN3-R), except
    in critically sampled layers.
    """

    up_taps: Tensor | None
    down_taps: Tensor | None

    def __init__(self, spec: SrLayer, w_dim: int, *, clamp: float = 256.0, radial: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.clamp = clamp
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))
        self.affine = FullyConnected(w_dim, spec.in_channels, bias_init=1.0)
        self.magnitude = MagnitudeEMA()
        rate, circular = spec.inner_rate, radial and not spec.critical
        self._add_taps("up_taps", spec.up_taps, spec.in_cutoff, spec.in_half_width, rate, False)
        self._add_taps("down_taps", spec.down_taps, spec.out_cutoff, spec.out_half_width, rate, circular)

    def _add_taps(self, name: str, taps: int, cutoff: float, half_width: float, rate: float, radial: bool) -> None:
        design = None
        if taps > 1:
            design = torch.tensor(low_pass(taps, cutoff, half_width, rate, radial=radial), dtype=torch.float32)
        self.register_buffer(name, design, persistent=False)

    def forward(self, x: Tensor, w: Tensor, *, update_ema: bool = False) -> Tensor:
        spec = self.spec
        gain = self.magnitude.gain(x, update_ema)
        style = self.affine(w)
        if spec.is_rgb:
            style = style * (1 / math.sqrt(spec.in_channels * spec.kernel**2))
        x = modulated_conv2d(
            x, self.weight, style, demodulate=not spec.is_rgb, padding=spec.kernel - 1, gain=gain.to(x.dtype)
        )
        if spec.is_rgb:
            return bias_act(x, self.bias, clamp=self.clamp)
        return filtered_lrelu(
            x,
            self.up_taps,
            self.down_taps,
            self.bias,
            up=spec.up,
            down=spec.down,
            padding=spec.padding,
            clamp=self.clamp,
        )


class FourierInput(nn.Module):
    """A learned mixture of fixed waves below `cutoff`: ``forward() -> [1, channels, h, w]``.

    The waves are drawn when the module is made and kept in the checkpoint.
    """

    waves: Tensor

    def __init__(self, channels: int, size: Size, rate: float, cutoff: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels))
        # Frequencies uniform over the disc of radius `cutoff`, phases uniform.
        radius, angle = cutoff * torch.rand(channels).sqrt(), 2 * math.pi * torch.rand(channels)
        phase = torch.rand(channels)[:, None, None]
        rows, columns = ((torch.arange(s) - (s - 1) / 2) / rate for s in size)
        cycles = (radius * angle.sin())[:, None, None] * rows[None, :, None]
        cycles = cycles + (radius * angle.cos())[:, None, None] * columns[None, None, :]
        self.register_buffer("waves", torch.sin(2 * math.pi * (cycles + phase))[None])

    def forward(self) -> Tensor:
        weight = self.weight * (1 / math.sqrt(self.weight.shape[1]))
        return F.conv2d(self.waves, weight[:, :, None, None])


class SrGenerator(RunningStatistic):
    """Makes `height` x `width` frames from neighbourhoods of `lr_height` x `lr_width` frames.

    The factor between the sizes is any integer, the same for both sides. `context` frames
    before and after condition each frame. `channel_base`: a layer with cutoff f (in cycles
    per long edge) has ``min(channel_base / f, channel_max)`` channels, so the last one has
    ``2 * channel_base / long edge``; 16384 is the paper's network at 256. `layers` counts
    the synthesis layers without RGB, `critical` those at the full band; `margin` is the
    number of samples computed beyond the frame at every rate; `filter_size` the taps of a
    filter for each unit of its factor; `clamp` bounds activations; `fourier` and `radial`
    are StyleGAN3's input and its circular filters. `w_avg_decay` is that of the running
    mean of w, which truncation pulls towards.

    Raises :class:`lvgan.errors.ConfigError` for impossible sizes (spec section C).
    """

    w_avg: Tensor

    def __init__(
        self,
        height: int = 256,
        width: int = 256,
        lr_height: int = 64,
        lr_width: int = 64,
        *,
        channels: int = 3,
        context: int = 4,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 2,
        layers: int = 14,
        critical: int = 2,
        channel_base: float = 16384,
        channel_max: int = 512,
        margin: int = 10,
        filter_size: int = 6,
        clamp: float = 256.0,
        fourier: bool = False,
        radial: bool = False,
        w_avg_decay: float = 0.998,
    ) -> None:
        super().__init__(w_dim)
        self.size, self.lr_size = (height, width), (lr_height, lr_width)
        self.channels, self.context, self.z_dim, self.w_dim = channels, context, z_dim, w_dim
        self.w_avg_decay = w_avg_decay
        self.schedule = sr_schedule(
            self.size,
            self.lr_size,
            channels=channels,
            context=context,
            layers=layers,
            critical=critical,
            channel_base=channel_base,
            channel_max=channel_max,
            margin=margin,
            filter_size=filter_size,
            fourier=fourier,
        )
        widths = [z_dim] + [w_dim] * mapping_layers
        self.mapping_layers = nn.ModuleList(
            FullyConnected(a, b, activation="lrelu", lr_multiplier=0.01) for a, b in pairwise(widths)
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))
        self.input: FourierInput | None = None
        if fourier:
            first = self.schedule[0]
            features = first.in_channels - channels * (2 * context + 1)
            self.input = FourierInput(features, first.in_size, first.in_rate, first.in_cutoff)
        self.layers = nn.ModuleList(SynthesisLayer(spec, w_dim, clamp=clamp, radial=radial) for spec in self.schedule)
        sizes: dict[str, list[Size]] = {}
        for spec in self.schedule:
            sizes.setdefault(_scale_name(spec), []).append(spec.in_size)
        scales = {_scale_name(spec): spec.scale for spec in self.schedule}
        self.resamplers = nn.ModuleDict(
            {name: FrameResampler(self.lr_size, scales[name], wanted, margin) for name, wanted in sizes.items()}
        )

    def mapping(self, z: Tensor, *, truncation: float = 1.0, update_ema: bool = False) -> Tensor:
        """Latents [N, z_dim] -> [N, w_dim]; `truncation` below 1 pulls them to their mean."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected [N, {self.z_dim}]")
        w = normalize_rms(z)
        for layer in self.mapping_layers:
            w = layer(w)
        if update_ema:
            self.observe(w.mean(0), len(w))
        return w if truncation == 1 else self.w_avg.lerp(w, truncation)

    def move(self, mean: Tensor) -> None:
        """Move the running mean of w towards `mean` [w_dim]."""
        self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_decay))

    def synthesis(self, w: Tensor, lr: Tensor, *, update_ema: bool = False) -> Tensor:
        """As :meth:`forward`, with latents [N, w_dim] that are mapped already."""
        self._check_frames(lr, w.shape[0])
        N, T = lr.shape[0], lr.shape[2] - 2 * self.context
        frames = lr.transpose(1, 2).flatten(0, 1)  # [N * (T + 2 * context), C, h, w]
        x = None
        if self.input is not None:
            x = self.input().expand(N * T, -1, -1, -1)
        scale, region = "", frames
        size, condition = (0, 0), frames
        for spec, layer in zip(self.schedule, self.layers, strict=True):
            resampler = self.resamplers[_scale_name(spec)]
            assert isinstance(resampler, FrameResampler)
            if _scale_name(spec) != scale:
                scale, size = _scale_name(spec), (0, 0)
                region = resampler(frames)
            if spec.in_size != size:
                size = spec.in_size
                condition = stack_context(resampler.fit(region, size).unflatten(0, (N, -1)), self.context)
            x = layer(condition if x is None else torch.cat([x, condition], 1), w, update_ema=update_ema)
        assert x is not None
        return (x * RGB_GAIN).unflatten(0, (N, T)).transpose(1, 2)

    def _check_frames(self, lr: Tensor, count: int) -> None:
        expected = f"[{count}, {self.channels}, more than {2 * self.context}, {self.lr_size[0]}, {self.lr_size[1]}]"
        wanted = (count, self.channels, *self.lr_size)
        if lr.ndim != 5 or (*lr.shape[:2], *lr.shape[3:]) != wanted or lr.shape[2] <= 2 * self.context:
            raise ValueError(f"lr has shape {tuple(lr.shape)}, expected {expected}")

    def forward(self, z: Tensor, lr: Tensor, *, truncation: float = 1.0, update_ema: bool = False) -> Tensor:
        """Latents [N, z_dim] and frames [N, C, T + 2 * context, h, w] -> [N, C, T, H, W].

        Values are nominally in [-1, 1]. `update_ema` moves the running statistics (the
        magnitudes of all layers, the mean of w); training does it in the discriminator's
        phase only.
        """
        w = self.mapping(z, truncation=truncation, update_ema=update_ema)
        return self.synthesis(w, lr, update_ema=update_ema)


def _scale_name(spec: SrLayer) -> str:
    return f"{spec.scale.numerator}/{spec.scale.denominator}"
