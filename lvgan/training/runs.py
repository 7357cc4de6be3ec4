"""Runs: ``runs/NAME/`` with ``config.yaml``, ``log.jsonl``, ``samples/`` and ``checkpoints/``."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.checkpoint import checkpoints_in, step_of
from lvgan.errors import CheckpointError, ConfigError, DamagedCheckpointError, DataError, MachineError

RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def sample_folder(self) -> Path:
        return self.folder / "samples"

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint of the highest step that is not damaged, if there is one."""
        intact, _ = checkpoints_in(self.checkpoint_folder)
        return intact[-1] if intact else None

    def load_newest(self, stage: str, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint whose checksums are right, and what it holds; None for a fresh run.

        Damaged ones that are newer are set aside, as ``NAME.pt.damaged``, and named to `say`.

        Raises:
            CheckpointError: all of the run's checkpoints are damaged, or one cannot be read.
        """
        intact, cut = checkpoints_in(self.checkpoint_folder)
        damaged = []
        for path in sorted([*intact, *cut], key=lambda p: step_of(p) or 0, reverse=True):
            try:
                loaded = ckpt.load(path, stage)
            except DamagedCheckpointError:
                damaged.append(path)
                continue
            for bad in damaged:
                ckpt.set_aside(bad)
                say(f"{bad} is damaged (kept as {bad.name}.damaged); going on from {path.name}")
            return path, loaded
        if damaged:
            raise CheckpointError(
                f"every checkpoint of {self.folder} is damaged ({', '.join(p.name for p in damaged)}); "
                "start another run with --new"
            )
        return None

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keep other processes from training in this folder; ends with the process, however it ends.

        Where the file system knows no locks, `say` is told and nothing is kept out.

        Raises:
            ConfigError: another process has the lock.
            MachineError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        with file:
            try:
                _flock(file)
            except BlockingIOError:
                file.seek(0)
                owner = file.read(200).strip() or "another process"
                raise ConfigError(
                    f"{self.folder} is being trained by {owner}; wait for it or stop it, or train another run (--new)"
                ) from None
            except OSError as error:
                reason = error.strerror or error
                say(f"{self.folder} cannot be locked here ({reason}): take care that no other process trains in it")
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            try:
                yield
            finally:
                self._release(file)

    def _release(self, file: IO[str]) -> None:
        """Nobody is named any more; of a run that never started nothing stays."""
        with contextlib.suppress(OSError):
            file.truncate(0)
            if not self.config_file.exists():
                (self.folder / ".lock").unlink()
                self.folder.rmdir()

    def _unwritable(self, error: OSError) -> MachineError:
        return MachineError(
            f"cannot write the run folder {self.folder} ({error.strerror}); run from a folder that you may write to"
        )

    @property
    def step(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        newest = self.newest_checkpoint()
        return 0 if newest is None else step_of(newest) or 0

    def config(self) -> cfg.Config:
        """The stored configuration.

        Raises:
            DataError: it cannot be read, or is none.
            ConfigError: it holds settings that this lvgan does not know.
        """
        values = cfg._load_yaml(_read(self.config_file), str(self.config_file))
        stage = values.get("stage")
        if stage not in cfg.STAGES:
            raise DataError(f"{self.config_file} has no 'stage: lr' or 'stage: sr'; it is no run's configuration")
        try:
            return cfg.build(stage, values)
        except ConfigError as error:
            raise ConfigError(f"{self.config_file}: {error}") from error

    def create(self, config: cfg.Config) -> None:
        """Make the folder and store (or renew) the configuration."""
        try:
            self.checkpoint_folder.mkdir(parents=True, exist_ok=True)
            self.sample_folder.mkdir(exist_ok=True)
            partial = self.config_file.with_suffix(".partial")
            partial.write_text(cfg.to_yaml(config), encoding="utf-8")
            os.replace(partial, self.config_file)
        except OSError as error:
            raise self._unwritable(error) from error


def _flock(file: IO[str]) -> None:
    """Lock a file for this process. (``lvgan runs`` takes locks for a moment, to see whether they are taken.)

    Raises:
        BlockingIOError: another one has it.
        OSError: there are no locks here.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("this system has no flock") from None
    for remaining in range(9, -1, -1):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not remaining:
                raise
            time.sleep(0.05)


def check_same_settings(loaded: Mapping[str, Any], config: cfg.Config, path: Path) -> None:
    """Refuse to go on from a checkpoint that was made with other settings.

    Raises:
        CheckpointError: it was; all differences are named.
    """
    try:
        changed = cfg.differences(cfg.build(config.stage, loaded["config"]), config)
    except ConfigError as error:
        raise CheckpointError(f"{path} holds settings that this lvgan does not know ({error})") from error
    if changed:
        raise CheckpointError(
            f"{path} was made with other settings than this run's: {_listed(changed)}; "
            "put the settings back, or start another run with --new"
        )


def _listed(changed: Mapping[str, tuple[Any, Any]], shown: int = 8) -> str:
    """Such as ``training.batch = 4, now 8``."""
    lines = [f"{key} = {old}, now {now}" for key, (old, now) in changed.items()]
    more = f" and {len(lines) - shown} more" if len(lines) > shown else ""
    return "; ".join(lines[:shown]) + more


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); name a run folder written by lvgan") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text; it is no run's configuration") from error


def all_runs(root: Path = RUNS, stage: str | None = None) -> list[Run]:
    """The runs under `root`, newest first; only those of `stage`, if given. Unreadable ones are of no stage."""

    def fits(run: Run) -> bool:
        with contextlib.suppress(DataError):
            return re.search(rf"^stage: {stage}\s*$", _read(run.config_file), re.M) is not None
        return False

    runs = [Run(path.parent) for path in root.glob("*/config.yaml")]
    return sorted((run for run in runs if stage is None or fits(run)), key=_age, reverse=True)


def _age(run: Run) -> tuple[float, str]:
    newest = run.newest_checkpoint()
    return (newest or run.config_file).stat().st_mtime, run.name


@dataclass(frozen=True)
class Choice:
    """What a training command will do: in which run, with which settings, and why."""

    run: Run
    config: cfg.Config
    message: str
    finished: bool = False


def choose_run(
    stage: str,
    request: Callable[[cfg.Config | None], cfg.Config],
    *,
    name: str | None = None,
    new: bool = False,
    root: Path = RUNS,
) -> Choice:
    """Decide between going on with a run and starting one.

    Args:
        request: gives the settings that the user asks for; called with a run's stored settings (they
            apply where the user named neither preset nor file) or with None for a fresh run.
        name: of the run, instead of ``lr-0001`` and so on.
        new: never go on with a run.

    Raises:
        ConfigError: the named run exists with other settings.
    """
    if name is not None:
        if not re.fullmatch(r"[\w][\w.\-]*", name):
            raise ConfigError(
                f"--run {name!r} was given, but letters, digits, '.', '-' and '_' were expected; rename it"
            )
        run = Run(root / name)
        if not run.config_file.exists():
            return Choice(run, request(None), f"starting {run.folder}")
        if new:
            raise ConfigError(f"{run.folder} exists, but --new asks for another run; give another --run name")
        stored = run.config()
        if stored.stage != stage:
            raise ConfigError(
                f"{run.folder} was made by train-{stored.stage}, but this is train-{stage}; give another --run name"
            )
        wanted = request(stored)
        changed = cfg.differences(stored, wanted)
        if changed:
            raise ConfigError(
                f"{run.folder} was started with {_listed(changed)}; "
                "give another --run name, or leave these settings out to go on"
            )
        return _go_on(run, wanted)

    notes, finished = "", None
    for run in [] if new else all_runs(root, stage):
        try:
            stored = run.config()
        except (ConfigError, DataError) as error:  # another run's trouble is not this one's
            notes = notes or f" ({run.folder} is passed over: {error})"
            continue
        wanted = request(stored)
        if stored.data.path != wanted.data.path:
            continue
        changed = cfg.differences(stored, wanted)
        if not changed:
            choice = _go_on(run, wanted)
            if not choice.finished:
                return choice
            finished = finished or choice
        elif not notes:
            notes = f" ({run.folder} differs in {', '.join(list(changed)[:3])})"
    if finished is not None:
        return finished
    number = 1 + max((int(p.name[3:]) for p in root.glob(f"{stage}-*") if p.name[3:].isdigit()), default=0)
    run = Run(root / f"{stage}-{number:04d}")
    return Choice(run, request(None), f"starting {run.folder}{notes}")


def _go_on(run: Run, config: cfg.Config) -> Choice:
    newest = run.newest_checkpoint()
    complete = newest is not None and run.step >= config.training.steps
    if complete and newest is not None and not ckpt.is_sound(newest):
        return Choice(run, config, f"{newest} is damaged: going on with {run.folder} from the checkpoint before it")
    if complete:
        message = f"{run.folder} is complete at step {run.step}; --steps N trains it further, --new starts another"
        return Choice(run, config, message, finished=True)
    what = f"resuming {run.folder} at step {run.step}" if newest is not None else f"starting {run.folder}"
    _, damaged = checkpoints_in(run.checkpoint_folder)
    if damaged:
        what += f" ({damaged[-1].name} is damaged and passed over)"
    return Choice(run, config, what)
