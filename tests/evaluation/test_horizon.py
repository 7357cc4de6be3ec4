"""Long-horizon figures of constructed videos whose answers are known, and of small networks."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lvgan.data.encoding import open_writer
from lvgan.errors import DataError
from lvgan.evaluation import horizon as hz
from lvgan.evaluation.color import color_similarity
from lvgan.evaluation.horizon import Horizon, Plan, measure_horizon
from lvgan.evaluation.horizon_plots import plot_drift, plot_horizon, plot_motion, plot_repetition
from lvgan.evaluation.horizon_scores import horizon_scores, repetition_sentence, source_sentence, write_horizon_csv
from lvgan.evaluation.long_videos import long_videos
from lvgan.evaluation.models import UpscaledSource, open_model
from lvgan.evaluation.protocol import Score, compare, read_scores, write_scores
from lvgan.evaluation.sources import ArraySource, FunctionSource, StoredSource, open_source
from lvgan.sizes import Size
from tests import checkpoints
from tests.evaluation.footage import fade, loop, noisy, scene

PLAN = Plan(frames=320, dense=320, videos=6, starts=2)


def source(folder: Path, name: str, *videos: np.ndarray) -> ArraySource:
    np.save(folder / f"{name}.npy", np.stack(videos))
    return ArraySource(folder / f"{name}.npy", name)


def measured(folder: Path, name: str, *videos: np.ndarray, plan: Plan = PLAN, real: bool = False) -> Horizon:
    return measure_horizon(source(folder, name, *videos), plan, real=real)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [scene(320, seed) for seed in range(12)]


@pytest.fixture
def footage(tmp_path: Path, scenes: list[np.ndarray]) -> Horizon:
    return measured(tmp_path, "footage", *scenes[:6], real=True)


def test_times_are_log_spaced() -> None:
    times = Plan(frames=10_000).times()
    assert times[0] == 0
    assert times[-1] == 9999
    assert (np.diff(times) > 0).all()
    octaves = np.log2(times[times >= 16])
    assert np.diff(octaves).max() < 0.35
    assert len(times) < 60


def test_drift_is_colour_similarity_at_those_times(tmp_path: Path) -> None:
    video = scene(300, 5)
    found = measured(tmp_path, "a", video)
    (track,) = found.tracks
    assert track.frames == 300
    for row, start in zip(track.drift, (0, 75), strict=True):
        curve = color_similarity(video[start:])
        inside = found.times < 300 - start
        np.testing.assert_allclose(row[inside], curve[found.times[inside]], atol=1e-12)
        assert np.isnan(row[~inside]).all()
    mean, std, count = found.drift()
    assert mean[0] == 1
    assert count.max() == 1
    assert std[0] == 0
    np.testing.assert_allclose(mean[1], np.mean([color_similarity(video[s:])[1] for s in (0, 75)]))


def test_a_fade_drifts_a_freeze_and_a_loop_do_not(tmp_path: Path) -> None:
    faded = measured(tmp_path, "fade", fade(320)).drift()[0]
    assert faded[1] > 0.4  # one colour a frame: of two starts, some share it with the next frame
    assert (np.diff(faded) <= 0).all()
    assert faded[-1] == 0
    still = measured(tmp_path, "still", np.repeat(scene(1), 320, axis=0)).drift()[0]
    np.testing.assert_array_equal(still, 1)
    period = int(Plan(frames=320).times()[-1])
    looped = measured(tmp_path, "loop", loop(scene(period), period, 320)).drift()[0]
    assert looped[-1] == 1


def test_the_change_of_a_frame(tmp_path: Path) -> None:
    video = noisy(scene(200), 20)
    (track,) = measured(tmp_path, "a", video).tracks
    expected = np.sqrt(np.square(np.diff(video.astype(np.float64), axis=0)).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(track.change, expected, rtol=1e-5)


def test_motion_of_the_same_kind_is_near_and_of_others_is_far(
    tmp_path: Path, footage: Horizon, scenes: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    same = measured(tmp_path, "same", *scenes[6:])
    near = hz.motion_gap(same, footage, 200)
    assert near.low < 0.3
    assert near.low <= near.value <= near.high
    others = {
        "double": [scene(640, 20 + k)[::2] for k in range(6)],
        "shuffled": [video[rng.permutation(320)] for video in scenes[6:]],
        "noise": [rng.integers(0, 256, video.shape, np.uint8) for video in scenes[6:]],
        "frozen": [np.concatenate([v[:40], np.repeat(v[40:41], 280, axis=0)]) for v in scenes[6:]],
    }
    gaps = {name: hz.motion_gap(measured(tmp_path, name, *videos), footage, 200) for name, videos in others.items()}
    for name, gap in gaps.items():
        assert gap.low > near.value, name
    assert gaps["double"].value == pytest.approx(1, abs=0.5)  # an octave
    assert gaps["noise"].value > gaps["shuffled"].value > 2


def test_the_distance_of_known_changes(tmp_path: Path, footage: Horizon) -> None:
    """Twice the change everywhere is one octave, exactly; and no distance to itself."""
    import dataclasses

    doubled = [dataclasses.replace(track, change=2 * track.change) for track in footage.tracks]
    louder = dataclasses.replace(footage, tracks=tuple(doubled))
    assert hz.motion_gap(louder, footage, 50).value == pytest.approx(1)
    assert hz.rhythm_gap(louder, footage, 50).value == pytest.approx(0, abs=1e-12)
    assert hz.motion_gap(footage, footage, 50).value == 0
    assert hz.motion_gap(footage, footage, 50).low == 0
    gap = hz.drift_gap(footage, footage, 50)
    assert gap is not None
    assert gap.value == 0


def test_the_rhythm_is_the_autocorrelation() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(3, 40))
    found = hz.autocovariance(blocks)
    assert found.shape == (3, 21)
    for row, block in zip(found, blocks - blocks.mean(axis=1, keepdims=True), strict=True):
        full = np.correlate(block, block, "full")[39:] / 40
        np.testing.assert_allclose(row, full[:21], atol=1e-12)


def test_a_pulse_has_another_rhythm(tmp_path: Path, footage: Horizon, scenes: list[np.ndarray]) -> None:
    """Every eighth frame is repeated: on average the same motion, jerking."""
    jerking = [video[np.maximum.accumulate(np.arange(320) // 8 * 8)] for video in scenes[6:]]
    gap = hz.rhythm_gap(measured(tmp_path, "jerking", *jerking), footage, 200)
    assert gap.low > 0.2


def test_intervals_cover_the_difference_of_equal_sources() -> None:
    """Curves of one distribution: the interval reaches 0 in about 95 of 100 cases."""
    rng = np.random.default_rng(0)

    def mean(units: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ units / weights.sum()

    reached = 0
    for _ in range(60):
        a, b = (hz.Units(rng.normal(size=(20, 3)), np.arange(20)) for _ in range(2))
        reached += hz.bootstrap_gap(a, b, mean, "units", resamples=200).low == 0
    assert reached >= 50


def test_scores_say_what_was_measured(tmp_path: Path, scenes: list[np.ndarray], footage: Horizon) -> None:
    real_source = ArraySource(tmp_path / "footage.npy", "footage")
    looping = [loop(video, 64, 320) for video in scenes[6:]]
    made_source = source(tmp_path, "model", *looping)
    model = measure_horizon(made_source, PLAN)
    scores = horizon_scores(model, made_source, PLAN, footage, real_source)
    found = {score.metric: score for score in scores}
    assert set(found) == {
        "drift", "self-repetition", "motion", "drift-gap", "motion-gap", "rhythm-gap", "self-repetition-gap"
    }  # fmt: skip
    repetition = found["self-repetition"]
    assert repetition.value > 0.95
    assert [video["period"] for video in repetition.details["videos"]] == [64] * 6
    assert repetition.details["lags"][0][0] == 64
    assert repetition.details["best_match_over_neighbours"]["0.95"] == 0
    assert found["self-repetition-gap"].value > 0.9
    assert found["drift"].protocol["at_frame"] < 320
    assert source_sentence(model) == "6 of 6 videos repeat themselves; the worst repeats every 64 frames (2.1 s)"
    assert source_sentence(footage) == "none of 6 videos repeats itself"
    write_scores(tmp_path / "scores.json", scores)
    assert read_scores(tmp_path / "scores.json") == [
        Score(s.metric, s.value, s.std, s.interval, json.loads(json.dumps(s.details)), s.protocol) for s in scores
    ]
    other = Plan(frames=300, dense=300, videos=6)
    again = horizon_scores(measure_horizon(made_source, other), made_source, other)
    write_scores(tmp_path / "other.json", again)
    with pytest.raises(DataError, match="frames"):
        compare([tmp_path / "scores.json", tmp_path / "other.json"])


def test_sentences() -> None:
    video = scene(400)
    frozen = video.copy()
    frozen[150:] = frozen[150]
    again = video.copy()
    again[300:360] = again[100:160]
    texts = {}
    for name, frames in {"frozen": frozen, "again": again, "still": video[:1].repeat(300, axis=0)}.items():
        track = hz.read_track(_Clip(frames), Plan(frames=400, dense=400))
        texts[name] = repetition_sentence(hz.repetition_of(track))
    assert texts["frozen"] == "stands still from frame 150 on"
    assert texts["again"].endswith("of its moments again, most often after 200 frames")
    assert texts["still"] == "stands still"


class _Clip:
    name = "clip"

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures
        self.length = len(pictures)
        self.read: list[int] = []

    def frames(self, indices: list[int]):  # type: ignore[no-untyped-def]
        for index in indices:
            self.read.append(index)
            yield self.pictures[index]


def test_only_needed_frames_are_read_once_and_in_order() -> None:
    clip = _Clip(scene(1500))
    plan = Plan(frames=1500, dense=120, starts=1)
    hz.read_track(clip, plan)
    assert clip.read == sorted(set(clip.read))
    assert set(clip.read) == {*range(120), *plan.times().tolist()}


def test_a_video_gives_what_its_frames_give(tmp_path: Path) -> None:
    """An encoded loop: read in order, its codec's noise notwithstanding."""
    video = loop(scene(64).repeat(2, axis=1).repeat(2, axis=2), 64, 330)
    with open_writer(tmp_path / "a.mp4", 30) as writer:
        for frame in video:
            writer.write(frame)
    opened = open_source(tmp_path / "a.mp4")
    assert opened is not None
    found = measure_horizon(opened, PLAN)
    assert found.tracks[0].frames == 320
    assert found.repetitions[0].period == 64
    assert found.repetitions[0].share > 0.95
    assert found.size == "48x64"


def test_the_longest_videos_are_taken(tmp_path: Path) -> None:
    for name, frames in {"a": 60, "b": 100, "c": 200, "d": 150}.items():
        with open_writer(tmp_path / "films" / f"{name}.mp4", 30) as writer:
            for frame in scene(frames):
                writer.write(frame)
    opened = open_source(tmp_path / "films")
    assert opened is not None
    found = measure_horizon(opened, Plan(frames=320, dense=320, videos=2))
    assert [track.name for track in found.tracks] == ["c.mp4", "d.mp4"]
    short = open_source(tmp_path / "films" / "a.mp4")
    assert short is not None
    with pytest.raises(DataError, match="at least 80 were expected"):
        measure_horizon(short, PLAN)


def opened(path: Path, device: torch.device) -> StoredSource:
    """By name, for other processes."""
    found = open_source(path)
    assert found is not None
    return found


def test_neither_processes_nor_a_broken_video_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    films = tmp_path / "films"
    for name in "abc":
        with open_writer(films / f"{name}.mp4", 30) as writer:
            for frame in scene(120, ord(name)):
                writer.write(frame)
    alone = measure_horizon(opened(films, torch.device("cpu")), Plan(frames=120, dense=100, videos=4))
    with open_writer(films / "whole.mkv", 30) as writer:
        for frame in scene(200):
            writer.write(frame)
    whole = (films / "whole.mkv").read_bytes()
    (films / "whole.mkv").unlink()
    (films / "short.mkv").write_bytes(whole[: len(whole) // 4])  # its header still promises 200 frames
    done: list[int] = []
    for workers in (1, 2):
        caplog.clear()
        found = measure_horizon(
            opened(films, torch.device("cpu")), Plan(frames=120, dense=100, videos=4), workers=workers,
            open_source=functools.partial(opened, films), progress=lambda: done.append(1),
        )  # fmt: skip
        assert "left out: short.mkv ends after" in caplog.text
        assert [track.name for track in found.tracks] == ["a.mp4", "b.mp4", "c.mp4"]
        for ours, theirs in zip(found.tracks, alone.tracks, strict=True):
            np.testing.assert_array_equal(ours.drift, theirs.drift)
            np.testing.assert_array_equal(ours.change, theirs.change)
            np.testing.assert_array_equal(ours.thumbnails, theirs.thumbnails)
    assert len(done) % 2 == 0
    assert len(done) > 2 * 3 * 100
    for name in "abc":
        (films / f"{name}.mp4").unlink()
    with pytest.raises(DataError, match=r"short.mkv ends after \d+ frames, but 80 were expected"):
        measure_horizon(opened(films, torch.device("cpu")), PLAN)


def test_one_video_says_nothing_about_others(tmp_path: Path) -> None:
    one, other = (measured(tmp_path, str(k), scene(320, k)) for k in range(2))
    gap = hz.drift_gap(one, other)
    assert gap is not None
    shared = np.abs(one.drift_curves()[0] - other.drift_curves()[0])[1:]
    assert gap.value == pytest.approx(np.nanmean(shared))
    assert (gap.low, gap.high) == (0, 1)


def test_scores_of_one_command_stand_in_one_table(tmp_path: Path) -> None:
    """Though footage is often shorter than what a network makes."""
    plan = Plan(frames=400, dense=300, videos=2)
    sources = [source(tmp_path, "footage", *[scene(150, k) for k in range(2)])]
    sources += [source(tmp_path, f"model {n}", *[scene(n, k) for k in range(2)]) for n in (250, 400)]
    horizons = [measure_horizon(each, plan) for each in sources]
    scores = []
    for i, (each, found) in enumerate(zip(sources, horizons, strict=True)):
        reference = (None, None) if i == 0 else (horizons[0], sources[0])
        scores += horizon_scores(found, each, plan, *reference, horizons)
    times = {(s.label, s.protocol["at_frame"]) for s in scores if s.metric == "drift"}
    together = min(at for _, at in times)
    assert {label for label, at in times if at == together} == {"footage", "model 250", "model 400"}
    assert {label for label, at in times if at > 300} == {"model 400"}
    assert {s.protocol["matched_frames"] for s in scores if s.metric == "self-repetition-gap"} == {150}
    write_scores(tmp_path / "horizon.json", scores)
    assert f"drift at {together}" in compare([tmp_path / "horizon.json"])


def test_a_function_gives_whole_clips(tmp_path: Path) -> None:
    made = FunctionSource("made", lambda index, frames, seed: scene(frames, seed + index))
    found = measure_horizon(made, Plan(frames=200, dense=100, videos=2, seed=3))
    kept = measured(tmp_path, "kept", scene(200, 3), scene(200, 4), plan=Plan(frames=200, dense=100, videos=2))
    np.testing.assert_array_equal(found.drift_curves(), kept.drift_curves())


def test_a_network_computes_the_same_far_frames_as_in_order(tmp_path: Path) -> None:
    low, high = checkpoints.make(tmp_path)
    network = open_model(str(low), torch.device("cpu"))
    plan = Plan(frames=300, dense=96, videos=2, starts=1)
    found = measure_horizon(network, plan)
    for track, clip in zip(found.tracks, network.clips(2, 300, 0), strict=True):
        np.testing.assert_allclose(track.drift[0], color_similarity(clip)[found.times], atol=1e-12)
    pair = measure_horizon(open_model(f"{low}+{high}", torch.device("cpu")), Plan(frames=90, dense=80, videos=1))
    assert pair.size == "32x32"


def test_plots_and_table(tmp_path: Path, footage: Horizon, scenes: list[np.ndarray]) -> None:
    model = measured(tmp_path, "_a $5$ model", *[loop(v, 64, 320) for v in scenes[6:8]])
    still = measured(tmp_path, "still", np.repeat(scene(1), 320, axis=0))
    for name, plot in {"all": plot_horizon, "a": plot_drift, "b": plot_repetition, "c": plot_motion}.items():
        plot([footage, model, still], tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).mean() > 200  # light
            assert picture.width >= 800
    write_horizon_csv([footage, model], tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert list(rows[0]) == ["label", "frame", "seconds", "mean", "std", "videos"]
    assert (rows[0]["label"], rows[0]["frame"], rows[0]["videos"]) == ("footage", "0", "6")
    assert float(rows[0]["mean"]) == pytest.approx(1)
    assert {row["label"] for row in rows} == {"footage", "_a $5$ model"}


def test_super_resolution_of_footage_computes_only_what_is_needed(tmp_path: Path) -> None:
    _, high = checkpoints.make(tmp_path)
    low = ArraySource(source(tmp_path, "low", *[scene(100, k) for k in range(2)]).path, size=Size(16, 16))
    network = UpscaledSource(high, torch.device("cpu"), "sr", low)
    (video,) = long_videos(network, 1, 100, 80, 0)
    assert video.length == 100
    far = list(video.frames([0, 3, 50, 99, 100]))
    assert len(far) == 4
    (again,) = long_videos(network, 1, 100, 80, 0)
    every = list(again.frames(range(120)))
    assert len(every) == 100
    for index, frame in zip((0, 3, 50, 99), far, strict=True):
        np.testing.assert_array_equal(frame, every[index])
    assert measure_horizon(network, Plan(frames=100, dense=80, videos=1)).size == "32x32"
