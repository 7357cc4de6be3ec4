"""Lists of intervals."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lvgan.data.cuts import match_cuts, parse_time, read_cuts, unmatched
from lvgan.errors import DataError


def test_golden_times(golden: Any) -> None:
    for text, seconds in golden.json("time_str").items():
        assert parse_time(text) == seconds


def test_times() -> None:
    cases = {"1:02:03.5": 3723.5, "90:00": 5400, "62.25": 62.25, 7: 7, "0:00:59.999": 59.999, " 5 ": 5}
    for text, seconds in cases.items():
        assert parse_time(text) == pytest.approx(seconds)
    for text in ("", "-5", "1:60", "1:60:00", "a", "1::2", "1:2:3:4", "nan", "inf", "1e3", "٣"):
        with pytest.raises(DataError, match="is not a time"):
            parse_time(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"a": ["0:24 5:57", "0:01 0:02.5"], "b/c.mp4": []}'),
        ("c.yaml", "a:\n  - 0:24 5:57\n  - [0:01, 2.5]\nb/c.mp4: []\n"),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_cuts(tmp_path / name) == {"a": [(1, 2.5), (24, 357)], "b/c.mp4": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": ["0:05 0:09", "0:01 0:06"]}', "'a'.*overlap"),
        ('{"a": ["0:05 0:04"]}', "'a'.*'0:05 0:04' ends"),
        ('{"a": ["0:05"]}', "'a'.*is not an interval"),
        ('{"a": ["0:05 x"]}', "'a'.*'x' is not a time"),
        ('{"a": 5}', "a list of intervals"),
        ('["a"]', "found list"),
        ('{"a": [], "a": []}', "'a' twice"),
        ("{", "not valid"),
        ("[" * 100_000, "nested too deep"),
        ("9" * 5000, "not valid"),
        ('{"a": ["0 99999999999999999999:00:00"]}', "'a'.*is more than 2778 hours"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_cuts(tmp_path / "c.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_cuts(tmp_path / "none.yaml")


def test_matching() -> None:
    sources = [PurePosixPath(p) for p in ("a.mp4", "x/b.mp4", "y/b.mp4", "y/c.mkv")]
    span = [(0.0, 1.0)]
    found = match_cuts({"a": span, "x/b.mp4": [], "c.mkv": span}, sources)
    assert {str(k): v for k, v in found.items()} == {"a.mp4": span, "x/b.mp4": [], "y/c.mkv": span}
    with pytest.raises(DataError, match="'zzz', and no such video"):
        match_cuts({"zzz": span}, sources)
    some = {"a": span, "zzz": span, "x/y": []}
    assert match_cuts(some, sources) == {PurePosixPath("a.mp4"): span}
    assert unmatched(some, sources) == ["zzz", "x/y"]
    with pytest.raises(DataError, match=r"'b', which fits x/b\.mp4 and y/b\.mp4"):
        match_cuts({"b": span}, sources)
    with pytest.raises(DataError, match=r"a\.mp4 twice"):
        match_cuts({"a": span, "a.mp4": span}, sources)


def test_a_video_named_twice_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "cuts.yaml"
    path.write_text('a.mp4: ["0 1"]\na.mp4: ["2 3"]\n')
    with pytest.raises(DataError, match=r"names .a\.mp4. twice"):
        read_cuts(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{[1,2]: ['0 1']}", "not valid.*unhashable"),
        ("{a: 1, [1, 2]: 2, {b: 1}: 3}", "not valid.*unhashable"),
        ("[" * 5000, "nested too deep"),
        ("a: [2001-13-45]", "not valid"),
        ("a: &x [b, b]\nb: &y [*x, *x]\nc: [*y, *y]\n", "'b' is not an interval"),
    ],
)
def test_yaml_that_is_no_list_of_cuts(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_cuts(tmp_path / "c.yaml")
    assert len(str(caught.value)) < 500
