"""How data is cut, ordered, stored and scheduled changes nothing."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import pytest
from dumps import (
    NUMPY_TYPES,
    SMALLEST_NORMAL,
    WINDOW,
    measured,
    stored,
    tiny_numbers,
    write_safetensors,
)
from hypothesis import given
from hypothesis import strategies as st
from oracle import close, exact_norm

import gradtool
from gradtool.core.locations import Extent
from gradtool.core.measurement import Measurement
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.stats import TensorStats, merge, power_scale
from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend import kernels as numpy_kernels
from gradtool.engine.reading import reductions

RNG = np.random.default_rng(0)


def figures(measurement: Measurement) -> str:
    """Every digit of every figure; as text, in which NaN equals NaN."""
    tensors = [
        (t.name, t.stats, t.unique, t.native_norm, t.first_nonfinite) for t in measurement.tensors
    ]
    return repr((tensors, measurement.total))


def some_gradients() -> list[np.ndarray]:
    sizes = [1, 7, 1000, 65_536, 65_537, 200_001, 3, 3_000_000]
    arrays = [
        (RNG.standard_normal(n) * 10.0 ** RNG.integers(-6, 3)).astype(np.float32) for n in sizes
    ]
    arrays[5][123_456] = math.nan
    arrays[6][1] = -math.inf
    return arrays


@pytest.mark.parametrize("p", [2.0, 3.0, -1.0, math.inf])
def test_the_number_of_threads_changes_no_bit(backend: Backend, p: float, tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", some_gradients())
    results = []
    for threads in (1, 2, 5):
        with ThreadPoolExecutor(threads) as executor:
            results.append(figures(measured(specs, p, executor, backend=backend)))
    assert results[0] == results[1] == results[2]


def test_worker_processes_find_the_same(backend: Backend, tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", some_gradients())
    view = replace(specs[3], name="view", shape=(100, 3), strides=(7, 2))
    view = replace(view, extents=(Extent(specs[3].extents[0].file, 0, 4 * (99 * 7 + 2 * 2 + 1)),))
    # Not forked: threads of OpenMP, which torch may have started, do not survive that.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        assert figures(measured([*specs, view], 2.0, processes, backend=backend)) == figures(
            measured([*specs, view], backend=backend)
        )


def test_the_threads_of_a_blas_change_no_bit(tmp_path: Path) -> None:
    arrays = {f"x{i}": ("F64", RNG.standard_normal(60_000 + i)) for i in range(20)}
    path = write_safetensors(tmp_path / "x.safetensors", arrays)
    code = (
        "import gradtool;"
        f"print([t.stats.power_sum for t in gradtool.measure({str(path)!r}).tensors])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert len(found) == 1


@given(
    parts=st.integers(1, 5),
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=8),
    p=st.sampled_from([2.0, 1.0, 0.5, -1.0, 64.0, math.inf, 0.0]),
    dtype=st.sampled_from(["F16", "BF16", "F32", "F64"]),
    spread=st.sampled_from([0, 4, 30]),
    seed=st.integers(0, 99),
)
def test_cutting_tensors_over_files_changes_no_norm(
    backend: Backend,
    parts: int,
    sizes: list[int],
    p: float,
    dtype: str,
    spread: int,
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        arrays = [
            (rng.standard_normal(n) * 2.0 ** rng.integers(-spread, spread + 1, n)).astype(
                NUMPY_TYPES[dtype]
            )
            for n in sizes
        ]
    values = [float(x) for a in arrays for x in a if math.isfinite(float(x))]
    sharded = measured(stored(scratch, dtype, arrays, parts), p, backend=backend).total
    reverse = measured(stored(scratch, dtype, arrays[::-1]), p, backend=backend).total
    assert sharded is not None
    assert reverse is not None
    assert close(sharded.stats.finite_norm, exact_norm(values, p))
    assert close(reverse.stats.finite_norm, exact_norm(values, p))
    assert sharded.stats.zeros == reverse.stats.zeros


def small_counts(dtype: str, array: np.ndarray) -> tuple[int, int]:
    """How many elements are 0, and how many subnormal."""
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    sizes = np.hypot(wide.real, wide.imag)
    return int((sizes == 0).sum()), int(((sizes > 0) & (sizes < SMALLEST_NORMAL[dtype])).sum())


def tiny_gradients(dtype: str, count: int, rng: np.random.Generator, **how: Any) -> np.ndarray:
    if dtype in ("C64", "C128"):
        part = {"C64": "F32", "C128": "F64"}[dtype]
        return tiny_numbers(part, 2 * count, rng, **how).view(NUMPY_TYPES[dtype])
    return tiny_numbers(dtype, count, rng, **how)


@given(
    parts=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    p=st.sampled_from([2.0, 1.0, -1.0, math.inf, 0.0]),
    dtype=st.sampled_from(sorted(NUMPY_TYPES)),
    nonfinite=st.booleans(),
    seed=st.integers(0, 99),
)
def test_cutting_tensors_over_files_changes_no_count(
    backend: Backend,
    parts: int,
    sizes: list[int],
    p: float,
    dtype: str,
    seed: int,
    *,
    nonfinite: bool,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    arrays = [tiny_gradients(dtype, size, rng, nonfinite=nonfinite) for size in sizes]
    known = [small_counts(dtype, array) for array in arrays]
    found = measured(stored(scratch, dtype, arrays, parts), p, backend=backend)
    assert [(t.stats.zeros, t.stats.subnormals) for t in found.tensors] == known
    assert found.total is not None
    assert found.total.stats.subnormals == sum(subnormals for _, subnormals in known)


@pytest.mark.parametrize("p", [2.0, -1.0])
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_every_piece_of_a_long_tensor_is_counted(
    backend: Backend, dtype: str, p: float, tmp_path: Path
) -> None:
    piece = numpy_kernels.CACHED_NUMEL
    array = np.ones(6 * piece + 5).astype(NUMPY_TYPES[dtype])
    array[piece : 2 * piece] = 0
    array[2 * piece : 4 * piece] = tiny_gradients(dtype, 2 * piece, RNG)
    array[-7:] = tiny_gradients(dtype, 7, RNG, nonfinite=True)
    for parts in (1, 3):
        (tensor,) = measured(stored(tmp_path, dtype, [array], parts), p, backend=backend).tensors
        assert (tensor.stats.zeros, tensor.stats.subnormals) == small_counts(dtype, array)
    np.savez_compressed(tmp_path / "x.npz", array)
    if array.dtype.type.__module__ == "numpy":  # the others npz knows by their size only
        (tensor,) = gradtool.measure(tmp_path / "x.npz", norm_type=p).tensors
        assert (tensor.stats.zeros, tensor.stats.subnormals) == small_counts(dtype, array)


def test_subnormals_that_views_share_count_once_in_the_total(
    backend: Backend, tmp_path: Path
) -> None:
    array = tiny_numbers("F32", 40, RNG)
    (whole,) = stored(tmp_path, "F32", [array])
    (extent,) = whole.extents
    part = replace(whole, name="part", shape=(20,), strides=(2,))
    wide = replace(
        whole, name="wide", shape=(3, 5), strides=(0, 1), extents=(replace(extent, nbytes=20),)
    )
    found = measured([part, wide, whole], backend=backend)
    of_whole = small_counts("F32", array)[1]
    of_part = small_counts("F32", array[::2])[1]
    of_wide = 3 * small_counts("F32", array[:5])[1]
    assert [t.stats.subnormals for t in found.tensors] == [of_part, of_wide, of_whole]
    assert found.total is not None
    assert found.total.stats.subnormals == of_whole


def test_an_index_counts_from_the_start_of_the_tensor_in_whichever_part_it_lies(
    backend: Backend,
    tmp_path: Path,
) -> None:
    array = np.ones((300, 1000), np.float32)
    array[271, 828] = math.nan
    array[299, 0] = math.inf
    for parts in (1, 3, 7):
        (tensor,) = measured(stored(tmp_path, "F32", [array], parts), backend=backend).tensors
        assert tensor.first_nonfinite == (271, 828)


@st.composite
def trees(
    draw: st.DrawFn, least: float = 1e-320, most: float = 1e308
) -> tuple[float, list[TensorStats], Any]:
    """p, the statistics of some blocks, and a tree of groups in which to merge them.

    Their elements are from `least` to `most`.
    """
    p = draw(st.sampled_from([2.0, 1.0, 0.5, 1.7, 64.0, -3.0, 300.0]))
    parts = []
    for value, mantissa, zeros in draw(
        st.lists(
            st.tuples(st.floats(least, most), st.floats(1.0, 1e9), st.integers(0, 3)),
            min_size=1,
            max_size=12,
        )
    ):
        scale, few = power_scale(value, p), zeros % 2
        parts.append(TensorStats(p, 9, mantissa, scale, value, value, zeros=zeros, subnormals=few))
    indices = st.permutations(range(len(parts)))
    groups: Any = draw(indices)
    while len(groups) > 1 and draw(st.booleans()):
        at = draw(st.integers(1, len(groups)))
        groups = [groups[:at], *groups[at:]]
    return p, parts, groups


def merged_in(groups: Any, parts: list[TensorStats], p: float) -> TensorStats:
    if isinstance(groups, int):
        return parts[groups]
    return merge([TensorStats(p), *(merged_in(group, parts, p) for group in groups)], p)


@given(trees())
def test_parts_merge_to_the_same_bits_in_any_groups(
    drawn: tuple[float, list[TensorStats], Any],
) -> None:
    p, parts, groups = drawn
    whole = merge([TensorStats(p), *parts], p)
    assert merged_in(groups, parts, p) == whole


def quotient_norm(values: list[float], p: float, divisor: float) -> float:
    """The norm of values divided by a number, in 60 digits; infinite where no float64 holds it."""
    with localcontext(prec=60, Emax=10**15, Emin=-(10**15)):
        powers = [abs(Decimal(value) / Decimal(divisor)) ** Decimal(p) for value in values]
        found = sum(powers, Decimal(0)) ** (1 / Decimal(p))
        return math.inf if found > Decimal(sys.float_info.max) else float(found)


@pytest.mark.parametrize("divisor", [1e-308, 1e-100, 1e-3, 1024.0, 1e100, 1e308])
@pytest.mark.parametrize("p", [2.0, 0.5, 3.5, 64.0, 512.0, 600.0, -1.0, -3.0, -512.0, 1e4])
def test_whatever_they_are_divided_by_norms_are_those_of_the_quotients(
    p: float, divisor: float
) -> None:
    small, large, plain = [1e-300, 2e-300], [1e300, 3e300], [1.0, 2.0]
    for one, other in itertools.product((small, large, [1e-300, 1e300]), (plain, [1e305, 1.0])):
        tree = {"a": np.array(one), "b": np.array(other)}
        total = gradtool.measure(tree, norm_type=p, loss_scale=divisor).total
        assert total is not None
        exact = quotient_norm(one + other, p, divisor)
        if exact > 1e-305:  # below, float64 has fewer digits
            assert close(total.norm, exact, 1e-12 if abs(p) <= 64.0 else 1e-9)
        else:
            assert total.norm < 2e-305


@given(trees(1e-250, 1e250), st.integers(-40, 40))
def test_parts_that_were_divided_by_a_power_of_two_merge_to_the_same_bits(
    drawn: tuple[float, list[TensorStats], Any], exponent: int
) -> None:
    p, parts, groups = drawn
    divisor = 2.0**exponent
    if isinstance(groups[0], int):
        groups = [list(groups)]
    pieces = [merged_in(group, parts, p).divided(divisor) for group in groups]
    whole = merge([TensorStats(p), *parts], p).divided(divisor)
    found = merge([TensorStats(p), *pieces], p)
    assert (found.power_sum, found.scale, found.rest) == (whole.power_sum, whole.scale, whole.rest)


@given(st.lists(st.floats(1.0, 2.0**60), min_size=1, max_size=300), st.integers(2, 40))
def test_sums_of_parts_are_exact_until_they_are_rounded_once(values: list[float], n: int) -> None:
    parts = [TensorStats(2.0, 1, value, 1.0, 1.0, 1.0) for value in values]
    groups = [merge(parts[at : at + n], 2.0) for at in range(0, len(parts), n)]
    total = merge(groups, 2.0)
    assert Fraction(total.power_sum) + sum(Fraction(left) for _, left in total.rest) == sum(
        map(Fraction, values)
    )
    assert total.power_sum == math.fsum(values)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="the peak of one process is read from Linux's /proc: ru_maxrss includes its parent's",
)
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    nbytes = 1 << 30
    header = b'{"x":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (nbytes // 4, nbytes)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + nbytes)
    code = (
        "import gradtool;"
        f"m = gradtool.measure({str(path)!r}, threads=2);"
        "assert m.total.stats.zeros == 1 << 28;"
        "print(open('/proc/self/status').read())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    peak_kib = next(int(ln.split()[1]) for ln in run.stdout.splitlines() if "VmHWM" in ln)
    assert peak_kib < 100 * 1024


def test_measuring_says_how_far_it_is(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "x.safetensors", {"x": ("F32", np.ones(6_000_000, np.float32))}
    )
    seen: list[tuple[int, int]] = []
    gradtool.measure(path, progress=lambda done, todo: seen.append((done, todo)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (24_000_000, 24_000_000)
    assert len(seen) > 1


def test_progress_ends_at_all_there_is_whatever_is_shared(tmp_path: Path) -> None:
    (whole,) = stored(tmp_path, "F32", [np.ones(1000, np.float32)])
    seen: list[tuple[int, int]] = []
    measured([whole, replace(whole, name="tied")], progress=lambda *at: seen.append(at))
    assert seen[-1] == (8000, 8000)


class Counting(ThreadPoolExecutor):
    """An executor that knows how many of its tasks are under way, and the most there were."""

    _lock = Lock()
    most = under_way = cancelled = 0

    def submit(self, fn: Any, *args: Any, **options: Any) -> Future[Any]:
        def counted(*args: Any, **options: Any) -> Any:
            try:
                return fn(*args, **options)
            finally:  # before the future is done: who waits may wake before its callbacks run
                self._end()

        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        future = super().submit(counted, *args, **options)
        future.add_done_callback(self._settle)
        return future

    def _end(self) -> None:
        with self._lock:
            self.under_way -= 1

    def _settle(self, future: Future[Any]) -> None:
        if future.cancelled():
            self.cancelled += 1
            self._end()


class Held(Counting):
    """One thread, of which no task but the first ends before another is cancelled."""

    def __init__(self) -> None:
        super().__init__(1)
        self._one_cancelled, self._may_end = Event(), Event()
        self._may_end.set()

    def submit(self, fn: Any, *args: Any, **options: Any) -> Future[Any]:
        may_end, self._may_end = self._may_end, self._one_cancelled

        def held() -> Any:
            assert may_end.wait(60)
            return fn(*args, **options)

        return super().submit(held)

    def _settle(self, future: Future[Any]) -> None:
        super()._settle(future)
        if future.cancelled():
            self._one_cancelled.set()


def test_no_more_tasks_than_the_window_are_under_way(tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", [np.ones(30_000_000, np.float32)])
    with Counting(1) as executor:
        measured(specs, executor=executor)
        assert 1 < executor.most <= WINDOW


def test_an_error_cancels_what_was_submitted(tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", [np.ones(30_000_000, np.float32)])

    def stop(_: int, __: int) -> None:
        raise RuntimeError

    with Held() as executor:
        with pytest.raises(RuntimeError):
            measured(specs, executor=executor, progress=stop)
        assert executor.cancelled > 0


def test_parts_that_were_folded_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays = some_gradients()
    plain = measured(stored(tmp_path, "F32", arrays, parts=3))
    np.savez_compressed(tmp_path / "x.npz", *arrays)
    # The real limit needs gigabytes to be reached.
    monkeypatch.setattr(reductions, "MOST_PARTS", 2)
    for folded in (
        measured(stored(tmp_path, "F32", arrays, parts=3)),
        gradtool.measure(tmp_path / "x.npz"),
    ):
        for one, other in zip(plain.tensors, folded.tensors, strict=True):
            assert close(one.finite_norm, other.finite_norm, 1e-14)
            assert (one.stats.nan, one.stats.zeros) == (other.stats.nan, other.stats.zeros)
            assert one.stats.numel == other.stats.numel
            assert one.stats.first_nonfinite == other.stats.first_nonfinite


def test_c_order_strides_are_torchs() -> None:
    assert contiguous_strides((4, 3, 2)) == (6, 2, 1)
