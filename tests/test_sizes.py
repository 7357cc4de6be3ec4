"""Sizes as text."""

from __future__ import annotations

import pytest

from lvgan.errors import ConfigError
from lvgan.sizes import Size


def test_sizes() -> None:
    for text in ("36x64", "0036x0064", " 36 X 64 ", "36×64"):
        assert Size.parse(text) == Size(height=36, width=64)
    assert str(Size(36, 64)) == "36x64"
    assert Size(36, 64).folder() == "0036x0064"
    for text in ("", "36", "36x", "0x5", "-1x5", "36x64x3", "3.5x4", "10000x5", "٣x5"):
        with pytest.raises(ConfigError, match=r"is not a size: .* as in 36x64"):
            Size.parse(text)
