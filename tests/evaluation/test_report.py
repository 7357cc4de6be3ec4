"""The page of a run: whole, safe, small, and readable in a real browser."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lvgan.data.encoding import open_writer
from lvgan.errors import MachineError
from lvgan.evaluation.protocol import Score
from lvgan.evaluation.report import (
    Facts,
    Film,
    Films,
    Listing,
    Note,
    Picture,
    Pictures,
    Scores,
    Section,
    report_page,
    write_report,
)
from tests.evaluation import browser
from tests.evaluation.footage import scene

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert(1)</script> & \"q\" 'a' \x00\u202e </pre></style>"


class Page(HTMLParser):
    """Elements, attributes and text; fails on what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(width: int = 640, height: int = 400, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(scene(1)[0]).resize((width, height)).save(data, kind)
    return data.getvalue()


def film(folder: Path) -> Film:
    with open_writer(folder / "a.mp4", 30) as writer:
        for frame in scene(20).repeat(4, axis=1).repeat(4, axis=2):
            writer.write(frame)
    return Film((folder / "a.mp4").read_bytes(), "clip 0", (96, 128))


def score(metric: str, label: str, value: float = 0.25, **protocol: object) -> Score:
    record = {"metric": metric, "sources": {"model": {"label": label, "path": "/a/" + "long" * 40}}, **protocol}
    return Score(metric, value, 0.125, (0.1, 0.4), {"found": [1, 2]}, record)


@pytest.fixture
def sections(tmp_path: Path) -> list[Section]:
    scores = [
        score("drift-gap", "model", frames=10_000),
        score("drift-gap", "other", 0.5, frames=10_000),
        score("drift-gap", "third", 0.75, frames=500),
        score("made-up metric " + "x" * 200, EVIL),
    ]
    strip = [Picture(picture(64, 64, "JPEG"), f"frame {k}", f"{k:,}", plot=False) for k in (0, 1, 10, 10_000)]
    return [
        Section("Scores", [Scores(scores), Pictures([Picture(picture(1700, 900), "a wide plot")] * 3, plots=True)]),
        Section("Samples", [Films([film(tmp_path)] * 4, "Four of them.")]),
        Section("A long video", [Pictures(strip, "Farther and farther apart.")]),
        Section(EVIL, [Note(EVIL), Facts([(EVIL, EVIL)]), Listing(EVIL, "a: 1\n" + "y" * 500 + EVIL), Note("")]),
        Section("One", [Picture(picture(), EVIL, EVIL)]),
    ]


def test_everything_is_in_it_and_closed(sections: list[Section]) -> None:
    page = Page(report_page("lr-0001", "low resolution", sections))
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.all("video")) == 4
    for video in page.all("video"):
        assert {"autoplay", "muted", "loop", "playsinline"} <= set(video)
        assert (video["width"], video["height"]) == ("128", "96")
    assert len(page.all("img")) == 3 + 4 + 1
    assert all(image["alt"] for image in page.all("img"))
    anchors = {attributes["href"] for attributes in page.all("a")}
    assert anchors == {f"#{attributes['id']}" for attributes in page.all("section")}
    assert "0.25 ± 0.125 · 0.1 to 0.4" in page.text
    assert "lr-0001" in page.text
    assert "10,000" in page.text


def test_scores_of_other_protocols_stand_on_other_cards(sections: list[Section]) -> None:
    cards = re.findall(r"<article>.*?</article>", report_page("t", "s", sections[:1]), re.S)
    assert [("model" in c, ">other<" in c, "third" in c) for c in cards[:2]] == [
        (True, True, False),
        (True, False, True),
    ]
    assert all(card.count("<summary>Protocol</summary>") == card.count('class="one"') for card in cards)


def test_nothing_is_fetched_and_nothing_runs(sections: list[Section]) -> None:
    text = report_page(EVIL, EVIL, sections)
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "poster", "srcset", "action"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "data:video/mp4;base64,",
                                         "#"))  # fmt: skip
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    security = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert security == ["default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"]


def test_names_are_escaped(sections: list[Section]) -> None:
    text = report_page(EVIL, EVIL, sections)
    assert "<script" not in text
    assert html.escape("<script>alert(1)</script>") in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert Page(text).text.count("alert(1)") >= 10


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3_000_000)
    films = [Film(noise, f"clip {k}", (64, 64)) for k in range(5)]
    text = report_page("t", "s", [Section("Samples", [Films(films)]), Section("End", [Note("the end")])])
    assert len(text) < 10_000_000
    page = Page(text)
    assert len(page.all("video")) == 2
    assert page.text.count("Left out: 3.0 MB more would make this page larger than 10 MB.") == 3
    assert "the end" in page.text
    video = page.all("video")[0]["src"]
    assert video is not None
    assert base64.b64decode(video.partition(",")[2]) == noise


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(tmp_path / "new" / "r.html", "t", "s", [])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.html"]
    Page((tmp_path / "new" / "r.html").read_text("utf-8"))
    with pytest.raises(MachineError, match="another place"):
        write_report(tmp_path / "new" / "r.html" / "x.html", "t", "s", [])


PROBE = """<script>addEventListener("load", async () => {
  const playing = [];
  for (const video of document.querySelectorAll("video")) {
    for (let i = 0; i < 50 && video.readyState < 2; i++) await new Promise(done => setTimeout(done, 100));
    playing.push([video.videoWidth, video.videoHeight, video.error && video.error.message]);
  }
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const wide = [...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.right > innerWidth + 0.5 || box.left < -0.5 || element.scrollWidth > element.clientWidth + 1
      && getComputedStyle(element).display != "inline" && element.clientWidth > 0;
  }).map(element => element.tagName + "." + element.className);
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  const small = [...document.querySelectorAll("body *")].filter(element => [...element.childNodes].some(
    node => node.nodeType == 3 && node.data.trim()) && parseFloat(getComputedStyle(element).fontSize) < 12).length;
  parent.postMessage({width: innerWidth, page: document.documentElement.scrollWidth, wide, broken, small,
    playing, fetched: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 40))}, "*");
})</script></body>"""
# Its own window is never narrower than 500 pixels; a frame in it is.
FRAME = """<!DOCTYPE html><title>nothing</title><script>
addEventListener("message", event => { document.title = JSON.stringify(event.data); });
</script><iframe src="probe.html" style="border: 0; width: {width}px; height: 844px"></iframe>"""


def looked_at(folder: Path, text: str, width: int) -> dict[str, Any]:
    """What PROBE finds in a browser of that width."""
    browser.chromium()
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # it would stop our own probe
    (folder / "probe.html").write_text(text.replace("</body>", PROBE), "utf-8")
    (folder / "frame.html").write_text(FRAME.replace("{width}", str(width)), "utf-8")
    options = ("--virtual-time-budget=20000", "--dump-dom")
    dumped = browser.run(folder, folder / "frame.html", *options, width=1400, height=900)
    title = re.search(r"<title>(.*?)</title>", dumped, re.S)
    assert title is not None
    found: dict[str, Any] = json.loads(html.unescape(title[1]))
    assert found["width"] == width
    return found


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_overflows_and_films_play(tmp_path: Path, sections: list[Section], width: int) -> None:
    found = looked_at(tmp_path, report_page("lr-0001 " + "a" * 120, "low resolution " + "b" * 120, sections), width)
    assert found["page"] <= width
    assert found["wide"] == []
    assert found["broken"] == 0
    assert found["small"] == 0
    assert found["playing"] == [[128, 96, None]] * 4
    assert [url for url in found["fetched"] if not url.startswith("data:")] == []


def test_the_browser_would_tell(tmp_path: Path) -> None:
    wrong = '<div class="w" style="width: 600px; font-size: 9px">x</div><img src="data:image/png;base64,AA">'
    found = looked_at(tmp_path, report_page("t", "s", []).replace("</main>", wrong + "</main>"), 390)
    assert "DIV.w" in found["wide"]
    assert found["page"] > 390
    assert (found["broken"], found["small"]) == (1, 1)


@pytest.mark.parametrize("size", [(390, 844), (1280, 900)])
def test_a_screenshot_shows_the_page(tmp_path: Path, sections: list[Section], size: tuple[int, int]) -> None:
    browser.chromium()
    write_report(tmp_path / "r.html", "lr-0001", "low resolution", sections)
    shot = tmp_path / "shot.png"
    browser.run(tmp_path, tmp_path / "r.html", f"--screenshot={shot}", width=size[0], height=size[1])
    with Image.open(shot) as image:
        assert image.size == size
        pixels = np.asarray(image.convert("L")).astype(int)
    assert (pixels > 235).mean() > 0.3  # its ground
    assert (pixels < 90).mean() > 0.01  # its text
    rows = (np.ptp(pixels, axis=1) > 60).mean()
    assert rows > 0.3  # all over the page


def test_every_score_has_a_name_that_people_read() -> None:
    metrics = ["kid", "fid_inf", "fvd_128_stride_8_inf", "kvd_16", "fvd_16"]
    page = report_page("r", "", [Section("Scores", [Scores([Score(m, 1.0) for m in metrics])])])
    names = re.findall("<h3>(.*?)</h3>", page)
    assert names == [
        "FVD of 128 frames, one in 8", "FVD of 16 frames", "Kernel video distance of 16 frames", "FID", "KID"
    ]  # fmt: skip
    assert page.count("Extrapolated to endless samples") == 2
    assert page.count("lower is better") == 5
