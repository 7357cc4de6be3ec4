"""``lvgan bench cuts``: precision and recall of cut detection on videos with known transitions, beside other tools.

Each video of :mod:`lvgan.cli.cut_corpus` is encoded to H.264 once and given to every method as a file. A
transition counts as found if a detection lies within it or a frame beside a hard cut (two beside a fade or
dissolve, which begin and end unseen); every detection elsewhere is a false one.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lvgan.cli.cut_corpus import SIZE, Case, make_corpus
from lvgan.data.encoding import open_writer
from lvgan.data.program import find_ffmpeg
from lvgan.data.scenes import Cut, SceneFinder
from lvgan.data.video import read_frames
from lvgan.sizes import Size

Method = Callable[[Path], list[Cut]]
GROUPS = ("cut", "fade", "dissolve", "none")


def group(case: Case) -> str:
    """What a video is an example of: "cut", "fade", "dissolve", or "none" of them."""
    return case.cuts[0].kind if case.cuts else "none"


def score(case: Case, found: Sequence[Cut]) -> tuple[int, int]:
    """(transitions found, false detections)."""
    hits, left = 0, list(found)
    for cut in case.cuts:
        slack = 1 if cut.kind == "cut" else 2
        here = [f for f in left if f.start - slack <= cut.end and f.end + slack >= cut.start]
        hits += bool(here)
        left = [f for f in left if f not in here]
    return hits, len(left)


def ours(path: Path, size: Size = Size(36, 64)) -> list[Cut]:
    """What ``prepare --scene-cut auto`` finds."""
    finder, cuts = SceneFinder(), []
    for (frame,) in read_frames(path, [size], fps=None):
        cuts += finder.push(frame)
    return cuts + finder.finish()


def methods() -> dict[str, Method]:
    """All that are installed, by name."""
    found: dict[str, Method] = {"lvgan": ours}
    for threshold in (5, 10, 20):
        found[f"ffmpeg scdet {threshold}"] = _scdet(threshold)
    for limit in (0.2, 0.4):
        found[f"ffmpeg select scene {limit}"] = _select(limit)
    if importlib.util.find_spec("scenedetect") and importlib.util.find_spec("cv2"):
        for name in ("ContentDetector", "AdaptiveDetector", "HistogramDetector", "HashDetector", "ThresholdDetector"):
            found[f"PySceneDetect {name.removesuffix('Detector')}"] = _scenedetect(name)
    return found


def _ffmpeg_frames(path: Path, graph: str) -> list[int]:
    """Numbers of the frames whose metadata a filter prints. The files are our own, so nothing is guarded."""
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-i", f"file:{path}", "-vf", graph]
    said = subprocess.run([*command, "-f", "null", "-"], check=True, capture_output=True, text=True).stdout
    # 30 frames a second: select numbers frames anew, the time stays.
    return [round(float(time) * 30) for time in re.findall(r"pts_time:(\S+)", said)]


def _scdet(threshold: float) -> Method:
    graph = f"scdet=threshold={threshold}:sc_pass=1,metadata=print:file=-"
    return lambda path: [Cut(n, n) for n in _ffmpeg_frames(path, graph)]


def _select(limit: float) -> Method:
    graph = f"select='gt(scene,{limit})',metadata=print:file=-"
    return lambda path: [Cut(n, n) for n in _ffmpeg_frames(path, graph)]


def _scenedetect(name: str) -> Method:
    """A detector of PySceneDetect as it comes."""

    def find(path: Path) -> list[Cut]:
        scenedetect = importlib.import_module("scenedetect")
        scenes = scenedetect.detect(str(path), getattr(scenedetect, name)())
        return [Cut(start.frame_num, start.frame_num) for start, _ in scenes[1:]]

    return find


def run(seeds: Sequence[int], clips: Path | None, each: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Rows for `lvgan bench cuts`: one a method, with counts for every kind of video."""
    tools = methods()
    counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in tools}
    kinds: dict[str, str] = {}
    for case, path in _files(seeds, clips, each):
        kinds[case.kind] = group(case)
        for name, find in tools.items():
            hits, false = score(case, find(path))
            count = counts[name]
            count[case.kind, "videos"] += 1
            count[case.kind, "cuts"] += len(case.cuts)
            count[case.kind, "hits"] += hits
            count[case.kind, "false"] += false
            count[case.kind, "fired"] += bool(false)
    rows = [_row(name, count, kinds) for name, count in counts.items()]
    say(f"{'':<28} {'cuts':>13} {'fades':>13} {'dissolves':>13} {'all':>13}  videos without any that fired")
    for row in rows:
        cells = [f"{row[g]['recall']:6.2f} {row[g]['precision']:6.2f}" for g in ("cut", "fade", "dissolve", "all")]
        say(f"{row['name']:<28} {' '.join(cells)}  {row['none']['fired']:>4} of {row['none']['videos']}")
    say("each: recall, precision; the last precision counts the false detections of all videos")
    return rows


def _files(seeds: Sequence[int], clips: Path | None, each: int) -> Iterator[tuple[Case, Path]]:
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as folder, tqdm(unit="video", dynamic_ncols=True) as bar:
        path = Path(folder) / "case.mp4"
        for seed in seeds:
            for case in make_corpus(seed, clips, SIZE, each):
                with open_writer(path, 30, SIZE) as writer:
                    for frame in case.frames:
                        writer.write(frame)
                yield case, path
                bar.update()


def _row(name: str, count: Counter[tuple[str, str]], kinds: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    for part in (*GROUPS, "all"):
        members = [kind for kind, of in kinds.items() if part in (of, "all")]
        sums = {key: sum(count[kind, key] for kind in members) for key in ("videos", "cuts", "hits", "false", "fired")}
        hits, found = sums["hits"], sums["hits"] + sums["false"]
        row[part] = {
            **sums,
            "recall": hits / sums["cuts"] if sums["cuts"] else 1.0,
            "precision": hits / found if found else 1.0,
        }
    row["kinds"] = {kind: [count[kind, key] for key in ("cuts", "hits", "false")] for kind in kinds}
    return row
