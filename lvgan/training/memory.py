"""What fits: memory of this process and machine, and the largest micro-batch.

The number of micro-batches does not change the result of training, so the search only has to be safe.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lvgan.errors import MachineError
from lvgan.training import losses
from lvgan.training.distributed import Ranks
from lvgan.training.precision import differentiated_twice
from lvgan.training.task import Phase, Sample, Task

SPARE_GPU = 0.06  # of the GPU's memory: fragments, other augmentations, libraries that load later
SPARE_RAM = 0.2  # of the memory that is free
_NO_LIMIT = 2**60  # bytes; control groups write "no limit" as a number near 2**63

# --- memory of this machine -------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most bytes that this process has held since :func:`forget_peak` (or its start)."""
    peak = _status("VmHWM")
    if peak or sys.platform == "win32":
        return peak
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def forget_peak() -> None:
    """Count :func:`peak_resident` from here on, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(key: str) -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{key}:\s*(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else 0


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: of the machine and of its control group; None if unknown.

    `root` holds the folders ``proc`` and ``sys`` (tests name another).
    """
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.M)
    free = [int(found[1]) * 1024] if found else []
    return min(free + _group_rooms(root), default=None)


def _group_rooms(root: Path) -> list[int]:
    """What each control group that this process is in (versions 1 and 2, and those above) has left."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be that outside of it, and the group's files lie at the base.
        folder = base / path.lstrip("/")
        for place in [folder, *folder.parents]:
            room = _group_room(place, *names)
            if room is not None:
                rooms.append(room)
            if place == base:
                break
    return rooms


def _group_room(folder: Path, limit_name: str, used_name: str, cache: str) -> int | None:
    try:
        limit = (folder / limit_name).read_text().strip()
        used = int((folder / used_name).read_text())
        statistics = (folder / "memory.stat").read_text()
    except (OSError, ValueError):
        return None
    if not limit.isdigit() or int(limit) >= _NO_LIMIT:
        return None
    found = re.search(rf"^{cache} (\d+)$", statistics, re.M)
    return max(0, int(limit) - used + (int(found[1]) if found else 0))  # cached files give way


# --- the largest micro-batch ------------------------------------------------------------------------


def largest_micro_batch(
    task: Task, device: torch.device, say: Callable[[str], None], ranks: Ranks | None = None
) -> int:
    """Clips that fit into memory at once on every rank, found by trying every phase of a step with them.

    On a GPU sizes are tried until one does not fit. On other devices one and two clips are tried, and the rest is
    reckoned from what the second took. Weights, optimisers, averages and gradients are left as they were.

    Returns:
        the same on all ranks: 1 … the largest share of the batch that a rank has.

    Raises:
        MachineError: not even one clip fits.
    """
    ranks, batch = Ranks() if ranks is None else ranks, task.config.training.batch
    share = len(ranks.share(batch))  # a trial of more clips than the rank has would have no data
    largest = -(-batch // ranks.world)
    if largest == 1:
        return 1
    say("looking for the largest micro-batch that fits")
    ranks.agree(0)  # what is free is asked before anybody takes some
    found = _on_gpu(task, share, device) if device.type == "cuda" else _in_ram(task, share, ranks.neighbours)
    if found is None:
        say("this system does not say how much memory is free: micro-batches of 1 clip; --micro-batch N sets another")
    # Shares differ by a clip: where all of the smaller one fits, that says nothing against the larger one.
    limit = 1 if found is None else largest if found == share else found
    limit = -ranks.agree(-limit)
    if found is not None:
        say(f"micro-batches of {limit} of {_of(batch, largest)} fit into memory")
    return limit


def _of(batch: int, share: int) -> str:
    return f"{batch} clips" if share == batch else f"a process's {share} clips"


def candidates(batch: int) -> list[int]:
    """The micro-batches worth trying, ascending: the smallest for each number of parts that `batch` is cut into."""
    return sorted({-(-batch // parts) for parts in range(1, batch + 1)})


def _on_gpu(task: Task, batch: int, device: torch.device) -> int:
    spare = int(torch.cuda.get_device_properties(device).total_memory * SPARE_GPU)

    def fits(clips: int) -> bool:
        try:
            held = torch.empty(_still_missing(task) + spare, dtype=torch.uint8, device=device)
            try_step(task, clips)
            del held
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            _clear(task)

    return largest_that_fits(candidates(batch), fits)


def largest_that_fits(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """The largest of ascending `sizes` that fits, trying small ones first.

    Raises:
        MachineError: the first does not fit.
    """
    if not fits(sizes[0]):
        raise MachineError(
            "not even one clip fits into the memory of this device; use a smaller preset, "
            "training.checkpoint_activations=true or --precision bf16"
        )
    low, high, stride = 0, len(sizes), 1  # sizes[low] fits, sizes[high] does not
    while high - low > 1:
        tried = min(low + stride, high - 1)
        if fits(sizes[tried]):
            low, stride = tried, 2 * stride
        else:
            high = tried
            stride = max(1, (high - low) // 2)
    return sizes[low]


def _in_ram(task: Task, batch: int, processes: int) -> int | None:
    free = available()
    if free is None or not resident():
        return None
    before = resident()
    peaks = []
    for clips in (1, min(2, batch)):
        forget_peak()
        try_step(task, clips)
        peaks.append(peak_resident())
        _clear(task)
    return fitting_clips(batch, peaks[0] + _still_missing(task) - before, peaks[1] - peaks[0], free // processes)


def fitting_clips(batch: int, first: int, each: int, free: int) -> int:
    """How many of `batch` clips fit: the first takes `first` bytes, others `each`, and `free` are free.

    Raises:
        MachineError: not even one does.
    """
    room = int(free * (1 - SPARE_RAM))
    if first > room:
        raise MachineError(
            f"one clip takes {first / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; use a smaller preset or "
            "training.checkpoint_activations=true"
        )
    fit = batch if each <= 0 else 1 + (room - first) // each
    return max(size for size in [1, *candidates(batch)] if size <= max(fit, 1))


def try_step(task: Task, clips: int) -> None:
    """Every phase of a training step with so many clips, of which nothing is kept."""
    state = task.state()
    if "p" in state:  # augmentations take memory too: as much as they ever will
        task.load_state({**state, "p": getattr(task.config.training, "ada_max", 0.0)})
    try:
        _phases(task, clips)
    finally:
        task.load_state(state)
        _drop_gradients(task)


def _phases(task: Task, clips: int) -> None:
    settings = task.config.training
    real: Sample = tuple(x[:clips] for x in task.real(0))
    phase = Phase(settings.seed, 0, "memory", range(clips))
    _train_only(task, task.generator)
    losses.generator_loss(task.judge(task.fake(real, phase, update_ema=False), phase)).sum().backward()
    _train_only(task, task.discriminator)
    with torch.no_grad():
        fake = task.fake(real, phase, update_ema=False)
    losses.discriminator_loss_fake(task.judge(fake, phase)).sum().backward()
    losses.discriminator_loss_real(task.judge(real, phase)).sum().backward()
    with differentiated_twice(settings):
        penalty, logits = losses.r1_penalty(partial(task.judge, phase=phase), real)
    (penalty.sum() + 0 * logits.sum()).backward()


def _train_only(task: Task, network: nn.Module) -> None:
    _drop_gradients(task)
    for module in (task.generator, task.discriminator):
        module.requires_grad_(module is network)


def _drop_gradients(task: Task) -> None:
    for module in (task.generator, task.discriminator):
        for parameter in module.parameters():
            parameter.grad = None


def _clear(task: Task) -> None:
    _drop_gradients(task)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _still_missing(task: Task) -> int:
    """Bytes that a run will hold besides what a trial does: Adam's two moments, the average, the other gradients."""

    def size(network: nn.Module) -> int:
        tensors: list[Tensor] = list(network.parameters())
        return sum(p.numel() * p.element_size() for p in tensors)

    return 4 * size(task.generator) + 3 * size(task.discriminator)
