"""The page for people, and the cuts file that can be edited and read back."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvgan.data.cuts import read_cuts
from lvgan.data.filters import frame_numbers
from lvgan.data.report import ReportClip, VideoParts, thumbnail, write_cuts_yaml, write_report
from lvgan.data.scenes import Cut
from lvgan.errors import MachineError


class Page(HTMLParser):
    """The elements of a page, and its text; an element that is not closed is a failure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "br", "meta", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def clip(name: str = "a/clip_000", first: bytes | None = None, **changes: object) -> ReportClip:
    picture = np.full((36, 64, 3), (200, 30, 30), np.uint8)
    data = first or thumbnail(picture)
    fields: dict[str, object] = {"source": "a.mp4", "start": 0.0, "end": 4.0, "frames": 120}
    return ReportClip(name, first=data, last=thumbnail(picture[:, ::-1] // 2), **(fields | changes))  # type: ignore[arg-type]


def test_the_page(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    clips = [clip(begins="cut", ends="fade"), clip("b", marks=("static", "dropped"), start=3661.5, end=3700)]
    write_report(path, "Footage", clips, {"broken.mp4": "is empty (0 bytes)"})
    page = Page(path.read_text("utf-8"))
    images = page.all("img")
    assert len(images) == 4
    for image in images:
        assert image["loading"] == "lazy"
        kind, _, data = (image["src"] or "").partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 36)
    red = Image.open(io.BytesIO(base64.b64decode((images[0]["src"] or "").partition(",")[2]))).getpixel((5, 5))
    assert np.abs(np.array(red) - (200, 30, 30)).max() < 12, "the first frame comes first"
    text = " ".join(page.words)
    for words in ("Footage", "a/clip_000", "a.mp4", "120 frames", "cut → fade", "static", "dropped", "1:01:01.50"):
        assert words in text
    for words in ("broken.mp4", "is empty (0 bytes)", "2 clips, 240 frames; 1 marked; 1 file skipped"):
        assert words in text
    assert [f.get("class") for f in page.all("figure")] == [None, "marked"]
    assert not re.search(r"https?:|@import|url\(|<script|<link", path.read_text("utf-8"))
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&amp;\n\udcff'
    write_report(tmp_path / "r.html", evil, [clip(evil, source=evil, marks=(evil,), begins=evil)], {evil: evil})
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in text
    page = Page(text)
    assert sum('<script>alert("x")</script>&amp;' in words for words in page.words) >= 6


def test_thousands_of_clips(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (144, 256, 3), dtype=np.uint8)
    hard = thumbnail(noise)  # noise is what JPEG can do least about
    assert max(Image.open(io.BytesIO(hard)).size) == 128
    clips = [clip(f"clip_{n:04d}", first=hard) for n in range(2000)]
    write_report(tmp_path / "r.html", "many", clips, {})
    assert (tmp_path / "r.html").stat().st_size < 15_000_000
    assert (tmp_path / "r.html").read_text("utf-8").count("<img") == 4000


def test_an_empty_report(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", "none", [], {})
    assert "0 clips" in " ".join(Page((tmp_path / "r.html").read_text("utf-8")).words)


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/full")
def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError):
        write_report(tmp_path / "file" / "r.html", "t", [clip()], {})
    (tmp_path / f".r.html.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(MachineError, match="disk is full"):
        write_report(tmp_path / "r.html", "t", [clip()], {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- the cuts file --------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [30, 24, 25, 29.97, 30000 / 1001, 23.976, 59.94, 60, 1000, 0.1, 7.3])
def test_every_frame_survives_the_round_trip(tmp_path: Path, fps: float) -> None:
    rng = np.random.default_rng(0)
    edges = np.unique(np.concatenate([np.arange(0, 80), rng.integers(80, 400_000, 400)]))
    edges = edges[: len(edges) // 2 * 2]
    kept = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    write_cuts_yaml(tmp_path / "cuts.yaml", [VideoParts("a/video 1.mp4", kept)], fps)
    read = read_cuts(tmp_path / "cuts.yaml")
    assert frame_numbers(read["a/video 1.mp4"], fps) == kept
    again = tmp_path / "again.yaml"
    write_cuts_yaml(again, [VideoParts("a/video 1.mp4", frame_numbers(read["a/video 1.mp4"], fps))], fps)  # type: ignore[arg-type]
    assert again.read_bytes() == (tmp_path / "cuts.yaml").read_bytes()


def test_names_survive_the_round_trip(tmp_path: Path) -> None:
    names = [
        "a.mp4",
        "-dash: x.mp4",
        "# no remark",
        "über/夏.mp4",
        'quote".mp4',
        "yes",
        "1",
        "a\nb",
        "\\u0041",
        "x " * 90,
    ]
    write_cuts_yaml(tmp_path / "c.yaml", [VideoParts(name, [(0, 30)]) for name in names], 30)
    assert list(read_cuts(tmp_path / "c.yaml")) == names


def test_what_was_removed_stands_in_remarks(tmp_path: Path) -> None:
    parts = VideoParts(
        "a.mp4",
        kept=[(0, 300), (304, 108_000)],
        cuts=[Cut(302, 302), Cut(108_010, 108_040, "fade")],
        dropped={(108_042, 108_050): "shorter than\n128 frames"},
    )
    write_cuts_yaml(tmp_path / "c.yaml", [parts, VideoParts("b.mp4", [], [Cut(3, 3)])], 30)
    text = (tmp_path / "c.yaml").read_text("utf-8")
    assert text.split("\n")[3:] == [
        '"a.mp4":',
        '  - "0:00.0000 0:10.0000"',
        "  # cut at 0:10.0666",
        '  - "0:10.1333 1:00:00.0000"',
        "  # fade 1:00:00.3333 1:00:01.3333 (30 frames)",
        '  # "1:00:01.4000 1:00:01.6666" not used: shorter than 128 frames',
        '"b.mp4": []',
        "  # cut at 0:00.1000",
        "",
    ]
    assert read_cuts(tmp_path / "c.yaml")["b.mp4"] == []


def test_no_videos(tmp_path: Path) -> None:
    write_cuts_yaml(tmp_path / "c.yaml", [], 30)
    assert read_cuts(tmp_path / "c.yaml") == {}
