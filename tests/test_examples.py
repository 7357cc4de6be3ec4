"""The examples parse, name real options, and the Python one runs."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lvgan
from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.data.prepare import prepare
from lvgan.sizes import Size
from tests import checkpoints
from tests.clips import decode, make_video
from tests.forked import Forked

EXAMPLES = Path(__file__).parents[1] / "examples"
SUBCOMMANDS = "color-sim|compare|fvd|fid|all|detectors|horizon|report|eval|networks|sample|info|verify|resize|data|cuts"
SUBCOMMANDS += "|push|pull"


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_the_configuration_is_legal(stage: str) -> None:
    values = cfg.merge(cfg.load_preset("small", stage), cfg.load_file(EXAMPLES / "ride.yaml", stage))
    assert cfg.build(stage, values).training.steps == 4000


@pytest.mark.parametrize(
    "path",
    [*sorted(EXAMPLES.glob("*.sh")), EXAMPLES / "paper_figures.md", EXAMPLES.parent / "README.md"],
    ids=lambda p: p.name,
)
def test_commands_and_options_exist(path: Path) -> None:
    from typer.testing import CliRunner

    from lvgan.cli import app, commands  # noqa: F401

    used = re.findall(r"^ *(?:pip .*&& )?lvgan ([a-z][a-z-]*)(.*?)(?:#.*|&& .*)?$", path.read_text(), re.MULTILINE)
    assert used
    for command, rest in used:
        names = [command, *re.findall(rf"^ ({SUBCOMMANDS})\b", rest)]
        text = CliRunner().invoke(app, [*names, "--help"]).output
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest):
            assert re.search(rf"(^|[\s,/]){re.escape(option)}\b", text), f"lvgan {command} has no {option}"


def run(name: str, *arguments: object, cwd: Path) -> None:
    done = Forked(_script, [str(EXAMPLES / name), *map(str, arguments)], cwd=cwd).finish()
    assert done.returncode == 0, done.stderr


def _script(command: list[str]) -> None:
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


def test_endless(tmp_path: Path) -> None:
    lr, _ = checkpoints.make(tmp_path)
    run("endless.py", lr, cwd=tmp_path)
    picture = Image.open(tmp_path / "strip.png")
    assert picture.size == (8 * 16, 3 * 16)
    assert max(high - low for low, high in picture.getextrema()) > 20


def test_run_onnx(tmp_path: Path) -> None:
    """Without lvgan, the video of `lvgan sample --seed 3`; the frames cross segments of 16."""
    from typer.testing import CliRunner

    from lvgan.cli import app, commands  # noqa: F401

    networks = checkpoints.make(tmp_path)
    for path, frames in zip(networks, ("16", "2"), strict=True):
        said = ["export", str(path), "--format", "onnx", "--frames", frames, "-o", str(path.with_suffix(".onnx"))]
        assert CliRunner().invoke(app, said).exit_code == 0
    code = "import sys; sys.modules['lvgan'] = sys.modules['torch'] = None\n" + (EXAMPLES / "run_onnx.py").read_text()
    (tmp_path / "alone.py").write_text(code.replace("from __future__ import annotations\n", ""))
    video = lvgan.load(*networks, seed=3)
    for output in ("pictures", "v.mp4"):
        command = [sys.executable, "alone.py", "lr.onnx", "sr.onnx", output, "--start=-7", "--frames=25", "--seed=3"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    made = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "pictures").iterdir())])
    assert made.shape == (25, 32, 32, 3)
    assert np.abs(made.astype(int) - video[-7:18]).max() <= 1
    assert np.abs(made.astype(int) - lvgan.load(*networks, seed=4)[-7:18]).max() > 4
    assert np.abs(decode(tmp_path / "v.mp4", 32, 32).astype(int) - made).mean() < 4


def test_crossfade(tmp_path: Path) -> None:
    lr, _ = checkpoints.make(tmp_path)
    run("crossfade.py", lr, cwd=tmp_path)
    made = decode(tmp_path / "crossfade.mp4", 16, 16).astype(int)
    one = lvgan.load(lr, seed=0)[0:64]
    assert len(made) == 600
    assert np.abs(made[:64] - one).mean() < 6
    assert np.abs(made[-64:] - lvgan.load(lr, seed=0)[536:600]).mean() > 6


@pytest.mark.parametrize(
    ("file", "stage", "frames"),
    [("world", "lr", 32), ("world", "sr", 4), ("ablation", "lr", 32), ("long", "lr", 128), ("moving", "lr", 16)],
)
def test_the_configurations_of_the_learning_example_are_legal(file: str, stage: str, frames: int) -> None:
    values = cfg.merge(cfg.load_preset("tiny", stage), cfg.load_file(EXAMPLES / "learning" / f"{file}.yaml", stage))
    assert cfg.build(stage, values).data.frames == frames


def test_enlarging(tmp_path: Path) -> None:
    networks = checkpoints.make(tmp_path)  # 16x16 to 32x32
    low = lvgan.load(networks[0], seed=1)[0:6].astype(int)
    for method in ("bicubic", networks[1]):
        out = tmp_path / f"by {Path(method).stem}"
        options = ("--factor=2", "--videos=2", "--frames=6", "-o", out)
        run("learning/enlarge.py", networks[0], method, *options, cwd=tmp_path)
        videos = [np.stack([np.asarray(Image.open(p)) for p in sorted(v.iterdir())]) for v in sorted(out.iterdir())]
        assert [video.shape for video in videos] == [(6, 32, 32, 3)] * 2
        assert videos[1].dtype == np.uint8
        assert videos[1].std(axis=(0, 1, 2)).min() > 2
        if method == "bicubic":
            small = videos[1].reshape(6, 16, 2, 16, 2, 3).mean((2, 4))
            assert np.abs(small - low).mean() < 0.1 * low.std()


def test_the_mean_of_checkpoints(tmp_path: Path) -> None:
    lr, _ = checkpoints.make(tmp_path)
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    whole = ckpt.load(lr, "lr")
    for step, factor in ((100, 9.0), (200, 1.0), (300, 2.0)):
        weights = {k: v * factor if v.is_floating_point() else v for k, v in whole["generator_ema"].items()}
        ckpt.save(folder / f"lr-step-{step:06d}.pt", whole | {"step": step, "generator_ema": weights})
    run("learning/average.py", "run", "--first=200", "--footprints", 20, 40, "-o", "mean.pt", cwd=tmp_path)
    mean = ckpt.load(tmp_path / "mean.pt", "lr")
    for name, tensor in whole["generator_ema"].items():
        expected = tensor * 1.5 if tensor.is_floating_point() else tensor
        np.testing.assert_allclose(mean["generator_ema"][name], expected, rtol=1e-6)
    generator = mean["config"]["model"]["generator"]
    assert (generator["footprint_min"], generator["footprint_max"]) == (20, 40)
    assert lvgan.load(tmp_path / "mean.pt", seed=0)[0:4].std() > 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("measure.py text.pt . . --untrained text.pt", "text.pt is not a checkpoint"),
        ("measure.py . . . --untrained gone.pt", "there is no gone.pt"),
        ("measure_sr.py gone . . --data . --untrained text.pt", "there is no gone"),
        ("measure.py . . . --untrained text.pt", r"\. is a folder, but a checkpoint file was expected"),
        ("measure.py . . . --untrained text.pt --steps 7", "has no checkpoint of step 7"),
        ("measure.py . . . --untrained text.pt --frames 0", "0 is not a whole number of at least 1"),
        ("measure_sr.py text.pt text.pt . --data . --untrained text.pt", r"\. holds no folders of shards"),
        ("measure_ablations.py right --held .", r"runs/right-0"),
        ("measure_ablations.py right --held gone", "there is no gone"),
        ("average.py . --first=1", r"\. has no low-resolution checkpoints"),
        ("average.py text.pt --first=1", "text.pt is a file"),
        ("enlarge.py gone bicubic", "there is no gone"),
        ("enlarge.py text.pt bicubic", "text.pt is not a checkpoint"),
        ("enlarge.py . text.pt", "text.pt is not a checkpoint"),
        ("enlarge.py text.pt gone.pt", "there is no checkpoint gone.pt"),
        ("enlarge.py text.pt bicubic --videos 0", "0 is not a whole number of at least 1"),
        ("pictures.py text.pt . --checkpoints text.pt", "text.pt is not a checkpoint"),
        ("pictures.py text.pt . --checkpoints text.pt --sr .", "--sr and --sr-held go together"),
        ("pictures.py text.pt . --sr gone --sr-held . --checkpoints text.pt", "there is no gone"),
    ],
)
def test_wrong_input_of_the_learning_example_is_one_sentence(command: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a network")
    name, *arguments = command.split()
    done = Forked(_script, [str(EXAMPLES / "learning" / name), *arguments, "-o", "out"], cwd=tmp_path).finish()
    assert done.returncode == 2
    assert re.search(said, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("network", [(), ("--plain", "--paired", "--stride=2")])
def test_how_soon_motion_is_seen(network: tuple[str, ...], tmp_path: Path) -> None:
    make_video(tmp_path / "raw" / "a.mp4", size="32x32", frames=20)
    prepare(tmp_path / "raw", tmp_path / "out", lr=Size(8, 8), hr=Size(16, 16))
    command = [str(EXAMPLES / "learning" / "motion.py"), "out", "--batch=2", "--steps=1", "--r1=1", *network]
    done = Forked(_script, command, cwd=tmp_path).finish()
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"step 0: right (\d+)%", done.stdout.strip())
    assert said
    assert 30 <= int(said[1]) <= 70


def test_a_loop_longer_than_footage_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The share of all moments of the network that repeat, not that of as many frames as footage has."""
    monkeypatch.syspath_prepend(EXAMPLES / "learning")
    from measure import measure

    repetition = [("self-repetition", 0.0), ("self-repetition", 1.0), ("self-repetition-gap", 0.0)]  # footage, network
    scores = {
        "color-sim": [("color similarity area", 0.0)],
        "fvd": [("fvd_32", 2.0)],
        "horizon": [*repetition, ("motion-gap", 3.0)],
    }
    for file, found in scores.items():
        listed = {"scores": [{"metric": metric, "value": value} for metric, value in found]}
        (tmp_path / f"{file}.json").write_text(json.dumps(listed))
    measured = measure(Path("n"), Path("h"), tmp_path, 32, 128, "16x16")
    assert measured == {"color-sim": 0.0, "fvd": 2.0, "motion": 3.0, "repetition": 1.0}


def test_footage_that_moves_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that moves by a frame a frame moves by a sixth."""
    monkeypatch.syspath_prepend(EXAMPLES / "learning")
    from motion import slowed

    clips = torch.arange(8.0).view(1, 1, 8, 1, 1) * torch.tensor([1.0, -3.0]).view(2, 1, 1, 1, 1)
    np.testing.assert_allclose(slowed(clips), clips / 6, rtol=1e-6)


def test_octaves_of_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of waves whose frequency is known; twice the amplitude is four times the energy."""
    monkeypatch.syspath_prepend(EXAMPLES / "learning")
    from measure_sr import octaves

    def wave(cycles: float, amplitude: float) -> np.ndarray:
        values = 128 + amplitude * np.cos(2 * np.pi * cycles * np.arange(64) / 64)
        return np.broadcast_to(np.round(values)[None, :, None, None], (2, 64, 64, 3)).astype(np.uint8)

    fine, coarse = octaves(wave(24, 40)), octaves(wave(12, 40))  # of 32, the highest
    assert fine[0] > 1e4 * fine[1]
    assert coarse[1] > 1e4 * coarse[0]
    assert octaves(wave(24, 80))[0] / fine[0] == pytest.approx(4, rel=0.03)  # whole numbers
    assert octaves(wave(4, 40)).max() < 1e-3 * fine[0]


def test_pixel_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture whose halves have two colours and that turns black after 3 of 4 frames."""
    monkeypatch.syspath_prepend(EXAMPLES / "learning")
    from features import pixel_statistics

    clip = np.zeros((1, 4, 16, 16, 3), np.uint8)
    clip[:, :3, :8] = (255, 0, 0)
    clip[:, :3, 8:] = (0, 0, 51)
    found = pixel_statistics(clip)[0]
    assert found.shape == (160,)
    color, change = found[:48].reshape(4, 4, 3), found[48:96].reshape(4, 4, 3)
    np.testing.assert_allclose(color[:2], np.broadcast_to([0.75, 0, 0], (2, 4, 3)))
    np.testing.assert_allclose(color[2:], np.broadcast_to([0, 0, 0.15], (2, 4, 3)))
    np.testing.assert_allclose(change[:2], np.broadcast_to([-2, 0, 0], (2, 4, 3)))
    energies = found[96:].reshape(4, 4, 4)  # along rows, down columns, motion, variation; rows, columns
    nothing = 0.1 * np.log(1e-6)
    np.testing.assert_allclose(energies[0], nothing)
    np.testing.assert_allclose(energies[1][[0, 2, 3]], nothing)  # the edge lies in the second row of cells
    edge = (0.299 - 0.114 * 0.2) ** 2 * 0.75 / 4
    np.testing.assert_allclose(energies[1][1], 0.1 * np.log(edge + 1e-6), rtol=1e-9)
    np.testing.assert_allclose(energies[2][0], 0.1 * np.log(0.299**2 / 3 + 1e-6), rtol=1e-9)
    np.testing.assert_allclose(energies[3], nothing, atol=1e-6)
