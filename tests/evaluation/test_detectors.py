"""Where feature networks come from, and what is said when they do not."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lvgan.cli import app, commands  # noqa: F401
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.evaluation import detectors
from lvgan.evaluation.detectors import (
    KNOWN,
    MissingDetectorError,
    fetch_detector,
    file_hash,
    find_detector,
    known_path,
    recorded_hash,
)
from tests.evaluation import standins

CPU = torch.device("cpu")
CLIPS = standins.videos(0, 3, 4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server of the folder ``site``."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def left(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["i3d", "inception"])
def test_a_missing_one_is_a_sentence_with_everything(name: str, tmp_path: Path) -> None:
    known = KNOWN[name]
    with pytest.raises(MissingDetectorError) as caught:
        find_detector(None, known.kind)
    text = str(caught.value)
    for part in (
        known.file,
        known.url,
        known.licence,
        str(known_path(known)),
        "Apache-2.0",
        f"--fetch {name}",
        "not checked",
        "--sha256",
    ):
        assert part in text
    assert "\n" not in text
    assert str(tmp_path) in text
    assert not (tmp_path / "cache").exists()


def test_fetched_once_and_checked_ever_after(
    tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = standins.save(standins.Clips(), tmp_path / "site/net.pt")
    monkeypatch.setitem(detectors.KNOWN, "i3d", replace(KNOWN["i3d"], url=f"{site}/net.pt"))
    found = find_detector("i3d", "clips", fetch=True, progress=False)
    path = known_path(KNOWN["i3d"])
    assert path.read_bytes() == source.read_bytes()
    assert found.sha256 == file_hash(source) == recorded_hash(path)
    assert left(tmp_path) == ["i3d_torchscript.pt", "i3d_torchscript.pt.json"]
    source.unlink()  # never asked for again
    assert find_detector("i3d", "clips", fetch=True).sha256 == found.sha256
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="was recorded when it was fetched: remove it"):
        find_detector("i3d", "clips")


def test_one_put_there_by_hand_is_taken_and_noted() -> None:
    path = known_path(KNOWN["i3d"])
    path.parent.mkdir(parents=True)
    standins.save(standins.Clips(), path)
    assert "by hand" in (find_detector(None, "clips").note or "")


def test_downloads_that_fail_leave_nothing(tmp_path: Path, site: str) -> None:
    page = tmp_path / "site/page.pt"
    page.write_text("<html>Sorry</html>")
    known = replace(KNOWN["i3d"], url=f"{site}/page.pt")
    with pytest.raises(DataError, match="no TorchScript file"):
        fetch_detector(known, progress=False)
    with pytest.raises(MachineError, match=r"could not be fetched.*404.*bring the file"):
        fetch_detector(replace(known, url=f"{site}/gone.pt"), progress=False)
    standins.save(standins.Clips(), tmp_path / "site/net.pt")
    with pytest.raises(DataError, match="not kept; check both"):
        fetch_detector(replace(known, url=f"{site}/net.pt"), sha256="0" * 64, progress=False)
    assert left(tmp_path) == []
    digest = file_hash(tmp_path / "site/net.pt")
    fetch_detector(replace(known, url=f"{site}/net.pt"), sha256=digest.upper(), progress=False)
    assert json.loads((known_path(known).with_name(known.file + ".json")).read_text())["sha256"] == digest


def test_contradictions_and_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        find_detector(None, "clips", fetch=True, offline=True)
    with pytest.raises(ConfigError, match="looks at frames, but one of clips"):
        find_detector("inception", "clips")
    with pytest.raises(MissingDetectorError, match="there is no such file"):
        find_detector(str(tmp_path / "none.pt"), "clips")
    with pytest.raises(MissingDetectorError, match="no nowhere_at_all to import"):
        find_detector("nowhere_at_all:features", "clips")
    with pytest.raises(ConfigError, match="module:function was expected"):
        find_detector("a:b-c", "clips")


def test_a_function_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lvgan_test_features.py").write_text(
        "import torch\n\ndef means(clips):\n    assert clips.dtype.name == 'uint8' and clips.ndim == 5\n"
        "    return torch.from_numpy(clips).double().mean((1, 2, 3))\n"
        "\ndef flat(clips):\n    return clips.mean((1, 2))\n"
        "\ndef broken(clips):\n    raise RuntimeError('no weights')\n"
    )
    for name in ("lvgan_test_features:means", f"{tmp_path}/lvgan_test_features.py:means"):
        found = find_detector(name, "clips")
        assert found.sha256 == file_hash(Path("lvgan_test_features.py"))
        np.testing.assert_allclose(found.load(CPU)(CLIPS), CLIPS.mean((1, 2, 3)), rtol=1e-12)
    with pytest.raises(ConfigError, match="no function other, but means, flat, broken"):
        find_detector("lvgan_test_features:other", "clips").load(CPU)
    with pytest.raises(DataError, match=r"\[3, 12, 3\] for 3 clips where floats \[3, D\]"):
        find_detector("lvgan_test_features:flat", "clips").load(CPU)(CLIPS)
    with pytest.raises(DataError, match=r"failed on 3 clips of 4x8x12x3 .RuntimeError: no weights"):
        find_detector("lvgan_test_features:broken", "clips").load(CPU)(CLIPS)


def test_torchscript_is_called_as_the_published_ones_are(tmp_path: Path) -> None:
    clips = find_detector(str(standins.save(standins.Clips(), tmp_path / "c.pt")), "clips").load(CPU)
    np.testing.assert_allclose(clips(CLIPS), [standins.clip_features(c) for c in CLIPS], rtol=1e-12, atol=1e-14)
    frames = find_detector(str(standins.save(standins.Frames(), tmp_path / "f.pt")), "frames").load(CPU)
    one = CLIPS[:, :1]
    np.testing.assert_allclose(frames(one), [standins.frame_features(c[0]) for c in one], rtol=1e-12, atol=1e-14)


def test_files_that_are_no_detectors(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"not a network")
    with pytest.raises(DataError, match="no TorchScript file that can be loaded"):
        find_detector(str(bad), "clips").load(CPU)
    wrong = find_detector(str(standins.save(standins.Frames(), tmp_path / "f.pt")), "clips")  # of the other kind
    with pytest.raises(DataError, match=r"must be callable as network.*rescale=True"):
        wrong.load(CPU)(CLIPS)
    with pytest.raises(DataError, match="NaN"):
        find_detector(str(standins.save(standins.Nans(), tmp_path / "n.pt")), "clips").load(CPU)(CLIPS)


class Falls(torch.nn.Module):
    """Fails in its own words."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert x.shape[2] > 100, "clips of more than 100 frames are needed"
        return x.float().mean(dim=[2, 3, 4])


def test_a_network_that_fails_says_why(tmp_path: Path) -> None:
    falls = find_detector(str(standins.save(Falls(), tmp_path / "f.pt")), "clips").load(CPU)
    with pytest.raises(DataError, match="clips of more than 100 frames are needed"):
        falls(CLIPS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("np.random.default_rng().normal(size=(len(clips), 4))", "could be reproduced: switch its randomness off"),
        ("sys.exit(0)", "failed on 3 clips of 4x8x12x3 .SystemExit: 0"),
        ("np.zeros((len(clips), 0))", r"gave float64 \[3, 0\] for 3 clips where floats \[3, D\]"),
    ],
)
def test_functions_that_cannot_be_trusted(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "features.py"
    file.write_text(f"import sys\nimport numpy as np\ndef features(clips):\n    return {body}\n")
    with pytest.raises(DataError, match=said):
        find_detector(f"{file}:features", "clips").load(CPU)(CLIPS)


def test_working_in_place_is_no_randomness(tmp_path: Path) -> None:
    file = tmp_path / "features.py"
    file.write_text("def features(clips):\n    clips //= 2\n    return clips.mean((1, 2, 3))\n")
    found = find_detector(f"{file}:features", "clips").load(CPU)(CLIPS.copy())
    np.testing.assert_allclose(found, (CLIPS // 2).mean((1, 2, 3)), rtol=1e-12)


def test_a_module_that_fails_is_told(tmp_path: Path) -> None:
    file = tmp_path / "features.py"
    file.write_text("def features(clips:\n")
    with pytest.raises(ConfigError, match=r"failed while it was imported .SyntaxError"):
        find_detector(f"{file}:features", "clips").load(CPU)


def test_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All compile and name options that exist; the one that needs nothing runs."""
    text = (Path(__file__).parents[2] / "examples/detectors.md").read_text()
    recipes = re.findall(r"```python\n# (\w+)\.py:.*?--detector (\w+:\w+).*?\n(.*?)```", text, re.DOTALL)
    assert [name for name, _, _ in recipes] == ["mean_colors", "videomae", "vjepa"]
    monkeypatch.chdir(tmp_path)
    for name, _, code in recipes:
        Path(f"{name}.py").write_text(code)
        compile(code, name, "exec")
    found = find_detector(recipes[0][1], "clips").load(CPU)(CLIPS)
    np.testing.assert_allclose(found.reshape(3, 2, 3) * 255, CLIPS[:, [0, -1]].mean((2, 3)), rtol=1e-12)
    used = re.findall(r"lvgan eval (\w+)([^\n`]*)", text)
    assert len(used) > 8
    for command, rest in used:
        shown = CliRunner().invoke(app, ["eval", command, "--help"], env={"COLUMNS": "200"}).output
        for option in re.findall(r"(?<= )--[a-z-]+", rest.partition("#")[0]):
            assert option in shown, (command, option)
