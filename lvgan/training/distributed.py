"""The processes of one training run, on one machine or several: the only file that uses ``torch.distributed``.

A process is called a rank. All ranks hold the same weights; each has its own clips of every batch. What the
clips give is summed: gradients, statistics, values to log. So a rank never differs from the others in anything
but its clips, and whatever is decided from summed values is decided alike everywhere.

There is one all-reduce a phase, over one flat float32 bucket of all gradients, after the backward pass of the
last micro-batch. It does not overlap with that pass: only the last micro-batch's could be used (the paper's
batches are cut into several), hooks on parameters would have to know which pass is the last and which of the
two networks is trained, and there is little to win: with 2 ranks of the tiny preset over gloo, summing the
gradients takes 1.4 % (low resolution) and 0.4 % (super-resolution) of a step.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lvgan.device import pick_device
from lvgan.errors import ConfigError, LvganError, MachineError, TrainingError
from lvgan.training.signals import Stopped
from lvgan.training.watch import ANSWER, Failure, Watch, leave, say_silent

_T = TypeVar("_T")
_START = datetime.timedelta(minutes=5)  # for all ranks to arrive
_STEP = datetime.timedelta(minutes=30)  # for a collective: rank 0 may write previews meanwhile


class RankFailed(Exception):  # noqa: N818  (the error is another rank's, which reports it)
    """Training ends because another rank has failed; it has said why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"rank {failure.rank} has failed: {failure.message}")
        self.failure = failure


class Ranks:
    """This process among those of the run; by default the only one, for which nothing is done.

    Use as a context: an error that leaves it is told to the other ranks, which then stop with
    :class:`RankFailed`. Calls of `sum`, `sum_gradients`, `whole`, `agree`, `from_first` and `check_same` wait
    for all ranks, which have to make the same calls in the same order.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.rank, self.world = 0, 1
        self.device = torch.device("cpu") if device is None else device
        self._watch: Watch | None = None

    @classmethod
    def join(cls, device: str = "auto") -> Ranks:
        """The rank that the environment describes (``RANK``, ``WORLD_SIZE``, … as torchrun sets them), or the only one.

        Raises:
            ConfigError: the environment is incomplete.
            MachineError: no such device, or the other ranks cannot be reached.
        """
        self = cls()
        self.rank, self.world, local = _place()
        if self.world == 1:
            self.device = _device(device, local, 1)
            return self
        try:
            self._connect(device, local)
        except BaseException as error:
            if self._watch is not None and not isinstance(error, RankFailed):
                self._report(error)
            raise
        return self

    def _connect(self, device: str, local: int) -> None:
        host = os.environ["MASTER_ADDR"]
        try:
            store = _store(self.rank, self.world, host)
            self._watch = Watch(self.rank, store, host)
            self.device = _device(device, local, self.world)
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo",
                store=dist.PrefixStore("lvgan/group", store),
                rank=self.rank,
                world_size=self.world,
                timeout=_STEP,
                device_id=self.device if self.device.type == "cuda" else None,
            )
        except (RuntimeError, OSError) as error:
            failure = self._watch.wait(ANSWER) if self._watch is not None else None
            if failure is not None:
                raise RankFailed(failure) from None
            reason = str(error).strip().splitlines()[0]
            raise MachineError(
                f"cannot join the other ranks at {host} ({reason}); "
                "see that all were started, and that the machines reach each other"
            ) from error

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks and writes for all."""
        return self.rank == 0

    @property
    def neighbours(self) -> int:
        """Processes on this machine, this one included."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) if self.world > 1 else 1

    @property
    def described(self) -> str:
        """Such as ``8 x cuda``, or ``cuda (--gpus auto uses all 8 GPUs)``."""
        if self.world > 1:
            return f"{self.world} x {self.device.type}"
        found = torch.cuda.device_count() if self.device.type == "cuda" else 1
        return str(self.device) + (f" (--gpus auto uses all {found} GPUs)" if found > 1 else "")

    def share(self, batch: int) -> range:
        """This rank's clips of a batch; ranks differ by one clip at most.

        Raises:
            ConfigError: more ranks than clips.
        """
        if self.world > batch:
            raise ConfigError(
                f"{self.world} processes cannot share a batch of {batch} clips; "
                f"use at most {batch} of them (--gpus), or a larger --batch (of another run: --new)"
            )
        size, extra = divmod(batch, self.world)
        start = self.rank * size + min(self.rank, extra)
        return range(start, start + size + (self.rank < extra))

    # --- collectives ------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place; the same bits everywhere."""
        if self.world > 1:
            with self._together():
                dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients over all ranks: one bucket, in float32. A missing gradient is zero."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # (float64, where the weights are: tests tell rounding from mistakes with it)
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        bucket = self.sum(torch.cat([grad.flatten().to(dtype) for grad in grads]))
        parts = bucket.split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [part.view(grad.shape) for part, grad in zip(parts, grads, strict=True)])

    def whole(self, part: Tensor, batch: int) -> Tensor:
        """Values of this rank's clips [n, ...] -> those of all clips [batch, ...], float32, on every rank."""
        if self.world == 1:
            return part
        clips = self.share(batch)
        values = torch.zeros(batch, *part.shape[1:], device=part.device)
        values[clips.start : clips.stop] = part
        return self.sum(values)  # all but one summand are zero: exact

    def agree(self, number: int) -> int:
        """The largest `number` among all ranks."""
        if self.world == 1:
            return number
        value = torch.tensor(number, device=self.device)
        with self._together():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def from_first(self, make: Callable[[], _T]) -> _T:
        """What `make` gives on rank 0, the only one that calls it; it has to be picklable."""
        if self.world == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        with self._together():
            dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def check_same(self, facts: Mapping[str, str]) -> None:
        """See that all ranks start from the same: `facts` by name, such as ``{"weights": digest}``.

        Raises:
            TrainingError: on rank 0, one differs; names it and what it differs in.
            RankFailed: on the others.
        """
        if self.world == 1:
            return
        given: list[Any] = [None] * self.world
        with self._together():
            dist.all_gather_object(given, dict(facts))
        for rank, theirs in enumerate(given):
            differing = [key for key in facts if theirs.get(key) != given[0][key]]
            if differing and self.first:
                raise TrainingError(
                    f"rank {rank} has other {' and '.join(differing)} than rank 0 ({theirs.get(differing[0])}, "
                    f"{given[0][differing[0]]}); all machines need the same lvgan, data and run folder"
                )
        self.agree(0)  # the others learn of a difference here

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Within, a file is written that a failure elsewhere should not cut short."""
        with self._watch.saving() if self._watch is not None else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """A collective, in which the failure of another rank shows as :class:`RankFailed`."""
        assert self._watch is not None
        if self._watch.failure is not None:
            raise RankFailed(self._watch.failure)
        try:
            yield
        except RuntimeError as error:
            failure = self._watch.wait(ANSWER)
            if failure is None:  # nobody has died: the network, or a collective that took too long
                raise TrainingError(
                    f"the ranks have lost each other ({str(error).strip().splitlines()[0]}); "
                    "run the same command again to go on from the newest checkpoint"
                ) from error
            raise RankFailed(failure) from None

    # --- the end ----------------------------------------------------------------------------------

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is None:
            return
        if error is None or isinstance(error, Stopped):
            self.agree(0)  # nobody leaves while rank 0 writes: launchers end the others then
            self._watch.close()
            dist.destroy_process_group()
            return
        if isinstance(error, RankFailed):
            say_silent(self.rank, error.failure)
            atexit.register(leave, error.failure.code)
            return
        self._report(error)

    def _report(self, error: BaseException) -> None:
        """Tell the others; where another rank has failed before, `error` is a consequence, or the same."""
        assert self._watch is not None
        signum = getattr(error, "signum", signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
        code = 2 if isinstance(error, LvganError) else 1 if signum is None else 128 + signum
        words = str(error).strip().splitlines()
        message = f"{type(error).__name__}{': ' + words[0] if words else ''}"
        first = self._watch.report(Failure(self.rank, message, code))
        # Taking a broken process group down makes the others wait (measured: 10 s), and with them their launcher.
        atexit.register(leave, first.code)
        if first.rank != self.rank:
            say_silent(self.rank, first)
            raise RankFailed(first) from None
        if not self.first:
            print(file=sys.stderr)  # end the line of rank 0's progress bar
        if isinstance(error, TrainingError):
            return  # true of all ranks: no matter which of them came first
        if isinstance(error, LvganError):
            error.args = (f"rank {self.rank} of {self.world}: {error}",)
        elif isinstance(error, Exception):
            print(f"lvgan: rank {self.rank} of {self.world} has failed, the others stop", file=sys.stderr, flush=True)


def _place() -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this machine, as the environment has them."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1, 0
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ConfigError(
            f"RANK and WORLD_SIZE are set, but not {missing[0]}; start with torchrun, which sets all of them, "
            "or unset them and use --gpus"
        )
    try:
        rank, world, local = (int(os.environ[name]) for name in needed[:3])
    except ValueError:
        raise ConfigError("RANK, WORLD_SIZE or LOCAL_RANK is no whole number; start with torchrun or --gpus") from None
    if not 0 <= rank < world:
        raise ConfigError(f"RANK is {rank}, but WORLD_SIZE is {world}; start with torchrun or --gpus")
    return rank, world, local


def _device(name: str, local: int, world: int) -> torch.device:
    """This rank's device: the GPU of its number on the machine."""
    device = pick_device(name)
    if world == 1 and local == 0:
        return device
    if device.type == "mps" or device.index is not None:
        raise ConfigError(f"{world} processes cannot share the device {device}; use --device cuda or cpu")
    if device.type != "cuda":
        return device
    found = torch.cuda.device_count()
    if local >= found:
        hint = f"start at most {found} processes a machine"
        raise MachineError(f"process {local + 1} on {socket.gethostname()} finds {found} GPUs; {hint}")
    return torch.device("cuda", local)


def _store(rank: int, world: int, host: str) -> dist.Store:
    """Where the ranks find each other."""
    listener = os.environ.get("LVGAN_STORE")
    if listener is None:  # torchrun
        store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=_START))
        store.set_timeout(_START)
        return store
    # The launcher has opened the port, so that no other program can take it in between.
    return dist.TCPStore(
        host,
        int(os.environ["MASTER_PORT"]),
        world,
        is_master=rank == 0,
        timeout=_START,
        wait_for_workers=False,
        master_listen_fd=int(listener) if rank == 0 else None,
    )
