"""Thousands of hostile and damaged pickles: nothing runs, memory stays bounded, each ends in one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lvgan.errors import CheckpointError
from lvgan.official.importing import import_file

MUTANTS = 1000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.official.hostile", str(folder), str(MUTANTS)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_is_run_opened_or_imported(report: dict[str, Any]) -> None:
    assert report["events"] == []
    assert report["left"] == ["x.pkl"]


def test_each_is_refused_in_one_sentence(report: dict[str, Any]) -> None:
    assert report["wrong"] == []
    assert report["hostile"] > 300
    assert report["read"] + report["refused"] > 3 * MUTANTS + report["hostile"]
    assert report["refused"] > 0.9 * (3 * MUTANTS)  # a mutant may have lost nothing that counts


def test_memory_stays_bounded(report: dict[str, Any]) -> None:
    assert report["grown"] < 300e6  # the process also had half a gigabyte of address space, and no more


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(Vx\ntR.", "asks for 'os.system', which is not among the names that published files need"),
        (b"\x82\x01.", "holds the instruction EXT1, which no published file has"),
        (b"(i__main__\nX\n.", "holds the instruction INST"),
        (b"\xfe", "holds the byte 0xfe for an instruction"),
        (b"\x8e" + b"\xff" * 7 + b"\x00abc.", r"72057594037927935 bytes should follow, but 4 do"),
        (b"}" * 1_000_001, "makes more than a million values"),
        (b"]q\x00h\x00a", "should follow, but 0 do"),
    ],
)
def test_the_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        import_file(path)
