"""Features of real footage, kept in the user's cache: measuring a second model does not look at it again.

A file is named by a hash of all that its contents depend on: the data's fingerprint, which clips, the detector.
It appears whole or not at all, so that several runs may write the same one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lvgan.errors import MachineError
from lvgan.evaluation.detectors import Detector, user_cache
from lvgan.evaluation.features import Features, Wish
from lvgan.evaluation.sources import ClipSource, StoredSource
from lvgan.files import write_whole

FORMAT = 3  # of the files, and of how clips are chosen: another one is not read

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where features are kept: ``statistics`` in ``$LVGAN_CACHE`` or in ``lvgan`` of the user's cache folder."""
    return user_cache("statistics")


def cache_file(source: ClipSource, detector: Detector, wish: Wish) -> Path | None:
    """The file for these clips; None for a network's: their making belongs to what is measured."""
    if not isinstance(source, StoredSource):
        return None
    key = {
        "format": FORMAT,
        # Neither label nor path: footage may move.
        "source": [source.kind, source.describe()["fingerprint"], str(source.size), source.fps, source.stamp()],
        "clips": [wish.clips, wish.frames, wish.stride, wish.seed],
        "detector": detector.describe(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{digest}.npz"


def cached_features(
    source: ClipSource, detector: Detector, wish: Wish, compute: Callable[[], Features], *, refresh: bool = False
) -> tuple[Features, bool]:
    """Features from the cache, or from `compute` and then kept; and whether they were there.

    Args:
        source, detector, wish: what the features are of.
        compute: takes them.
        refresh: take them anew in any case.
    """
    path = cache_file(source, detector, wish)
    if path is None or not isinstance(source, StoredSource):
        return compute(), False
    found = None if refresh else _read(path)
    if found is not None:
        source.recall(found[1])
        return found[0], True
    features = compute()
    try:
        write_whole(path, lambda file: _write(file, features, source.drawn()))
    except MachineError as error:  # good to have, not needed
        log.warning("the features of %s were not kept: %s", source.label, error)
    return features, False


def _write(file: Any, features: Features, drawn: dict[str, Any]) -> None:
    np.savez(
        file,
        values=features.values,
        weights=features.weights,
        size=np.asarray(features.size),
        drawn=np.asarray(json.dumps(drawn)),
    )


def _read(path: Path) -> tuple[Features, dict[str, Any]] | None:
    """What a file holds, and what the protocol tells of the clips; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            features = Features(found["values"], found["weights"], (int(found["size"][0]), int(found["size"][1])))
            drawn = dict(json.loads(str(found["drawn"])))
        if features.values.ndim == 2 and features.weights.shape == (len(features.values),):
            return features, drawn
    except (OSError, ValueError, KeyError, IndexError, EOFError, TypeError, zipfile.BadZipFile):
        pass
    log.warning("%s is damaged: taking these features anew", path)
    return None
