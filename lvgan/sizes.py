"""Picture sizes, written ``HxW``."""

from __future__ import annotations

import re
from typing import NamedTuple

from lvgan.errors import ConfigError

LARGEST_SIDE = 9999  # what the four digits of a resolution folder's name can hold


class Size(NamedTuple):
    """Height and width in pixels. ``str`` gives ``36x64``, :meth:`folder` gives ``0036x0064``."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``HxW``, as in ``36x64`` (zeros in front are fine).

        Raises:
            ConfigError: not two whole numbers from 1 to 9999 with an x between them.
        """
        match = re.fullmatch(r"\s*(\d{1,4})\s*[xX×]\s*(\d{1,4})\s*", text, flags=re.ASCII)
        if match is None or not (int(match[1]) and int(match[2])):
            raise ConfigError(
                f"{text!r} is not a size: write height x width in pixels, each from 1 to {LARGEST_SIDE}, as in 36x64"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    def folder(self) -> str:
        """The name of this resolution's folder in a set of shards (spec 3-data)."""
        return f"{self.height:04d}x{self.width:04d}"
