"""What the numbers of ``log.jsonl`` and TensorBoard mean. Each is a mean over the steps since the last line,
but for metrics, which are measured at previews (:mod:`lvgan.training.metrics`)."""

from __future__ import annotations

SCALARS = {
    "loss/generator": "softplus(-D(fake)), mean over generated clips; 0.69 where the discriminator cannot tell",
    "loss/discriminator_fake": "softplus(D(fake)), mean over generated clips; 0.69 where it cannot tell, 0 at best",
    "loss/discriminator_real": "softplus(-D(real)), mean over real clips; 0.69 where it cannot tell, 0 at best",
    "loss/r1": "squared norm of the gradient of D(real) by the clip, mean over clips, before its weight r1_gamma / 2; "
    "only of steps with R1",
    "logits/fake": "mean output of the discriminator for generated clips; below 0 it thinks them generated",
    "logits/real": "mean output of the discriminator for real clips; above 0 it thinks them real",
    "ada/p": "strength of the discriminator's augmentation, 0 to training.ada_max (super-resolution)",
    "ada/sign": "mean sign of D(real), which ada/p keeps at training.ada_target (super-resolution)",
    "health/bad_generator_gradients": "parameters of the generator whose gradient was not finite; such a step is "
    "skipped",
    "health/bad_discriminator_gradients": "the same of the discriminator",
    "health/fake_std": "variety of generated clips: standard deviation across a batch of clips that are shrunk to at "
    "most 8x8x8, mean over places; near 0 the generator has collapsed",
    "health/real_std": "the same of the batch of real clips",
    "health/fake_motion": "standard deviation over time of the same shrunk clips; near 0 they stand still",
    "health/real_motion": "the same of the batch of real clips",
    "health/largest_magnitude": "largest running mean square of the generator's features, which layers divide by; "
    "starts at 1",
    "metric/color_area": "mean absolute difference of the colour similarity curves of generated and real clips, "
    "measured at previews; lower is better (low resolution)",
    "metric/low_error": "error of super-resolved real clips averaged down to low resolution, over the contrast of the "
    "real ones; 0 is perfect, 1 a blank picture (super-resolution)",
    "metric/detail": "what is finer than a pixel of low resolution, generated over real; below 1 is blurred "
    "(super-resolution)",
    "metric/sharpness": "what is finer than 2x2 pixels, generated over real (super-resolution)",
    "metric/flicker": "change of the detail from frame to frame, generated over real (super-resolution)",
    "metric/sr_distance": "low_error + mean |log2| of the three ratios; lower is better (super-resolution)",
    "time/preview": "wall-clock time of previews and metrics, in seconds",
    "time/seconds_per_step": "wall-clock time of a training step, without log, preview and checkpoint",
}

#: Lines with an ``event`` have a ``culprit`` too; a roll-back also has ``from`` and ``to`` (steps) and ``attempt``.
EVENTS = {
    "non-finite gradient": "a gradient held a NaN or an infinity: the step was skipped",
    "non-finite loss": "a loss was NaN or infinite; no checkpoint is written until it is finite again",
    "exploding magnitude": "a running mean square of features left what is sound",
    "saturated discriminator": "the discriminator tells every clip, and teaches no more",
    "collapsed variance": "generated clips are alike, or stand still",
    "rolled back": "training went back to the newest checkpoint, and on from there with other randomness",
    "checkpoint not written": "the disk is full or cannot be written; training went on",
}
