"""Train a tiny network in child processes that kill themselves (SIGKILL) at chosen points, until one ends.

Run as ``python -m tests.training.killed STAGE SHARDS FOLDER [POINTS]``: ``FOLDER/a`` is an undisturbed run,
``FOLDER/b`` the one that was killed. Torch is imported once: each child is a fork.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.data.dataset import ClipDataset
from lvgan.sizes import Size
from lvgan.training import logging, loop, losses, lr, sr, trainer
from lvgan.training.runs import Run

LOW, HIGH = Size(16, 16), Size(32, 32)
SETTINGS = {
    "steps": 9, "batch": 2, "checkpoint_every": 3, "log_every": 2, "sample_every": 4, "r1_every": 4, "keep": 1,
    "metric_clips": 1,
}  # fmt: skip
# Where to die, and in which step (of those that are done when it begins); in this order.
POINTS = [
    ("generator", 0),
    ("half a checkpoint", 3),
    ("discriminator", 4),
    ("r1", 4),
    ("preview", 4),
    ("half a line of the log", 4),
    ("checkpoint not renamed", 6),
    ("log not renamed", 6),
    ("old checkpoint not deleted", 6),
    ("average", 6),
    ("last line of the log", 9),
]


COMPUTING = ["generator", "discriminator", "r1", "preview", "average"]  # what differs between the stages


def main(stage: str, shards: str, folder: str, points: str = "all") -> None:
    """Make both runs; `points`: all, or computing."""
    torch.set_num_threads(1)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # loads what every child would load
    logging.RunLog(Path(shards), 0).close()
    assert _child(stage, Path(shards), Path(folder, "a"), None) == 0
    for point in POINTS:
        if points == "computing" and point[0] not in COMPUTING:
            continue
        status = _child(stage, Path(shards), Path(folder, "b"), point)
        assert os.WIFSIGNALED(status), f"did not die at {point}"
        assert os.WTERMSIG(status) == signal.SIGKILL, f"died of something else at {point}"
    assert _child(stage, Path(shards), Path(folder, "b"), None) == 0


def _child(stage: str, shards: Path, folder: Path, point: tuple[str, int] | None) -> int:
    """Train in a fork; its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _train(stage, shards, folder, point)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def _train(stage: str, shards: Path, folder: Path, point: tuple[str, int] | None) -> None:
    values = cfg.merge(cfg.load_preset("tiny", stage), {"data": {"lr": LOW, "hr": HIGH}, "training": SETTINGS})
    if stage == "lr":
        values = cfg.merge(values, {"data": {"frames": 16}, "model": {"generator": {"footprint_max": 100}}})
    else:
        values = cfg.merge(values, {"model": {"generator": {"layers": 5}}, "training": {"ada_rate": 0.05}})
    config = cfg.build(stage, values)
    data = ClipDataset(shards, LOW, HIGH)
    task: Any = (lr.LrTask if stage == "lr" else sr.SrTask)(config, data, torch.device("cpu"))  # type: ignore[arg-type]
    if point is not None:
        _arm(task, *point)
    loop.train(task, Run(folder), progress=False)
    task.close()


def _arm(task: Any, where: str, step: int) -> None:
    """Patch what happens at a point so that it kills this process there, once `step` steps are done."""
    now = [-1]

    def real(at: int, function: Any = task.real) -> Any:
        now[0] = at
        return function(at)

    task.real = real

    def dying(owner: Any, name: str, die: Any = None, offset: int = 0) -> None:
        function = getattr(owner, name)

        def patched(*args: Any, **kwargs: Any) -> Any:
            if now[0] + offset != step:
                return function(*args, **kwargs)
            if die is not None:
                die(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        mock.patch.object(owner, name, patched).start()

    phases = {"generator": "generator_loss", "discriminator": "discriminator_loss_real", "r1": "r1_penalty"}
    if where in phases:
        dying(losses, phases[where])
    elif where == "average":
        dying(trainer, "update_ema", _half_the_average)
    elif where == "half a checkpoint":
        dying(torch, "save", _half_a_file, 1)
    elif where == "checkpoint not renamed":
        dying(ckpt.os, "replace", None, 1)
    elif where == "old checkpoint not deleted":
        dying(ckpt, "prune", None, 1)
    elif where == "preview":
        dying(task, "preview", _half_a_preview, 1)
    elif where == "half a line of the log":
        dying(logging.RunLog, "write", _half_a_line, 1)
    elif where == "last line of the log":
        dying(logging.RunLog, "write", None, 1)
    else:
        assert where == "log not renamed"
        now[0] = step  # while it is opened
        dying(logging.os, "replace")


def _half_the_average(average: Any, generator: Any, decay: float) -> None:
    for ours, theirs in list(zip(average.parameters(), generator.parameters(), strict=True))[::2]:
        ours.data.lerp_(theirs.data, 1 - decay)


def _half_a_file(checkpoint: Any, file: Any) -> None:
    whole = io.BytesIO()
    mock.patch.stopall()
    torch.save(checkpoint, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()


def _half_a_line(log: Any, step: int, values: Any) -> None:
    log._file.write(f'{{"step": {step}, "loss/gen')
    log._file.flush()


def _half_a_preview(generator: Any, folder: Path, step: int) -> None:
    (folder / f"step-{step:06d}.png").write_bytes(b"\x89PNG\r\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
