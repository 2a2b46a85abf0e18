"""Scales: fp8 tensors are measured as the products are, whatever the blocks and the tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
import torch
from dumps import NUMPY_TYPES, SMALLEST_NORMAL, WINDOW, write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from oracle import close

from gradtool.core.measurement import TensorMeasurement
from gradtool.core.shapes.rows import Bands
from gradtool.core.tensors import Replica, Skipped, TensorSpec
from gradtool.engine.backend import BLOCK_ELEMENTS, BLOCK_PIECES, Backend, BatchLimits
from gradtool.engine.numpy_backend.backend import NumpyBackend
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import measure
from gradtool.engine.schedule import Runner
from gradtool.formats import open_checkpoint
from gradtool.formats.scaling import with_scales

FP8 = ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]
SCALES = {**{name: NUMPY_TYPES[name] for name in ("F64", "F32", "F16", "BF16")}}
SCALES["F8_E8M0"] = ml_dtypes.float8_e8m0fnu


class OneByOne(NumpyBackend):
    """Borders of blocks and tasks after every element."""

    limits: ClassVar[BatchLimits] = BatchLimits(8, 1, 1, 8)


class ByThree(NumpyBackend):
    """Borders of blocks after three elements, and of tasks after seven."""

    limits: ClassVar[BatchLimits] = BatchLimits(56, 3, 2, 56)


def scales(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    """Any numbers of a scale's dtype, all of its bits used; float64's between those of float32."""
    kind = np.dtype(SCALES[dtype])
    if dtype == "F64":
        return arrays(np.float64, shape, elements=st.floats(width=32))
    words = np.dtype(f"u{kind.itemsize}")
    return arrays(words, shape).map(lambda found: found.view(kind))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, int]]:
    """Shapes of a tensor and of its scale, and rows and columns of the last dimensions' blocks."""
    shape = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple))
    rows, columns = shape[-2] if len(shape) > 1 else 1, shape[-1]
    kind = draw(st.sampled_from(["one", "rows", "blocks"]))
    if kind == "one":
        return shape, draw(st.sampled_from([(), (1,), (1,) * len(shape)])), (rows, columns)
    if kind == "rows" or len(shape) == 1:
        per_row = (1, columns) if len(shape) == 2 else (rows, columns)
        tail = draw(st.sampled_from([(), (1,) * (len(shape) - 1)]))
        return shape, (shape[0], *tail), per_row if len(shape) > 1 else (1, 1)
    sizes = [draw(st.sampled_from([1, 2, 4, 8, 16])) for _ in range(2)]
    counts = (-(-rows // sizes[0]), -(-columns // sizes[1]))
    return shape, (*shape[:-2], *counts), (sizes[0], sizes[1])


def multiplied(
    codes: NDArray[Any], scale: NDArray[Any], block: tuple[int, int]
) -> NDArray[np.float64]:
    """Each element times its number, found by its indices alone."""
    products = codes.astype(np.float64)
    numbers = scale.astype(np.float64)
    for index in np.ndindex(codes.shape):
        if numbers.size == 1:
            number = numbers.reshape(())
        elif numbers.ndim < codes.ndim:
            number = numbers[index[0]]
        elif len(index) == 1:
            number = numbers[index]
        else:
            *before, row, column = index
            at = (*before, row // block[0], column // block[1])
            number = numbers[tuple(min(i, n - 1) for i, n in zip(at, numbers.shape, strict=True))]
        with np.errstate(all="ignore"):
            products[index] *= number
    return products


def weights(
    path: Path, backend: Backend, bands: Mapping[str, Bands]
) -> dict[str, TensorMeasurement]:
    """The tensors called `weight`, times their scales, with their rows in these bands."""

    def is_weight(item: TensorSpec | Replica | Skipped) -> bool:
        return item.name.endswith(".weight")

    whole = open_checkpoint(str(path))
    part = with_scales(whole.narrowed(is_weight), whole)
    with ThreadPoolExecutor(2) as workers:
        runner = Runner(workers, WINDOW, backend, whole_progress(None))
        tensors = measure(part, runner, bands=bands).tensors
    return {tensor.name: tensor for tensor in tensors}


def measured(path: Path, backend: Backend) -> TensorMeasurement:
    """The tensor called `w.weight`, times its scale."""
    return weights(path, backend, {})["w.weight"]


def small(codes: NDArray[Any], dtype: str) -> NDArray[np.bool_]:
    """Which elements are subnormal as they are stored."""
    as_stored = np.abs(codes.astype(np.float64))
    return (as_stored > 0) & (as_stored < SMALLEST_NORMAL[dtype])


@pytest.mark.parametrize("limits", [None, OneByOne(), ByThree()])
@given(data=st.data(), dtype=st.sampled_from(FP8), scale_dtype=st.sampled_from(list(SCALES)))
def test_a_product_is_measured_as_float64_holds_it(
    backend: Backend,
    limits: Backend | None,
    data: st.DataObject,
    dtype: str,
    scale_dtype: str,
    scratch: Path,
) -> None:
    shape, scale_shape, block = data.draw(shapes())
    codes = data.draw(arrays(np.uint8, shape)).view(NUMPY_TYPES[dtype])
    scale = data.draw(scales(scale_dtype, scale_shape))
    name = data.draw(st.sampled_from(["weight_scale_inv", "weight_scale", "scale_weight", "scale"]))
    stored = {f"w.{name}": (scale_dtype, scale), "w.weight": (dtype, codes)}
    tensor = measured(write_safetensors(scratch / "a.safetensors", stored), limits or backend)

    products = multiplied(codes, scale, block)
    finite = products[np.isfinite(products)]
    stats = tensor.stats
    assert close(stats.finite_norm, math.sqrt(math.fsum(finite.ravel() ** 2)))
    assert stats.max_abs == (np.abs(finite).max() if finite.size else 0.0)
    assert (stats.numel, stats.zeros) == (products.size, np.count_nonzero(products == 0))
    counts = [np.isnan(products), products == math.inf, products == -math.inf]
    assert [stats.nan, stats.posinf, stats.neginf] == [np.count_nonzero(bad) for bad in counts]
    bad = np.argwhere(~np.isfinite(products))
    assert tensor.first_nonfinite == (tuple(bad[0]) if len(bad) else None)
    assert stats.subnormals == np.count_nonzero(small(codes, dtype))
    assert (tensor.spec.dtype.name, tensor.native_norm) == (dtype, None)


def assert_rows(
    tensor: TensorMeasurement, products: NDArray[np.float64], is_small: NDArray[np.bool_]
) -> None:
    """Each row is measured as its products are."""
    assert [(row.start, row.stop) for row in tensor.rows] == [
        (row, row + 1) for row in range(len(products))
    ]
    for row, values, subnormal in zip(tensor.rows, products, is_small, strict=True):
        finite = values[np.isfinite(values)]
        assert close(row.finite_norm, math.sqrt(math.fsum(finite.ravel() ** 2)))
        assert row.stats.max_abs == np.abs(finite).max(initial=0.0)
        assert row.stats.numel == values.size
        assert row.stats.zeros == np.count_nonzero(values == 0)
        assert row.stats.nonfinite == values.size - finite.size
        assert row.stats.subnormals == np.count_nonzero(subnormal)
        bad = np.flatnonzero(~np.isfinite(values))
        first = row.start * values.size + int(bad[0]) if bad.size else None
        assert row.stats.first_nonfinite == first


@pytest.mark.parametrize("limits", [None, OneByOne(), ByThree()])
@given(data=st.data(), dtype=st.sampled_from(FP8), scale_dtype=st.sampled_from(list(SCALES)))
def test_rows_are_those_of_the_products(
    backend: Backend,
    limits: Backend | None,
    data: st.DataObject,
    dtype: str,
    scale_dtype: str,
    scratch: Path,
) -> None:
    shape, scale_shape, block = data.draw(shapes())
    codes = data.draw(arrays(np.uint8, shape)).view(NUMPY_TYPES[dtype])
    scale = data.draw(scales(scale_dtype, scale_shape))
    stored = {"w.weight_scale": (scale_dtype, scale), "w.weight": (dtype, codes)}
    path = write_safetensors(scratch / "a.safetensors", stored)
    apart = weights(path, limits or backend, {"w.weight": Bands.each_row(shape)})["w.weight"]
    assert_rows(apart, multiplied(codes, scale, block), small(codes, dtype))
    assert repr(replace(apart, rows=()).stats) == repr(measured(path, limits or backend).stats)


@given(
    data=st.data(),
    starts=st.lists(st.integers(0, 9), min_size=2, max_size=3, unique=True),
    shape=st.tuples(st.integers(1, 5), st.integers(2, 4)),
)
def test_rows_of_tensors_that_share_elements_are_each_times_their_own_scale(
    backend: Backend,
    data: st.DataObject,
    starts: list[int],
    shape: tuple[int, int],
    scratch: Path,
) -> None:
    codes = data.draw(arrays(np.uint8, (40,)))
    storage = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    saved, expected = {}, {}
    for start in starts:
        scale = data.draw(scales("F32", (shape[0], 1)))
        view = storage[start : start + math.prod(shape)].view(shape)
        saved |= {f"{start}.weight": view, f"{start}.weight_scale": torch.from_numpy(scale)}
        own = codes[start : start + math.prod(shape)].view(ml_dtypes.float8_e4m3fn).reshape(shape)
        expected[f"{start}.weight"] = (multiplied(own, scale, (1, shape[1])), own)
    torch.save(saved, scratch / "a.pt")
    bands = {name: Bands.each_row(shape) for name in expected}
    found = weights(scratch / "a.pt", backend, bands)
    assert found.keys() == expected.keys()
    for name, (products, own) in expected.items():
        assert_rows(found[name], products, small(own, "F8_E4M3"))


def test_rows_of_tensors_that_share_elements_cross_the_borders_of_windows(
    backend: Backend, tmp_path: Path
) -> None:
    # More rows than are reduced in one call, and more elements than a window has.
    shape, width = (3 * BLOCK_PIECES, 400), 400
    assert math.prod(shape) > BLOCK_ELEMENTS
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 0x7E, math.prod(shape) + width // 2).astype(np.uint8)
    storage = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    saved, expected = {}, {}
    for start in (0, width // 2):
        scale = rng.standard_normal((shape[0], 1)).astype(np.float32)
        view = storage[start : start + math.prod(shape)].view(shape)
        saved |= {f"{start}.weight": view, f"{start}.weight_scale": torch.from_numpy(scale)}
        own = codes[start : start + math.prod(shape)].view(ml_dtypes.float8_e4m3fn).reshape(shape)
        expected[f"{start}.weight"] = (own.astype(float) * scale.astype(float), own)
    torch.save(saved, tmp_path / "a.pt")
    found = weights(tmp_path / "a.pt", backend, {n: Bands.each_row(shape) for n in expected})
    for name, (products, own) in expected.items():
        assert_rows(found[name], products, small(own, "F8_E4M3"))


def test_large_blocks_cross_the_borders_of_large_tasks(backend: Backend, tmp_path: Path) -> None:
    # 13 rows of scales, of which a block of elements touches several and a task's end cuts one.
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 0x7E, (1600, 6000)).astype(np.uint8)
    scale = rng.standard_normal((13, 47)).astype(np.float32)
    stored = {
        "w.weight": ("F8_E4M3", codes.view(ml_dtypes.float8_e4m3fn)),
        "w.weight_scale_inv": ("F32", scale),
    }
    tensor = measured(write_safetensors(tmp_path / "a.safetensors", stored), backend)
    factors = np.repeat(np.repeat(scale.astype(float), 128, axis=0), 128, axis=1)[:1600, :6000]
    products = codes.view(ml_dtypes.float8_e4m3fn).astype(float) * factors
    assert close(tensor.stats.norm, math.sqrt(math.fsum(products.ravel() ** 2)))
    assert tensor.stats.max_abs == np.abs(products).max()
