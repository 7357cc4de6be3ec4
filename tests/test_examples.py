"""The examples parse, name real options, and the Python one runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.models import build

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_the_configuration_is_legal(stage: str) -> None:
    values = cfg.merge(cfg.load_preset("small", stage), cfg.load_file(EXAMPLES / "ride.yaml", stage))
    assert cfg.build(stage, values).training.steps == 4000


@pytest.mark.parametrize("path", [*sorted(EXAMPLES.glob("*.sh")), EXAMPLES.parent / "README.md"], ids=lambda p: p.name)
def test_commands_and_options_exist(path: Path) -> None:
    from typer.testing import CliRunner

    from lvgan.cli import app, commands  # noqa: F401

    used = re.findall(r"^(?:pip .*&& )?lvgan ([a-z][a-z-]*)(.*?)(?:#.*|&& .*)?$", path.read_text(), re.MULTILINE)
    assert used
    for command, rest in used:
        names = [command, *re.findall(r"^ (color-sim|networks|info|verify|resize|data)\b", rest)]
        text = CliRunner().invoke(app, [*names, "--help"]).output
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest):
            assert re.search(rf"(^|[\s,/]){re.escape(option)}\b", text), f"lvgan {command} has no {option}"


def test_endless(tmp_path: Path) -> None:
    values = cfg.merge(cfg.load_preset("tiny", "lr"), {"data": {"lr": "16x16", "hr": "32x32"}})
    config = cfg.build("lr", values)
    assert isinstance(config, cfg.LrConfig)
    torch.manual_seed(0)
    weights = build.lr_generator(config).state_dict()
    checkpoint = ckpt.new_checkpoint("lr", step=0, config=cfg.to_dict(config), generator_ema=weights, data={})
    ckpt.save(tmp_path / "lr.pt", checkpoint)
    subprocess.run([sys.executable, EXAMPLES / "endless.py", "lr.pt"], cwd=tmp_path, check=True, timeout=120)
    from PIL import Image

    picture = Image.open(tmp_path / "strip.png")
    assert picture.size == (8 * 16, 3 * 16)
    assert max(high - low for low, high in picture.getextrema()) > 20
