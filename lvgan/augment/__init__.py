"""Augmentation of clips: DiffAugment, time stretching, ADA. No randomness but a given generator's."""

from lvgan.augment.ada import CONDITIONING, DISCRIMINATOR, AdaController, AdaSettings, ada_augment
from lvgan.augment.diffaug import diff_augment
from lvgan.augment.time_stretch import random_time_stretch

__all__ = [
    "CONDITIONING",
    "DISCRIMINATOR",
    "AdaController",
    "AdaSettings",
    "ada_augment",
    "diff_augment",
    "random_time_stretch",
]
