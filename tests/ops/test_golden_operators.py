"""The operators against the reference vectors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.ops import bias_act, downsample2d, filtered_lrelu, setup_filter, upfirdn2d, upsample2d
from tests.conftest import Golden, GoldenFile
from tests.helpers import assert_close_to_max

RESAMPLE = {"filter2d", "upsample2d", "downsample2d"}


def _cases(golden: Golden, *groups: str) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """The settings and tensors of every case of these groups."""
    file: GoldenFile = golden("ops")
    found = []
    for case in golden.json("ops"):
        if case["group"] in groups:
            index = f"{case['index']:02d}"
            found.append((case, file.group(f"{case['group']}/{index}") or file.group(f"upfirdn2d/{index}")))
    assert found
    return found


def _filter(golden: Golden, name: str) -> Tensor | None:
    return None if name == "none" else golden("ops").tensors[f"filters/{name}"]


def _check(y: Tensor, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare the output and, where there is one, the gradient of every input."""
    assert_close_to_max(y, expected["y"])
    if "dy" not in expected:
        return
    for name, gradient in zip(inputs, torch.autograd.grad(y, list(inputs.values()), expected["dy"]), strict=True):
        assert_close_to_max(gradient, expected[f"d{name}"])


def _inputs(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensors[name].clone().requires_grad_() for name in names if name in tensors}


def test_golden_upfirdn2d(golden: Golden) -> None:
    for case, tensors in _cases(golden, "upfirdn2d"):
        inputs = _inputs(tensors, "x")
        settings = {k: case[k] for k in ("up", "down", "padding", "flip_filter", "gain")}
        _check(upfirdn2d(inputs["x"], _filter(golden, case["filter"]), **settings), inputs, tensors)


def test_golden_resampling(golden: Golden) -> None:
    for case, tensors in _cases(golden, *RESAMPLE):
        inputs = _inputs(tensors, "x")
        settings = {k: case[k] for k in ("up", "down", "padding", "flip_filter") if k in case}
        if case["group"] == "filter2d":
            settings["down"] = 1
        resample = upsample2d if case["group"] == "upsample2d" else downsample2d
        _check(resample(inputs["x"], _filter(golden, case["filter"]), **settings), inputs, tensors)


def test_golden_bias_act(golden: Golden) -> None:
    for case, tensors in _cases(golden, "bias_act"):
        inputs = _inputs(tensors, "x", "b")
        settings = {k: case[k] for k in ("dim", "alpha", "gain", "clamp")}
        _check(bias_act(**inputs, activation=case["act"], **settings), inputs, tensors)


def test_golden_filtered_lrelu(golden: Golden) -> None:
    for case, tensors in _cases(golden, "filtered_lrelu"):
        inputs = _inputs(tensors, "x", "b")
        settings = {k: case[k] for k in ("up", "down", "padding", "gain", "slope", "clamp", "flip_filter")}
        fu, fd = _filter(golden, case["fu"]), _filter(golden, case["fd"])
        _check(filtered_lrelu(fu=fu, fd=fd, **inputs, **settings), inputs, tensors)


def test_golden_setup_filter(golden: Golden) -> None:
    expected = golden("ops").group("setup_filter")
    assert_close_to_max(setup_filter([1, 3, 3, 1]), expected.pop("1331"))
    assert_close_to_max(setup_filter([1, 2, 3, 1], gain=4, flip=True), expected.pop("1331_gain4_flip"))
    assert_close_to_max(setup_filter(list(range(1, 11))), expected.pop("ten"))
    assert not expected


def test_golden_convolution_after_resampling(golden: Golden) -> None:
    """Filter, resample and convolve are linear and shift-invariant: their order does not matter."""
    f = setup_filter([1, 3, 3, 1])
    for case, tensors in _cases(golden, "conv2d_resample"):
        inputs = _inputs(tensors, "x", "w")
        x, w, padding = inputs["x"], inputs["w"], case["padding"]
        w = w if case["flip_weight"] else w.flip((2, 3))
        if case["up"] > 1:
            y = F.conv2d(upsample2d(x, f, up=case["up"], padding=padding), w)
        elif case["down"] > 1:
            y = F.conv2d(downsample2d(x, f, down=1, padding=_before_stride(padding)), w, stride=case["down"])
        else:
            y = F.conv2d(x, w, padding=padding)
        _check(y, inputs, tensors)


def _before_stride(padding: int) -> list[int]:
    """Padding for ``down=1`` that filters as ``down=2`` would, of four taps."""
    return [padding - 1, padding] * 2
