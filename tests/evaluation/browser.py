"""A headless Chromium to look at pages with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def chromium() -> str:
    """The program; skips the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no chromium on this machine: pages are not looked at in a browser")


def run(folder: Path, page: Path, *arguments: str, width: int = 390, height: int = 844) -> str:
    """Open a page; what the browser prints. `folder` takes its profile."""
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium(), *FLAGS, profile, f"--window-size={width},{height}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
