"""The compiled CPU kernels: the numbers, the gradients and the registration of the references' tests again,
and what only a kernel can get wrong: threads, bands of rows, runs of steps, codes, memory layouts.

Each test runs with the kernels loaded and is skipped where they cannot be built.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lvgan.ops import bias_act, building, filtered_lrelu, native, setup_filter, upfirdn2d
from lvgan.ops.bias_act import ACTIVATIONS
from lvgan.ops.filtered_lrelu import filtered_lrelu_reference, filtered_mask_reference
from tests.conftest import Golden
from tests.helpers import assert_close_to_max
from tests.ops import oracles, test_golden_operators, test_operators
from tests.ops.samples import Sample
from tests.ops.test_operators import CASES, SAMPLES


@pytest.fixture(scope="module")
def library() -> native.Status:
    """The library, built into the user's cache if it is not there."""
    named = os.environ.get("LVGAN_TEST_LIBRARY")
    if named:
        native.try_library("cpu", named)
        return native.Status("cpu", True, Path(named), "named by LVGAN_TEST_LIBRARY")
    status = native.ensure("cpu")
    if not status.active:
        pytest.skip(f"no compiled operators: {status.reason}")
    return status


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest) -> None:
    if "slow" not in request.keywords:
        request.getfixturevalue("library")
        assert all(native.native_ops("cpu").values())


all_samples = pytest.mark.parametrize(("op", "sample"), CASES)


@all_samples
def test_values(op: str, sample: Sample) -> None:
    for dtype in (torch.float64, torch.float32):
        test_operators.test_values_are_those_of_scipy(op, sample, dtype)
    for dtype in (torch.float16, torch.bfloat16):
        test_operators.test_half_precisions_lose_only_their_rounding(op, sample, dtype)


@all_samples
def test_gradients(op: str, sample: Sample) -> None:
    test_operators.test_gradients_are_those_of_finite_differences(op, sample)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("clamp", [None, 0.6])
def test_what_is_not_finite(activation: str, clamp: float | None) -> None:
    test_operators.test_what_is_not_finite_has_the_values_and_gradients_of_torch(activation, clamp)


@pytest.mark.parametrize("factors", test_operators.LOCAL)
def test_not_finite_stays_local(factors: tuple[int, int, int, int]) -> None:
    for value in (float("nan"), float("inf")):
        test_operators.test_a_number_that_is_not_finite_stays_where_the_filters_reach(*factors, value)


@all_samples
def test_layouts(op: str, sample: Sample) -> None:
    test_operators.test_layout_of_the_input_does_not_matter(op, sample)


REGISTERED = ("up2-even", "full-up-down", "strided", "strided-curved", "clamp", "lrelu", "swish-clamp", "empty")


@pytest.mark.parametrize(
    ("op", "sample"), [(op, s) for op, samples in SAMPLES.items() for s in samples if s.name in REGISTERED], ids=str
)
def test_registration(op: str, sample: Sample) -> None:
    test_operators.test_registration_of_every_operator_called(op, sample)


def test_golden_vectors(golden: Golden) -> None:
    for name in dir(test_golden_operators):
        if name.startswith("test_golden"):
            getattr(test_golden_operators, name)(golden)


# --- factors and sizes of the networks, against the formulas and the reference --------------------


def _taps(count: int) -> Tensor:
    ramp = torch.arange(1.0, count + 1).square() + 3  # lopsided
    return setup_filter(ramp, separable=True)


def _signal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


FACTORS = [  # up, down, taps of each: those with kernels of their own, fewer taps, and the general path
    (2, 2, 12, 12),
    (4, 2, 24, 12),
    (2, 4, 12, 24),
    (1, 1, 1, 1),
    (2, 2, 11, 7),
    (4, 2, 21, 5),
    (2, 2, 14, 12),
    (1, 2, 1, 12),
    (3, 2, 18, 12),
    (4, 4, 24, 24),
]


@pytest.mark.parametrize(("up", "down", "taps_u", "taps_d"), FACTORS)
@pytest.mark.parametrize("shift", [0, 1, -3])
def test_filtered_lrelu_of_network_size(up: int, down: int, taps_u: int, taps_d: int, shift: int) -> None:
    """More than one run of steps, wider than a vector, every place of the filters."""
    x, b = _signal(1, 2, 45, 38), _signal(2, seed=1)
    fu, fd = _taps(taps_u), _taps(taps_d)
    settings: dict[str, Any] = {
        "up": up,
        "down": down,
        "padding": (9 + shift, 8, 11 - shift, 7),
        "clamp": 0.9,
        "gain": 1.3,
    }
    expected = oracles.filtered_lrelu(x, fu, fd, b, **settings)
    assert_close_to_max(filtered_lrelu(x, fu, fd, b, **settings), expected, 3e-6)
    x, b = x.double().requires_grad_(), b.double().requires_grad_()
    y = filtered_lrelu(x, fu, fd, b, **settings)
    dy = _signal(*y.shape, dtype=torch.float64, seed=2)
    ours = torch.autograd.grad(y, (x, b), dy)
    with native.disabled("cpu"):
        theirs = torch.autograd.grad(filtered_lrelu(x, fu, fd, b, **settings), (x, b), dy)
    for a, e in zip(ours, theirs, strict=True):
        assert_close_to_max(a, e, 1e-11)


@pytest.mark.parametrize(("up", "down", "taps_u", "taps_d"), FACTORS)
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_codes_are_those_of_the_reference(up: int, down: int, taps_u: int, taps_d: int, clamp: float | None) -> None:
    """Of every sample, also of those after the last that an output needs."""
    x, b = _signal(2, 2, 23, 21, dtype=torch.float64), _signal(2, dtype=torch.float64, seed=1)
    high = [21 * up + 17 + taps_d, 23 * up + 18 + taps_d]
    low = [(n - taps_d) // down + 1 for n in high]
    call = (x, _taps(taps_u).double(), _taps(taps_d).double(), b, up, down, [taps_u, 3], high, low, 1.3, 0.2, clamp)
    y, codes = torch.ops.lvgan.filtered_lrelu(*call, False, True)
    expected, expected_codes = filtered_lrelu_reference(*call, False, True)
    torch.testing.assert_close(y, expected)
    assert torch.equal(codes, expected_codes)


@pytest.mark.parametrize(("up", "down", "taps_u", "taps_d"), FACTORS)
def test_mask_at_odd_places(up: int, down: int, taps_u: int, taps_d: int) -> None:
    """Offsets of both filters that no gradient has: samples outside the signal do not count."""
    x = _signal(1, 2, 13, 40)
    high, low = [80, 61], [41, 35]
    codes = torch.randint(0, 3, (1, 2, 61, 20, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    codes = (codes * torch.tensor([1, 4, 16, 64], dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
    fu, fd = _taps(taps_u), _taps(taps_d)
    for offset in ([0, 0], [7, 2], [-5, -2]):
        call = (x, codes, fu, fd, up, down, offset, offset[::-1], high, low, 2.0, 0.3, True)
        assert_close_to_max(torch.ops.lvgan.filtered_mask(*call), filtered_mask_reference(*call), 3e-6)


@pytest.mark.parametrize("up", [1, 2, 4, 3, (4, 1)])
@pytest.mark.parametrize("down", [1, 2, 4, (3, 2)])
@pytest.mark.parametrize("f", [_taps(4), _taps(7), _taps(12), _taps(8)[:5, None] * _taps(9)[:4], None])
def test_upfirdn2d_of_network_size(up: Any, down: Any, f: Tensor | None) -> None:
    x = _signal(1, 2, 37, 70)
    for flip in (False, True):
        settings: dict[str, Any] = {"up": up, "down": down, "padding": (7, -2, -3, 8), "gain": 1.7, "flip_filter": flip}
        assert_close_to_max(upfirdn2d(x, f, **settings), oracles.upfirdn2d(x, f, **settings), 3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(2, 2), (1, 3), (5, 16), (9, 33)])
@pytest.mark.parametrize("padding", [(1, 1, 1, 2), (2, 1, 2, 1), (0, 3, 3, 0), (9, 6, 5, 8), (-1, 4, 4, -1)])
@pytest.mark.parametrize("columns", [False, True])
def test_upfirdn2d_by_two(columns: bool, padding: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype) -> None:
    """What csrc/twofold_cpu.h does, with the zeros beside every row and column, and its transpose."""
    x = _signal(2, 3, *size).to(dtype).requires_grad_()
    f = torch.tensor([0.3, 1.0, -0.7, 0.2])
    for name in ("up", "down"):
        settings: dict[str, Any] = {"gain": 1.7, "padding": padding, name: 2}
        if columns:
            settings |= {"padding": (0, 0, *padding[2:]), name: (1, 2)}
        taps = f[:, None] if columns else f
        rows, row = x.repeat_interleave(3, 2)[:, :, ::3], x.detach()  # rows that do not follow one another
        y = upfirdn2d(rows, taps, **settings)
        assert_close_to_max(y, oracles.upfirdn2d(row, taps, **settings), 2e-6)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y) + y.detach())
        with native.disabled("cpu"):
            z = upfirdn2d(x, taps, **settings)
            (expected,) = torch.autograd.grad(z, x, torch.ones_like(z) + z.detach())
        assert_close_to_max(dx, expected, 2e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("activation", ["lrelu", "linear", "relu", "swish"])
@pytest.mark.parametrize("size", [(41, 43), (3, 2), (1, 31)])
def test_bias_act_of_several_blocks(layout: torch.memory_format, activation: str, size: tuple[int, int]) -> None:
    """Large planes, and ones so small that the bias is made longer (csrc/bias_act_cpu.h)."""
    x = _signal(2 if size[0] > 3 else 40, 37, *size).to(memory_format=layout).requires_grad_()
    b = _signal(37, seed=1).requires_grad_()
    y = bias_act(x, b, activation=activation, clamp=1.1)
    assert y.is_contiguous(memory_format=layout)
    assert_close_to_max(y, oracles.bias_act(x, b.detach(), activation=activation, clamp=1.1), 1e-6)
    ours = torch.autograd.grad(y.square().sum(), (x, b))
    with native.disabled("cpu"):
        theirs = torch.autograd.grad(bias_act(x, b, activation=activation, clamp=1.1).square().sum(), (x, b))
    for a, e in zip(ours, theirs, strict=True):
        assert_close_to_max(a, e, 2e-6)


# --- what must not matter -------------------------------------------------------------------------


@pytest.mark.parametrize(("up", "down", "taps_u", "taps_d"), [(2, 2, 12, 12), (4, 2, 24, 12), (3, 2, 18, 12)])
@pytest.mark.parametrize("planes", [1, 2, 33])
def test_threads_change_no_bit(up: int, down: int, taps_u: int, taps_d: int, planes: int) -> None:
    """With few planes, each is cut into bands of rows; their number depends on that of the threads."""
    x = _signal(1, planes, 90, 31).requires_grad_()
    fu, fd = _taps(taps_u), _taps(taps_d)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = filtered_lrelu(x, fu, fd, up=up, down=down, padding=8, clamp=0.8)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
            twice, half = upfirdn2d(x.detach(), _taps(4), up=2), upfirdn2d(x.detach(), _taps(4), down=2)
            results.append((y.detach(), dx, upfirdn2d(x.detach(), fu, up=up, down=down, padding=9), twice, half))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, e in zip(other, results[0], strict=True):
            assert torch.equal(a, e)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_memory_around_a_view_does_not_matter(dtype: torch.dtype) -> None:
    """A view into NaN, channels last, one with a negative crop: nothing beyond the view is read."""
    whole = torch.full((2, 3, 40, 50), float("nan"), dtype=dtype)
    view = whole[:, :, 5:33, 7:43]
    view.copy_(_signal(2, 3, 28, 36))
    f = _taps(12)
    for padding in ((9, 8, 9, 8), (-5, -4, -3, -6)):
        expected = filtered_lrelu(view.contiguous(), f, f, up=2, down=2, padding=padding)
        assert expected.isfinite().all()
        for layout in (view, view.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(filtered_lrelu(layout, f, f, up=2, down=2, padding=padding), expected)
            resampled = upfirdn2d(layout, f, up=2, padding=padding)
            assert torch.equal(resampled, upfirdn2d(view.contiguous(), f, up=2, padding=padding))


@pytest.mark.parametrize("op", sorted(SAMPLES))
def test_infinity_and_nan_pass_through(op: str) -> None:
    x = _signal(1, 1, 40, 40)
    x[0, 0, 20, 10], x[0, 0, 5, 30] = float("inf"), float("nan")
    f = _taps(12)
    calls = {
        "bias_act": lambda: bias_act(x, activation="lrelu", clamp=1.0),
        "upfirdn2d": lambda: upfirdn2d(x, f, up=2, padding=(6, 5)),
        "filtered_lrelu": lambda: filtered_lrelu(x, f, f, up=2, down=2, padding=(9, 8)),
    }
    y = calls[op]()
    assert y.isnan().any()
    assert y.isfinite().float().mean() > 0.5  # no further than the filters reach
    if op == "bias_act":
        assert y[0, 0, 20, 10] == 1


# --- the bodies of the CUDA kernels ---------------------------------------------------------------


@pytest.mark.slow
def test_cuda_bodies_on_the_cpu(tmp_path: Path) -> None:
    """Everything above again, with the CPU library compiled from what CUDA runs (see csrc/tile.h)."""
    recipe = building.recipe("cpu")
    if recipe.compiler is None:
        pytest.skip(recipe.missing)
    command = (*recipe.compiler.command, "-DLVGAN_TILES")
    tiles = dataclasses.replace(recipe, compiler=dataclasses.replace(recipe.compiler, command=command))
    building.compile_to(tiles, tmp_path / "tiles.so")
    again = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "LVGAN_TEST_LIBRARY": str(tmp_path / "tiles.so")}
    root = Path(__file__).parents[2]
    done = subprocess.run(again, env=environment, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout or not os.environ.get("LVGAN_GOLDEN")


@pytest.mark.slow
def test_cuda_kernels_fit_the_chips(tmp_path: Path) -> None:
    """They compile for every chip, and none of them spills registers."""
    recipe = building.recipe("cuda")
    if recipe.compiler is None:
        pytest.skip(recipe.missing)
    command = (*recipe.compiler.command, "-Xptxas", "-v")
    include = Path(torch.__file__).parent / "include"
    flags = [*recipe.flags(), f"-I{include}", str(recipe.source), "-o", str(tmp_path / "cuda.so")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    spills = [line for line in done.stderr.splitlines() if "spill" in line]
    assert len(spills) > 50
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)
