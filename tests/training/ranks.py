"""What the processes of the distributed tests run: ``python -m tests.training.ranks COMMAND …``.

Commands of lvgan's own application, so that errors and exit codes take the real way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lvgan import cli
from lvgan.training import launch

COMMAND = [sys.executable, "-m", "tests.training.ranks"]
ROOT = Path(__file__).parents[2]


def toy(folder: Path, trouble: str = "", rank: int = 1, batch: int = 4, steps: int = 8) -> None:
    """Train the toy task in `folder`; `rank` has the `trouble`."""
    launch.follow_launcher()
    from lvgan.training.distributed import Ranks
    from lvgan.training.loop import train
    from lvgan.training.runs import Run

    with cli.train.exit_when_stopped(), Ranks.join("cpu") as ranks:  # type: ignore[attr-defined]
        (folder / f"pid-{ranks.rank}").write_text(str(os.getpid()))
        trouble = trouble if ranks.rank == rank or trouble == "overflow" else ""
        task = _troubled(toy_config(steps, batch), ranks, trouble)
        train(task, Run(folder / "run"), ranks=ranks)


def toy_config(steps: int, batch: int = 4) -> Any:
    """The settings of `toy`."""
    from lvgan.config import build

    settings = {"steps": steps, "batch": batch, "log_every": 1, "checkpoint_every": 1000, "sample_every": 1000}
    return build("lr", {"training": settings})


def _troubled(config: Any, ranks: Any, trouble: str) -> Any:
    import torch

    from lvgan.errors import DataError
    from tests.training.toy import ToyTask

    class Troubled(ToyTask):
        def real(self, step: int) -> Any:
            if step == 4 and trouble == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 4 and trouble == "data":
                raise DataError("the shard x.zip is damaged; prepare it again")
            if step == 4 and trouble == "crash":
                raise ZeroDivisionError("one by nought")
            if step == 4 and trouble == "stuck":
                time.sleep(100)
            time.sleep(0.02)
            return super().real(step)

        def judge(self, sample: Any, phase: Any) -> Any:
            logits = super().judge(sample, phase)
            moments = ((2, "generator"), (3, "discriminator/judge fake"))
            if trouble == "overflow" and (phase.step, phase.name) in moments:
                last = torch.tensor([[clip == config.training.batch - 1] for clip in phase.clips])
                logits = torch.where(last, logits * float("inf"), logits)
            return logits

    task = Troubled(config, ranks.share(config.training.batch))
    if trouble == "differs":
        with torch.no_grad():
            next(task.generator.parameters()).add_(1e-6)
    return task


def losses(stage: str, shards: Path, out: Path, steps: int = 5, double: bool = False) -> None:
    """Train a small network of `stage` and write the values of each step to `out`."""
    import torch

    torch.set_num_threads(1)
    if double:
        torch.set_default_dtype(torch.float64)
    from lvgan.training.distributed import Ranks
    from lvgan.training.trainer import Trainer
    from tests.training.test_tasks import small_task

    with Ranks.join("cpu") as ranks:
        task = small_task(stage, shards, ranks.share(5), batch=5, micro_batch=2)
        real = task.real
        task.real = lambda step: tuple(x.to(torch.get_default_dtype()) for x in real(step))  # type: ignore[method-assign]
        trainer = Trainer(task, ranks)
        values = [trainer.run_step() for _ in range(steps)]
        if ranks.first:
            out.write_text(json.dumps(values))
        task.close()


cli.app.command("toy")(toy)
cli.app.command("losses")(losses)


def start(count: int, command: list[str]) -> None:
    """Be the launcher."""
    sys.exit(launch.launch([*COMMAND, *command], count))


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        start(int(sys.argv[2]), sys.argv[3:])
    from lvgan.cli import commands  # noqa: F401

    cli.run()
