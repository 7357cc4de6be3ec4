"""A copy of the log at Weights & Biases (``--wandb``): never needed, never asking anything."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvgan import config as cfg
from lvgan.errors import MachineError


def check_wandb() -> None:
    """Refuse, before training starts, where the package is missing.

    Raises:
        MachineError: with the command that installs it.
    """
    _package()


def _package() -> Any:
    try:
        return importlib.import_module("wandb")
    except Exception as error:  # a broken installation fails in any way
        missing = isinstance(error, ModuleNotFoundError) and error.name == "wandb"
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise MachineError(
            f"--wandb needs the package wandb, which {reason}; pip install 'lvgan[wandb]', "
            "or leave it out (--set training.wandb=)"
        ) from error


class WandbLog:
    """Sends what is logged to W&B; offline (``wandb sync`` uploads later) where no API key is stored.

    The run there has this one's name, and is continued with it. Whatever goes wrong is said once; then training
    goes on without.
    """

    def __init__(self, config: cfg.Config, folder: Path, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._run: Any = None
        self._wandb = _package()
        self._guard(lambda: self._start(config, folder))

    def _start(self, config: cfg.Config, folder: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not _has_key(self._wandb):
            mode = "offline"  # it would ask for the key
            self._warn(f"W&B has no API key (`wandb login` stores one): logging offline into {folder / 'wandb'}")
        self._run = self._wandb.init(
            project=config.training.wandb,
            name=folder.name,
            id=_stored_id(folder),
            resume="allow",
            dir=str(folder),
            config=cfg.to_dict(config),
            mode=mode,
        )

    def _guard(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self._run = None
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"W&B failed ({reason}); training goes on without it")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Numbers of a step."""
        if self._run is not None:
            self._guard(lambda: self._run.log(values, step=step))

    def show(self, step: int, files: dict[str, Path]) -> None:
        """Pictures and videos of a step, by title."""

        def send() -> None:
            media = {
                title: self._wandb.Image(str(path)) if path.suffix == ".png" else self._wandb.Video(str(path))
                for title, path in files.items()
            }
            self._run.log(media, step=step)

        if self._run is not None:
            self._guard(send)

    def close(self) -> None:
        """Finish the run there."""
        if self._run is not None:
            self._guard(lambda: self._run.finish())


def _has_key(wandb: Any) -> bool:
    """Whether a key is in the environment or in the file that ``wandb login`` writes; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # an older release
        return bool(wandb.api.api_key)


def _stored_id(folder: Path) -> str:
    """What tells this run from others of its name, kept with it."""
    path = folder / "wandb-id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
