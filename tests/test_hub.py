"""Worlds on the Hub, without a network: files and model card of a dry run, and a Hub that is a folder."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import lvgan as library
from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan import hub
from lvgan.cli import app, commands  # noqa: F401
from lvgan.errors import CheckpointError, ConfigError, LvganError, MachineError
from lvgan.evaluation.protocol import Score, write_scores
from tests import checkpoints

REMINDER = "The weights were published by others under CC BY-NC 4.0."


def lvgan(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


class FolderHub:
    """Repositories as folders. Answers what the Hub would; keeps what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []  # type: ignore[var-annotated]

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", repo_id, private, exist_ok))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        self.calls.append(("download", repo_id, revision, allow_patterns))
        found = self.root / repo_id
        if not found.is_dir():
            raise _answer(RepositoryNotFoundError, 404)
        if revision not in (None, "v1"):
            raise _answer(RevisionNotFoundError, 404)
        cache = self.root / "cache" / repo_id
        cache.mkdir(parents=True, exist_ok=True)
        for path in found.iterdir():
            if path.name in allow_patterns:
                shutil.copyfile(path, cache / path.name)
        return str(cache)


def _answer(kind: type[Exception], status: int) -> Exception:
    """An error of the Hub, however this release of its package makes one."""
    error = kind.__new__(kind)
    error.args = (f"{status} from the server\nand more",)
    error.response = type("Response", (), {"status_code": status})()  # type: ignore[attr-defined]
    return error


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs with checkpoints, previews and scores, whose settings hold paths of this machine."""
    made = []
    for path in checkpoints.make(tmp_path):
        part = ckpt.load(path)
        stage = part["stage"]
        part["config"]["data"]["path"] = "/home/someone/secret place/horses"
        part["config"]["training"]["init"] = "/home/someone/first.pt"
        part |= {"step": 12345, "data": {"fingerprint": "0123456789abcdef"}, "optimizers": [torch.ones(3)]}
        part["provenance"] = {"path": "/home/someone/first.pt", "step": 7, "licence": REMINDER}
        run = tmp_path / "runs" / f"{stage}-0001"
        ckpt.save(run / "checkpoints" / f"{stage}-step-012345.pt", part)
        (run / "samples").mkdir()
        for name in ("step-000100.png", "step-012345.png", "step-012345-long.mp4", "step-012345.mp4"):
            (run / "samples" / name).write_text(f"{stage} {name}")
        (run / "config.yaml").write_text(cfg.to_yaml(cfg.build(stage, part["config"])))
        made.append(run)
        path.unlink()
    protocol = {"sources": {"model": {"label": "horses | 1"}}}
    write_scores(made[0] / "eval" / "fvd.json", [Score("fvd", 123.4, std=2.5, protocol=protocol)])
    (made[0] / "eval" / "color-sim.json").write_text('{"curves": []}')
    return made[0], made[1]


def test_the_files_of_a_dry_run(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = lvgan("hub", "push", *runs, "me/horses", "--dry-run", out)
    assert "nothing was sent" in said
    names = ["README.md", "config.json", "lr.safetensors", "preview.mp4", "preview.png", "sr.safetensors"]
    assert sorted(os.listdir(out)) == names
    assert (out / "preview.png").read_text() == "lr step-012345.png"  # not that of sr, which shows footage
    assert (out / "preview.mp4").read_text() == "lr step-012345-long.mp4"
    for run, stage in zip(runs, ("lr", "sr"), strict=True):
        pushed, original = ckpt.load(out / f"{stage}.safetensors", stage), ckpt.load(ckpt.find(run))
        assert set(pushed) == {"format", "version", "stage", "step", "config", "data", "versions", "generator_ema",
                               "provenance"}  # fmt: skip
        for name, tensor in original["generator_ema"].items():
            assert torch.equal(pushed["generator_ema"][name], tensor)
        assert pushed["config"]["model"] == original["config"]["model"]
    lvgan("hub", "push", out, "me/again", "--dry-run", tmp_path / "again")  # the folder is a world, too
    assert sorted(os.listdir(tmp_path / "again")) == [name for name in names if not name.startswith("preview")]
    again, first = (ckpt.load(folder / "sr.safetensors") for folder in (tmp_path / "again", out))
    assert {k: v for k, v in again.items() if k != "generator_ema"} == {
        k: first[k] for k in again if k != "generator_ema"
    }
    shutil.rmtree(tmp_path / "again")
    for path in out.iterdir():
        assert b"someone" not in path.read_bytes(), path
    assert json.loads((out / "config.json").read_text())["lr"]["data"]["path"] == "horses"
    assert sorted(os.listdir(tmp_path)) == ["out", "runs"]


def test_the_model_card(runs: tuple[Path, Path], tmp_path: Path) -> None:
    lvgan("hub", "push", *runs, "me/horses", "--dry-run", tmp_path / "out", "--licence", "cc-by-nc-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "lvgan"
    assert values["license"] == "cc-by-nc-4.0"
    assert values["pipeline_tag"] == "unconditional-image-generation"
    assert {"lvgan", "video-generation"} <= set(values["tags"])
    for words in (
        "# horses",
        "![Frames of generated clips, a clip a row](preview.png)",
        "lvgan hub pull me/horses -o world.pt",
        "lvgan sample world.pt",
        'lvgan.load("hf://me/horses"',
        "| frames (height x width) | 16x16 | 16x16 to 32x32 |",
        "| training steps | 12,345 | 12,345 |",
        "| parameters of the generator | 303,822 | 145,776 |",
        "trained on 'horses' (fingerprint 0123456789ab)".replace("'", "`"),
        "| fvd | horses \\| 1 | 123.4 ± 2.5 |",
        "Published under `cc-by-nc-4.0`.",
        REMINDER,
        "step: 7",
    ):
        assert words in body, words
    for command in ("hub pull", "sample"):  # what the card tells people to type exists
        assert "Usage" in lvgan(*command.split(), "--help")


def test_the_model_card_of_imported_weights(runs: tuple[Path, Path], tmp_path: Path) -> None:
    origin = {"source": "published pickle", "file": "horseback_lres.pkl", "sha256": "ab" * 32}
    for run in runs:
        part = ckpt.load(ckpt.find(run))
        part["config"]["data"]["path"] = ""
        part |= {"provenance": origin, "licence": REMINDER, "step": 0, "data": {}}
        ckpt.save(tmp_path / f"{part['stage']}.pt", part)
    lvgan("hub", "push", tmp_path / "lr.pt", tmp_path / "sr.pt", "me/theirs", "--dry-run", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "learnt from footage by others, imported into `lvgan`" in text
    assert "| training steps | unknown | unknown |" in text
    unnamed = "trained on data that the published file does not name"
    assert f"- low resolution: {unnamed}\n  - source: published pickle" in text
    assert text.count(REMINDER) == 1
    assert "Nobody has stated a licence" not in text


def test_one_network_alone_and_no_licence(runs: tuple[Path, Path], tmp_path: Path) -> None:
    part = ckpt.load(ckpt.find(runs[1]))
    del part["provenance"]
    ckpt.save(tmp_path / "alone.pt", part)
    lvgan("hub", "push", tmp_path / "alone.pt", "me/up", "--dry-run", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "sr.safetensors"]
    text = (tmp_path / "out" / "README.md").read_text()
    values = yaml.safe_load(text.split("---\n")[1])
    assert (values["license"], values["license_name"]) == ("other", "see-the-model-card")
    assert "Nobody has stated a licence" in text
    assert "lvgan upscale low.mp4 world.pt" in text
    assert "lvgan.load" not in text


def test_there_and_back(runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FolderHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "api_to_write", lambda: api)
    monkeypatch.setattr(hub, "api_to_read", lambda: api)
    assert "me/horses: sent README.md" in lvgan("hub", "push", *runs, "me/horses", "--private")
    (api.root / "me/horses/evil.pkl").write_bytes(b"\x80")
    said = lvgan("hub", "pull", "me/horses@v1", "-o", tmp_path / "world.pt")
    assert api.calls[0] == ("create", "me/horses", True, True)
    assert api.calls[1] == ("download", "me/horses", "v1", ["lr.safetensors", "sr.safetensors"])
    assert REMINDER in said
    world = ckpt.load(tmp_path / "world.pt", "bundle")
    assert ckpt.licence_of(world["lr"]) == REMINDER
    ours = library.load(*runs, seed=3)[0:3]
    assert np.array_equal(library.load(tmp_path / "world.pt", seed=3)[0:3], ours)
    assert np.array_equal(library.load("hf://me/horses", seed=3)[0:3], ours)
    assert np.array_equal(library.load(tmp_path / "hub/cache/me/horses", seed=3)[0:3], ours)  # the folder, too
    low = library.load(runs[0], "hf://me/horses", seed=3)
    assert np.array_equal(low[0:3], ours)
    with pytest.raises(ConfigError, match="exists already"):
        lvgan("hub", "pull", "me/horses", "-o", tmp_path / "world.pt")
    for address, words in (
        ("me/none", "there is no me/none on the Hub"),
        ("me/horses@v9", "no such revision"),
        ("horses", "no address on the Hub"),
        ("me/../x", "no address on the Hub"),
        ("me/horses@", "no address on the Hub"),
        ("-x/y", "no address on the Hub"),
    ):
        with pytest.raises(LvganError, match=words):
            hub.load(address)
    (api.root / "me/empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither lr\.safetensors nor"):
        library.load("hf://me/empty")
    content = (api.root / "me/horses/sr.safetensors").read_bytes()
    (api.root / "me/horses/sr.safetensors").write_bytes(content[:-9])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        lvgan("hub", "pull", "me/horses", "-o", tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lr-0001", "lr-0001", "me/x", "--dry-run", "o"), "another network of low resolution"),
        (("lr-0001", "nonsense", "--dry-run", "o"), "no address on the Hub"),
        (("none.pt", "me/x", "--dry-run", "o"), "there is no checkpoint"),
        (("lr-0001", "me/x", "--dry-run", "lr-0001"), "holds something already"),
        (("lr-0001", "me/x", "--dry-run", "o", "--licence", "Do what you want"), "an identifier"),
        (("lr-0001", "me/x@v1"), "leave @v1 out"),
        (("lr-0001", "other.pt", "me/x", "--dry-run", "o"), "use two checkpoints trained on the same data"),
    ],
)
def test_refusals(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(runs[0].parent)
    monkeypatch.setattr(hub, "api_to_write", lambda: FolderHub(runs[0]))
    other = ckpt.load(ckpt.find(runs[1]))
    other["config"]["data"]["lr"] = "8x8"
    ckpt.save(Path("other.pt"), other)
    before = sorted(os.listdir("."))
    with pytest.raises(LvganError, match=words):
        lvgan("hub", "push", *arguments)
    assert sorted(os.listdir(".")) == before


def test_without_a_token_or_the_package(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(MachineError, match="set HF_TOKEN, or log in once"):
        lvgan("hub", "push", *runs, "me/x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for arguments in (("push", *runs, "me/x"), ("pull", "me/x", "-o", "x.pt")):
        with pytest.raises(MachineError, match=r"pip install 'lvgan\[hub\]'"):
            lvgan("hub", *arguments)
    with pytest.raises(MachineError, match=r"pip install 'lvgan\[hub\]'"):
        library.load("hf://me/x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (("GatedRepoError", 403), "asks for its terms to be accepted"),
        (("HfHubHTTPError", 401), "refuses access to me/x"),
        (("HfHubHTTPError", 503), "503 from the server"),
        (("LocalEntryNotFoundError", 0), "check the network"),
    ],
)
def test_what_the_hub_answers(tmp_path: Path, error: tuple[str, int], words: str) -> None:
    import huggingface_hub.errors as errors

    class Failing(FolderHub):
        def snapshot_download(self, *_: Any, **__: Any) -> str:
            raise _answer(getattr(errors, error[0]), error[1])

        create_repo = snapshot_download  # type: ignore[assignment]

    with pytest.raises(LvganError, match=words):
        hub.load("me/x", Failing(tmp_path))
    with pytest.raises(LvganError, match=words):
        hub.upload(tmp_path, "me/x", False, Failing(tmp_path))


def test_the_real_hub_takes_what_is_passed() -> None:
    from huggingface_hub import HfApi

    given = {
        "create_repo": {"private", "exist_ok", "repo_id"},
        "upload_folder": {"repo_id", "folder_path", "commit_message"},
        "snapshot_download": {"repo_id", "revision", "allow_patterns"},
    }
    for name, arguments in given.items():
        assert arguments <= set(inspect.signature(getattr(HfApi, name)).parameters)
