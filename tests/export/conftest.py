"""Two small checkpoints, and their exports."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lvgan.cli import app, commands  # noqa: F401
from tests import checkpoints

ARGUMENTS = {  # sizes other than the default ones
    "lr.onnx": ("lr.pt", "--format", "onnx", "--frames", "16"),
    "sr.onnx": ("sr.pt", "--format", "onnx"),
    "lr.ts": ("lr.pt", "--format", "torchscript", "--frames", "32", "--batch", "2"),
    "sr.ts": ("world.pt", "--part", "sr", "--format", "torchscript", "--frames", "3", "--batch", "2"),
    "lr.safetensors": ("lr.pt", "--format", "safetensors"),
    "sr.safetensors": ("sr.pt", "--format", "safetensors"),
}


def lvgan(*arguments: object) -> str:
    """A command in this process, which has torch loaded; what it printed."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="package")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with lr.pt (16x16), sr.pt (32x32), world.pt (both) and the files above, and what each export printed."""
    folder = tmp_path_factory.mktemp("exports")
    lr, sr = checkpoints.make(folder)
    lvgan("bundle", lr, sr, "-o", folder / "world.pt")
    said = {}
    for name, (source, *options) in ARGUMENTS.items():
        said[name] = lvgan("export", folder / source, *options, "-o", folder / name)
    return folder, said
