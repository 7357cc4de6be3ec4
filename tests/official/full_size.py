"""Writes a full-size file, or imports one and says what that took, each in a process of its own::

    python -m tests.official.full_size write lr|sr|snapshot FILE.pkl
    python -m tests.official.full_size measure FILE.pkl

A file has the published names, shapes and settings, and random weights; "snapshot" is of low-resolution training.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

from lvgan import checkpoint as ckpt
from lvgan.models.lr_discriminator import LrDiscriminator
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.resample import FrameResampler
from lvgan.models.sr_generator import SrGenerator
from lvgan.official.importing import import_file
from lvgan.official.names import sr_generator_name
from tests.conftest import GOLDEN
from tests.official.published import (
    Published,
    dumps,
    lr_generator_fields,
    lr_generator_tensors,
    published_lr_discriminator,
    tree,
)


def write(stage: str, path: Path) -> None:
    """One full-size file."""
    value = {"G_ema": _sr() if stage == "sr" else _lr()}
    if stage == "snapshot":
        value |= {"G": _lr(), "D": published_lr_discriminator(LrDiscriminator(128, 36, 64))}
    path.write_bytes(dumps(value))


def _lr() -> Published:
    network = LrGenerator(36, 64, footprint_min=125)
    return tree("VideoGenerator", lr_generator_tensors(network), lr_generator_fields(network, (125, 5000)))


def _sr() -> Published:
    network = SrGenerator(144, 256, 36, 64)
    state = network.state_dict()
    table = json.loads((GOLDEN / "sres_schedule.json").read_text())["hr144x256_lr36x64"]
    filters = {layer["name"]: layer for layer in table["layers"]}
    tensors = {}
    for name, shape in table["state"].items():
        ours = sr_generator_name(name)
        if ours:
            tensors[name] = state[ours]
            continue
        _, room, rest = name.split(".", 2)
        if room == "resamples":
            resampler = network.resamplers[_scale(network, int(rest.split(".")[0]))]
            assert isinstance(resampler, FrameResampler)
            tensors[name] = resampler.taps
        else:
            layer, which = rest.split(".")
            tensors[name] = torch.tensor(filters[layer][which])
        assert list(tensors[name].shape) == shape
    return tree("VideoGenerator", tensors, {"": {"channel_base": 32768, "channel_max": 512}})


def _scale(network: torch.nn.Module, index: int) -> str:
    scale = network.schedule[index].scale  # type: ignore[index, union-attr]
    return f"{scale.numerator}/{scale.denominator}"


def measure(path: Path) -> None:
    """Import `path`, save it, and print seconds and memory above what the libraries take."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    checkpoint = import_file(path)
    imported = time.perf_counter() - start
    ckpt.save(path.with_suffix(".pt"), checkpoint)
    whole = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    size = path.stat().st_size
    print(json.dumps({"bytes": size, "import_s": imported, "with_saving_s": whole, "memory": grown / size}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        measure(Path(sys.argv[2]))
