"""`lvgan` as a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.forked import Forked


def start(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] = MappingProxyType({})) -> Forked:
    """Start the command line, with `env` in its environment."""
    return Forked(_program, ["lvgan", *map(str, arguments)], cwd=cwd, env=env)


def lvgan(*arguments: object, **where: Any) -> subprocess.CompletedProcess[str]:
    """As `start`; what it left with and printed."""
    return start(*arguments, **where).finish()


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """The one sentence of a refusal."""
    result = lvgan(*arguments, cwd=cwd)
    assert result.returncode == 2, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("lvgan: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def _program(command: list[str]) -> None:
    sys.argv = command

    from lvgan.__main__ import main

    main()
