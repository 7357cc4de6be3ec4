"""Worlds on the Hugging Face Hub: addresses, download, upload. The package is optional (``lvgan[hub]``).

A world there is ``lr.safetensors`` and ``sr.safetensors`` (or one of them; see :mod:`lvgan.weight_file`),
``config.json``, ``README.md`` and perhaps previews. Nothing else is ever downloaded, so nothing that could run code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lvgan import checkpoint as ckpt
from lvgan.errors import CheckpointError, ConfigError, MachineError

SCHEME = "hf://"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_WEIGHTS = ["lr.safetensors", "sr.safetensors"]


class Api(Protocol):
    """What is used of ``huggingface_hub.HfApi``."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository, if there is none."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Put all files of a folder there, as one commit."""

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> Any:
        """A folder with the files of a revision."""


def parse(address: str) -> tuple[str, str | None]:
    """``owner/name`` and the revision of ``[hf://]owner/name[@revision]``.

    Raises:
        ConfigError: written otherwise.
    """
    repo, at, revision = address.removeprefix(SCHEME).partition("@")
    legal = re.fullmatch(f"{_NAME}/{_NAME}", repo) and ".." not in repo and "--" not in repo and len(repo) <= 96
    if not legal or (at and not re.fullmatch(r"[\w][\w./-]*", revision)):
        raise ConfigError(
            f"{address!r} is no address on the Hub; write owner/name or owner/name@revision (letters, digits, . - _)"
        )
    return repo, revision or None


def api_to_read() -> Api:
    """The Hub, for downloads.

    Raises:
        MachineError: the package is missing.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MachineError(
            "the Hub needs the package huggingface_hub, which is not installed; pip install 'lvgan[hub]'"
        ) from error
    api: Api = HfApi()
    return api


def api_to_write() -> Api:
    """The Hub, for uploads. Asks nothing.

    Raises:
        MachineError: the package or an access token is missing.
    """
    api = api_to_read()
    from huggingface_hub import get_token

    if not get_token():
        raise MachineError(
            "no access token for the Hub was found; set HF_TOKEN, or log in once with `hf auth login`, and run it again"
        )
    return api


def download(address: str, api: Api | None = None) -> Path:
    """The folder with a world's weights, in the Hub's cache on this machine.

    Raises:
        ConfigError: no address.
        CheckpointError: there is no such repository or revision, or no world of ours in it.
        MachineError: the package is missing, or the Hub cannot be reached.
    """
    repo, revision = parse(address)
    api = api or api_to_read()
    with _mapped(repo):
        folder = Path(api.snapshot_download(repo, revision=revision, allow_patterns=_WEIGHTS))
    if not ckpt.published(folder):
        raise CheckpointError(
            f"{address} holds neither lr.safetensors nor sr.safetensors, so it is no world that lvgan pushed; check it"
        )
    return folder


def load(address: str, api: Api | None = None) -> dict[str, Any]:
    """A bundle of what is there, or the one checkpoint.

    Raises:
        as :func:`download`, and CheckpointError for damaged files and pairs that do not fit.
    """
    files = ckpt.published(download(address, api))
    parts = {stage: ckpt.load(file, stage) for stage, file in files.items()}
    return ckpt.bundle(parts["lr"], parts["sr"]) if len(parts) == 2 else next(iter(parts.values()))


def upload(folder: Path, repo: str, private: bool, api: Api) -> None:
    """Put the files of a folder into a repository, which is made if there is none.

    Raises:
        ConfigError: no name of a repository.
        CheckpointError: it may not be written to.
        MachineError: the Hub cannot be reached.
    """
    repo, revision = parse(repo)
    if revision is not None:
        raise ConfigError(f"{repo}@{revision} was given, but a push makes a new revision; leave @{revision} out")
    with _mapped(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload with lvgan hub push")


@contextmanager
def _mapped(repo: str) -> Iterator[None]:
    """One sentence for each way in which the Hub says no."""
    try:
        yield
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "RevisionNotFoundError" in kinds:
            raise CheckpointError(f"{repo} on the Hub has no such revision; check what stands after the @") from error
        if "GatedRepoError" in kinds:
            raise CheckpointError(
                f"{repo} asks for its terms to be accepted first; do so on its page, and log in with `hf auth login`"
            ) from error
        if "RepositoryNotFoundError" in kinds:
            raise CheckpointError(
                f"there is no {repo} on the Hub, or it is private; check the name, or log in with `hf auth login`"
            ) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise CheckpointError(
                f"the Hub refuses access to {repo} ({status}); use a token that may read it, or write to push"
            ) from error
        if kinds & {"HTTPError", "OSError", "HFValidationError"}:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise MachineError(f"the Hub did not do it ({reason}); check the network, and run it again") from error
        raise
