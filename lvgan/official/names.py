"""The published networks' names of tensors, and ours.

Each function gives our name of a parameter or buffer, and "" for a filter, which is not learnt: we compute it.
"""

from __future__ import annotations

TEMPORAL_LAYERS = 6  # of the published low-resolution generator
_LR_GENERATOR = {
    "input_magnitude_ema_": "magnitude_",
    "input_magnitude_ema": "magnitude",
    "magnitude_ema": "mean_square",
    "to_rgb.": "rgb.",
    "w_to_temp_input.": "input.",
    "spatial_input": "constant",
    "latent_mapping.": "mapping.",
    "layer_": "layers.",
}
_LR_DISCRIMINATOR = {
    "conv_vid": "stem",
    "conv_skip": "skip",
    "conv1d_": "convs.",
    "linear_0": "hidden",
    "linear_1": "logit",
    "_bias": "bias",
}


def lr_generator_name(name: str, temporal_layers: int = TEMPORAL_LAYERS) -> str:
    """Of the low-resolution generator or a part of it."""
    if name.endswith(("filter", "blur_filters", "output_scale")):
        return ""
    for theirs, ours in _LR_GENERATOR.items():
        name = name.replace(theirs, ours)
    for kind, offset in (("temporal_layers.", 0), ("spatial_layers.", temporal_layers)):
        if name.startswith(kind):
            index, _, rest = name.removeprefix(kind).partition(".")
            if index.isdecimal():
                name = f"blocks.{int(index) + offset}.{rest}"
    return name


def lr_discriminator_name(name: str) -> str:
    """Of the low-resolution discriminator or a part of it."""
    if name.endswith("filter"):
        return ""
    for theirs, ours in _LR_DISCRIMINATOR.items():
        name = name.replace(theirs, ours)
    return name


def sr_layer_name(name: str) -> str:
    """Of one layer of the super-resolution generator."""
    return {"magnitude_ema": "magnitude.mean_square", "up_filter": "", "down_filter": ""}.get(name, name)


def sr_generator_name(name: str) -> str:
    """Of the super-resolution generator."""
    room, _, rest = name.removeprefix("SG3.").partition(".")
    if room == "mapping":
        return rest if rest == "w_avg" else rest.replace("fc", "mapping_layers.")
    if room == "resamples":
        return ""
    layer, _, tensor = rest.partition(".")
    if layer == "input":
        return {"weight": "input.weight", "features": "input.waves"}.get(tensor, name)
    ours = sr_layer_name(tensor)
    return f"layers.{layer[1:].split('_')[0]}.{ours}" if ours else ""


def sr_discriminator_name(name: str, size: int) -> str:
    """Of the super-resolution discriminator whose first block works at `size` samples a side."""
    room, _, rest = name.partition(".")
    if "filter" in rest:
        return ""
    if room == "b4":
        return rest.replace("fc.", "hidden.")
    if rest.startswith("fromrgb"):
        return rest.replace("fromrgb", "from_frames")
    if not room[1:].isdecimal() or int(room[1:]) < 1:
        return name
    index = (size // int(room[1:])).bit_length() - 1
    return f"blocks.{index}.{rest}"
