"""Fixtures, and every reason to skip."""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as lvgan/__main__.py does, before torch is loaded
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each of the workers is one of the machine's cores

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest_plugins = ["tests.clips"]  # the fixture `real_clips`

GOLDEN = Path(os.environ.get("LVGAN_GOLDEN") or Path(__file__).parents[2] / "shared" / "golden")

LONGEST = (
    "test_distributed.py", "test_pipeline.py", "test_native.py", "test_sample.py", "test_killed.py",
    "test_examples.py", "test_formats.py", "test_bench_train.py", "test_prepare_scale.py", "test_horizon.py",
    "test_scenes.py", "test_hostile.py", "test_eval_distances.py", "test_eval.py", "test_inspect.py",
)  # fmt: skip


@dataclass(frozen=True)
class GoldenFile:
    """One file of reference vectors: tensors by name, and the settings they were made with."""

    tensors: dict[str, Tensor]
    call: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix/``, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + "/")}


class Golden:
    """Opens reference vectors by name; skips the test where they are absent."""

    def path(self, name: str) -> Path:
        path = GOLDEN / name
        if not path.exists():
            pytest.skip(f"golden vectors not found at {GOLDEN}; set LVGAN_GOLDEN to their folder")
        return path

    def json(self, name: str) -> Any:
        return json.loads(self.path(f"{name}.json").read_text())

    def __call__(self, name: str) -> GoldenFile:
        if (GOLDEN / f"{name}.npz").exists():
            arrays = np.load(self.path(f"{name}.npz"))
            return GoldenFile({k: torch.from_numpy(np.asarray(arrays[k])) for k in arrays.files}, {})
        from safetensors import safe_open

        with safe_open(str(self.path(f"{name}.safetensors")), "pt") as file:
            call = json.loads((file.metadata() or {}).get("call", "{}"))
            return GoldenFile({k: file.get_tensor(k) for k in file.keys()}, call)  # noqa: SIM118


@pytest.fixture(scope="session")
def golden() -> Golden:
    """``golden("name")`` gives a :class:`GoldenFile`."""
    return Golden()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: whichever comes last, the workers then end at about the same time."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
