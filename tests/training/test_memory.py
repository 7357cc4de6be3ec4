"""What fits: available memory, the search for a micro-batch, and the estimate of a run."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from lvgan.config import build
from lvgan.errors import MachineError
from lvgan.training import memory
from lvgan.training.distributed import Ranks
from lvgan.training.dry_run import dry_run
from lvgan.training.trainer import Trainer
from tests.training.toy import ToyTask

MB = 2**20


def _machine(root: Path, free: int, cgroup: str = "", **files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable:   {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for folder, content in files.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            (place / name).write_text(text)
    return root


def test_available_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert memory.available(_machine(tmp_path, 512 * MB)) == 512 * MB
    assert memory.available(tmp_path / "no linux") is None


def test_a_control_group_of_version_2_limits(tmp_path: Path) -> None:
    # The group of a service, under a slice with a limit of its own that is smaller still.
    inner = {
        "memory.max": f"{400 * MB}\n",
        "memory.current": f"{100 * MB}\n",
        "memory.stat": f"inactive_file {30 * MB}\n",
    }
    outer = {"memory.max": f"{200 * MB}\n", "memory.current": f"{150 * MB}\n", "memory.stat": "inactive_file 0\n"}
    root = _machine(tmp_path, 10**10, "0::/slice/job\n", **{"slice/job": inner, "slice": outer})
    assert memory.available(root) == 50 * MB
    (root / "sys/fs/cgroup/slice/memory.max").write_text("max\n")
    assert memory.available(root) == 330 * MB  # cached files give way


def test_a_control_group_of_version_1_limits(tmp_path: Path) -> None:
    group = {
        "memory.limit_in_bytes": f"{300 * MB}\n",
        "memory.usage_in_bytes": f"{100 * MB}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MB}\n",
    }
    # In a container: the path is that outside of it.
    root = _machine(tmp_path, 10**10, "4:cpu,memory:/docker/abc\n3:cpuset:/\n", memory=group)
    assert memory.available(root) == 250 * MB
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory.available(root) == (10**10 // 1024) * 1024


def test_the_peak_of_this_process_is_seen() -> None:
    if not memory.resident():
        assert memory.available() is None  # no /proc: then nothing is measured at all
        return
    memory.forget_peak()
    before = memory.peak_resident()
    with mmap.mmap(-1, 64 * MB) as block:  # not from the heap, where an earlier test may have left as much free
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        held = memory.resident()
    assert memory.peak_resident() - before >= 50 * MB
    assert held > before - 30 * MB


def test_candidates_are_the_smallest_for_each_number_of_parts() -> None:
    assert memory.candidates(1) == [1]
    assert memory.candidates(12) == [1, 2, 3, 4, 6, 12]
    for batch in range(1, 40):
        for size in memory.candidates(batch):
            assert size == 1 or -(-batch // (size - 1)) > -(-batch // size)


@pytest.mark.parametrize("batch", [2, 7, 32, 64])
def test_the_search_finds_the_largest_that_fits(batch: int) -> None:
    sizes = memory.candidates(batch)
    for limit in range(1, batch + 2):
        tried: list[int] = []

        def fits(size: int, limit: int = limit, tried: list[int] = tried) -> bool:
            tried.append(size)
            return size <= limit

        assert memory.largest_that_fits(sizes, fits) == max(s for s in sizes if s <= limit)
        assert len(tried) == len(set(tried))
    with pytest.raises(MachineError, match="not even one clip"):
        memory.largest_that_fits(sizes, lambda size: False)


def test_fitting_clips() -> None:
    # 80 of 100 are used: the first takes 30, each other one 10.
    assert memory.fitting_clips(64, 30, 10, 100) == 6
    assert memory.fitting_clips(4, 30, 10, 100) == 4
    assert memory.fitting_clips(64, 30, 0, 100) == 64
    assert memory.fitting_clips(64, 80, 10, 100) == 1
    with pytest.raises(MachineError, match="one clip takes"):
        memory.fitting_clips(64, 81, 10, 100)


class _Adaptive(ToyTask):
    """With ADA's strength, as super-resolution has it; notes what the trial saw."""

    def __init__(self, **training: object) -> None:
        super().__init__(build("sr", {"training": {"batch": 4, "r1_every": 4, **training}}))
        self.p, self.seen = 0.1, set[tuple[int, float]]()

    def judge(self, sample, phase):
        self.seen.add((len(sample[0]), self.p))
        return super().judge(sample, phase)

    def state(self):
        return {"p": self.p}

    def load_state(self, state):
        self.p = state["p"]


def test_a_trial_leaves_nothing_behind_and_sees_the_strongest_augmentation() -> None:
    task = _Adaptive()
    before = [p.clone() for m in (task.generator, task.discriminator) for p in m.parameters()]
    memory.try_step(task, 3)
    after = [p for m in (task.generator, task.discriminator) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)
    assert not any(update for _, _, update in task.updates)
    assert task.seen == {(3, task.config.training.ada_max)}
    assert task.p == 0.1


def test_the_largest_micro_batch_on_this_machine_is_the_batch_of_a_toy() -> None:
    said: list[str] = []
    task = _Adaptive()
    found = memory.largest_micro_batch(task, torch.device("cpu"), said.append)
    assert found == (4 if memory.available() else 1)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (3, [3, 3], 3),  # 8 clips on 3 ranks: the third has 2 clips, all of which fit
        (1, [3, 3], 1),
        (3, [3, 1], 1),
        (2, [2, 3], 2),
    ],
)
def test_ranks_take_what_fits_on_all(
    own: int, others: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, asked, said = ToyTask(build("lr", {"training": {"batch": 8}})), [], []

    class Three(Ranks):
        """Rank 0 of three with 3, 3 and 2 clips; what the others allow is given."""

        def __init__(self) -> None:
            super().__init__()
            self.world = 3

        def agree(self, number: int) -> int:
            return max(number, *(-limit for limit in others)) if number else 0

    def in_ram(task: object, batch: int, processes: int) -> int:
        asked.append((batch, processes))
        return own

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(memory, "_in_ram", in_ram)
    assert memory.largest_micro_batch(task, torch.device("cpu"), said.append, Three()) == expected
    assert asked == [(3, 3)]  # its own clips, and a third of the memory
    assert said[-1] == f"micro-batches of {expected} of a process's 3 clips fit into memory"


def test_an_estimate_takes_no_checkpoint_and_counts_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = _Adaptive(steps=1000, checkpoint_every=300)
    asked: list[int] = []
    real = task.real
    task.real = lambda step: asked.append(step) or real(step)  # type: ignore
    estimate = dry_run(task, torch.device("cpu"), lambda line: None, steps=2)
    assert asked == [0, 1, 2, 3, 4]  # in order, so that batches are loaded ahead
    assert not list(tmp_path.iterdir())
    torch.save(Trainer(_Adaptive()).checkpoint(), tmp_path / "one.pt")
    assert 0.5 * estimate.checkpoint < (tmp_path / "one.pt").stat().st_size <= 1.1 * estimate.checkpoint
    assert estimate.checkpoints == 4
    assert estimate.disk == 5 * estimate.checkpoint
    assert estimate.steps == 1000
    assert estimate.seconds > 0
    assert estimate.hours == pytest.approx(estimate.seconds / 3.6)
    assert 0 <= estimate.data_seconds < estimate.r1_seconds
    assert estimate.gpu_peak is None
    assert len(estimate.lines()) == 4
    assert "1000 steps" in estimate.lines()[2]
