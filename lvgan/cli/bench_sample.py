"""``lvgan bench sample``: what a frame costs, part by part, and that neither length nor place changes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lvgan import config as cfg
from lvgan.data.encoding import open_writer
from lvgan.device import return_freed_memory
from lvgan.generate.generators import Generators
from lvgan.generate.noise_sources import SeedNoise
from lvgan.generate.output import feed, frame_array
from lvgan.generate.timeline import SEGMENT, LrVideo, iterate
from lvgan.models.build import lr_generator, sr_generator
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.noise import frame_noise
from lvgan.models.sr_generator import SrGenerator
from lvgan.ops import native
from lvgan.training.memory import peak_resident

Row = dict[str, Any]
FIRST_FRAMES = (0, 10**6, 10**12)


def generators(preset: str, device: torch.device, *, sr: bool) -> Generators:
    """Untrained networks of a preset, 64x64 and 256x256: they cost what trained ones do."""
    torch.manual_seed(0)
    sizes = {"data": {"lr": "64x64", "hr": "256x256"}}
    low, high = (cfg.build(stage, cfg.merge(cfg.load_preset(preset, stage), sizes)) for stage in ("lr", "sr"))
    assert isinstance(low, cfg.LrConfig)
    assert isinstance(high, cfg.SrConfig)
    lr = lr_generator(low).eval().requires_grad_(False).to(device)
    return Generators(lr, sr_generator(high).eval().requires_grad_(False).to(device) if sr else None)


class _Clock:
    """Adds up the time that named calls take."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        started = self._now()
        yield
        self.seconds[name] += self._now() - started

    def wrap(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return work(*args, **kwargs)

        return timed

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def parts(networks: Generators, frames: int, sr_frames: int) -> list[Row]:
    """Frames a second of each stage, and the share of each part in it."""
    device = next(networks.lr.parameters()).device
    clock = _Clock(device)
    lr: LrGenerator = networks.lr
    originals = {"low-pass bank": lr.bank, "mapping": lr.mapping}
    for name, module in originals.items():
        module.forward = clock.wrap(name, module.forward)

    noise = clock.wrap("noise", SeedNoise(0))
    low = LrVideo(lr, noise)
    clip = low.clip(0, SEGMENT)  # warm up
    clock.seconds.clear()
    with clock.of("low resolution"):
        for start in range(0, frames, SEGMENT):
            clip = low.clip(SEGMENT + start, SEGMENT)
    for module in originals.values():
        del module.forward
    seconds = clock.seconds
    total = seconds["low resolution"]
    count = -(-frames // SEGMENT) * SEGMENT
    rows: list[Row] = [{"name": "low resolution", "frames_per_second": count / total, "share": 1.0}]
    inner = {name: seconds[name] for name in ("noise", "low-pass bank", "mapping")}
    inner["synthesis"] = total - sum(inner.values())
    rows += [{"name": f"  {name}", "frames_per_second": count / s, "share": s / total} for name, s in inner.items()]
    if networks.sr is not None:
        high = networks.sr
        rows.append(_rate("super-resolution", sr_frames, lambda: _upscaled(high, device, sr_frames)))
        clip = _upscaled(high, device, 1)
    rows += _encoders(clip)
    return rows


def _upscaled(sr: SrGenerator, device: torch.device, frames: int) -> torch.Tensor:
    with torch.inference_mode():
        w = sr.mapping(frame_noise(0, 0, 1, sr.z_dim)[:, 0].to(device)[None])
        for _ in range(frames):
            low = torch.zeros(1, sr.channels, 2 * sr.context + 1, *sr.lr_size).to(device)
            frame = sr.synthesis(w, low)[0].cpu()
    return frame


def _encoders(clip: torch.Tensor) -> list[Row]:
    arrays = [frame_array(clip[:, t % clip.shape[1]]) for t in range(128)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("v.mp4", "frames"):

            def encode(name: str = name) -> None:
                with open_writer(Path(folder) / name, 30) as writer:
                    for array in arrays:
                        writer.write(array)

            rows.append(_rate("encoding as " + {"v.mp4": "mp4", "frames": "PNG"}[name], len(arrays), encode))
    return rows


def _rate(name: str, frames: int, work: Callable[[], object]) -> Row:
    started = time.perf_counter()
    work()
    return {"name": name, "frames_per_second": frames / (time.perf_counter() - started), "share": None}


def first_frames(networks: Generators) -> list[Row]:
    """Seconds to the first frame at several places, each of a video that has computed nothing yet."""
    networks.video(0).clip(-1000, 1)  # warm up
    rows = []
    for index in FIRST_FRAMES:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            networks.video(0).clip(index, 1)
            times.append(time.perf_counter() - started)
        rows.append({"name": f"first frame at {index:,}", "seconds": sorted(times)[1]})
    return rows


def lengths(preset: str, device: str, counts: Sequence[int], say: Callable[[str], None]) -> list[Row]:
    """Peak memory and time a frame of low-resolution videos of several lengths, each made by a process of its own."""
    rows: list[Row] = []
    for count in counts:
        arguments = json.dumps({"preset": preset, "device": device, "count": count})
        run = [sys.executable, "-c", "from lvgan.cli.bench_sample import child; child()", arguments]
        answer = subprocess.run(run, stdout=subprocess.PIPE, check=True, env={**os.environ})
        measured = json.loads(answer.stdout)
        rows.append({"name": f"{count:,} frames", **measured})
        say(
            f"  {count:>9,} frames  {measured['peak_mb']:8.0f} MB peak "
            f"{measured['seconds'] / count * 1e3:10.2f} ms a frame"
        )
    return rows


def child() -> None:
    """Make one video of the length that the last argument says; print what it took as JSON."""
    options = json.loads(sys.argv[-1])
    device = torch.device(options["device"])
    return_freed_memory()  # as `lvgan sample` does
    native.activate(device, lambda message: None)
    video = generators(options["preset"], device, sr=False).video(0)
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder) / "v.mp4", 30) as writer:
        started = time.perf_counter()
        feed(iterate(video, 0, options["count"]), writer)
        seconds = time.perf_counter() - started
    result = {"seconds": seconds, "peak_mb": peak_resident() / 1e6}
    if device.type == "cuda":
        result["peak_gpu_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    print(json.dumps(result))


def run(
    preset: str, device: torch.device, counts: Sequence[int], sr: bool, say: Callable[[str], None]
) -> dict[str, list[Row]]:
    """All measurements of one preset, printed as they come."""
    networks = generators(preset, device, sr=sr)
    slow = preset == "paper" and device.type == "cpu"
    measured = {"parts": parts(networks, frames=256 if slow else 1280, sr_frames=3 if slow else 16)}
    for row in measured["parts"]:
        share = "" if row["share"] is None else f"{row['share']:8.1%}"
        say(f"  {row['name']:<24} {row['frames_per_second']:10.1f} frames/s {share}")
    measured["first frames"] = first_frames(networks)
    for row in measured["first frames"]:
        say(f"  {row['name']:<32} {row['seconds'] * 1e3:10.1f} ms")
    del networks
    measured["lengths"] = lengths(preset, str(device), counts, say)
    return measured
