"""Views: what a shape names is what is measured, and shared elements count once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuttings import STORAGE, as_view, layouts, storage, view_of
from dumps import measured, stored
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close, exact_norm

from gradtool.core.dtypes import DTYPES
from gradtool.core.shapes.strides import is_dense, overlaps_itself
from gradtool.engine.backend import BLOCK_ELEMENTS, TASK_BYTES, Backend
from gradtool.errors import CorruptFileError


def first_bad(view: NDArray[Any]) -> tuple[int, ...] | None:
    found = np.argwhere(~np.isfinite(view))
    return tuple(map(int, found[0])) if len(found) else None


@given(layout=layouts(), seed=st.integers(0, 50), bad=st.sampled_from([0, 0, 600]))
def test_a_view_is_measured_as_numpy_walks_it(
    backend: Backend,
    layout: tuple[int, tuple[int, ...], tuple[int, ...]],
    seed: int,
    bad: int,
    scratch: Path,
) -> None:
    array = storage(seed, bad=bad)
    (whole,) = stored(scratch, "F64", [array])
    (tensor,) = measured([view_of(whole, "view", *layout)], backend=backend).tensors
    view = as_view(array, *layout)
    values = [float(x) for x in view.reshape(-1)]
    assert tensor.stats.numel == len(values)
    assert tensor.stats.nan == sum(map(math.isnan, values))
    assert tensor.stats.zeros == sum(x == 0 for x in values)
    assert close(tensor.stats.finite_norm, exact_norm(filter(math.isfinite, values), 2.0))
    assert tensor.first_nonfinite == first_bad(view)


@given(pieces=st.lists(layouts(), min_size=1, max_size=5), seed=st.integers(0, 50))
def test_totals_count_each_stored_element_once(
    backend: Backend,
    pieces: list[tuple[int, tuple[int, ...], tuple[int, ...]]],
    seed: int,
    scratch: Path,
) -> None:
    array = storage(seed)
    (whole,) = stored(scratch, "F64", [array])
    specs = [view_of(whole, f"v{i}", *piece) for i, piece in enumerate(pieces)]
    total = measured(specs, backend=backend).total
    named = np.zeros(STORAGE, bool)
    for piece in pieces:
        named[as_view(np.arange(STORAGE), *piece).reshape(-1)] = True
    assert total is not None
    assert total.stats.numel == int(named.sum())
    assert close(total.stats.norm, exact_norm(array[named].tolist(), 2.0))


@pytest.mark.parametrize("shape", [(3, 5, 7), (40, 1, 2)])
def test_a_transposed_alias_has_its_own_first_index(
    backend: Backend, shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.ones(math.prod(shape))
    array[[11, 30]] = math.nan
    (whole,) = stored(tmp_path, "F64", [array.reshape(shape)])
    strides = (1, shape[0], shape[0] * shape[1])
    specs = [whole, view_of(whole, "t", 0, shape, strides)]
    plain, turned = measured(specs, backend=backend).tensors
    assert (plain.alias_of, turned.alias_of) == (None, "t.0")
    assert turned.unique is None
    assert plain.first_nonfinite == first_bad(array.reshape(shape))
    assert turned.first_nonfinite == first_bad(as_view(array, 0, shape, strides))


def test_leaving_the_first_name_out_makes_the_second_the_owner(
    backend: Backend, tmp_path: Path
) -> None:
    (whole,) = stored(tmp_path, "F64", [np.ones(9)])
    alias = replace(whole, name="alias")
    (tensor,) = measured([alias], backend=backend).tensors
    assert tensor.alias_of is None
    assert tensor.unique is not None


def test_a_section_counts_what_another_section_shares_with_it(
    backend: Backend, tmp_path: Path
) -> None:
    (whole,) = stored(tmp_path, "F64", [np.ones(9)])
    found = measured(
        [replace(whole, section="a"), replace(whole, name="other", section="b")], backend=backend
    )
    assert [section.stats.norm for section in found.sections] == [3.0, 3.0]
    assert [section.tensors for section in found.sections] == [1, 1]
    assert found.total is not None
    assert found.total.stats.norm == 3.0
    assert found.total.tensors == 1


def test_an_expanded_view_names_an_element_often_and_stores_it_once(
    backend: Backend, tmp_path: Path
) -> None:
    (whole,) = stored(tmp_path, "F64", [np.array([3.0, math.inf])])
    found = measured([view_of(whole, "wide", 0, (100, 2, 4), (0, 1, 0))], backend=backend)
    (tensor,) = found.tensors
    assert (tensor.stats.numel, tensor.stats.posinf, tensor.stats.finite_norm) == (800, 400, 60.0)
    assert tensor.first_nonfinite == (0, 1, 0)
    assert found.total is not None
    assert (found.total.stats.numel, found.total.stats.finite_norm) == (2, 3.0)
    assert any("'wide' names 800 elements, of which 2" in note for note in found.notes)


def test_a_view_longer_than_a_block_is_walked_in_steps(backend: Backend, tmp_path: Path) -> None:
    array = np.arange(1_200_000.0)
    array[777_777] = math.nan
    (whole,) = stored(tmp_path, "F64", [array])
    assert array.size > TASK_BYTES // 8
    (tensor,) = measured([view_of(whole, "v", 0, (400_000,), (3,))], backend=backend).tensors
    assert tensor.first_nonfinite == (259_259,)
    expected = [x for x in array[::3].tolist() if not math.isnan(x)]
    assert close(tensor.stats.finite_norm, math.sqrt(math.fsum(x * x for x in expected)))


def test_far_apart_elements_are_found(backend: Backend, tmp_path: Path) -> None:
    array = np.arange(3_000_000.0)
    (whole,) = stored(tmp_path, "F64", [array])
    (tensor,) = measured([view_of(whole, "column", 5, (3,), (1_000_000,))], backend=backend).tensors
    assert close(tensor.stats.norm, exact_norm([5.0, 1_000_005.0, 2_000_005.0], 2.0))
    assert BLOCK_ELEMENTS < 1_000_000


@pytest.mark.parametrize(
    ("shape", "strides", "dense", "overlaps"),
    [
        ((2, 3), (3, 1), True, False),
        ((2, 3), (1, 2), True, False),
        ((2, 3), (4, 1), False, False),
        ((2, 3), (0, 1), True, False),
        ((2, 3), (1, 1), False, True),
        ((1, 3), (99, 1), True, False),
        ((), (), True, False),
    ],
)
def test_layouts_are_told_apart(
    shape: tuple[int, ...], strides: tuple[int, ...], dense: bool, overlaps: bool
) -> None:
    assert is_dense(shape, strides) is dense
    assert overlaps_itself(shape, strides) is overlaps


def test_one_storage_under_two_dtypes_is_refused(backend: Backend, tmp_path: Path) -> None:
    (whole,) = stored(tmp_path, "F64", [np.ones(8)])
    other = replace(whole, name="halves", dtype=DTYPES["F32"], shape=(16,))
    with pytest.raises(
        CorruptFileError, match=r"'halves': shares bytes with 't\.0' as F32 and F64"
    ):
        measured([whole, other], backend=backend)


def test_many_views_of_one_storage_cost_what_they_name(backend: Backend, tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal(100_000)
    (whole,) = stored(tmp_path, "F64", [array])
    sliding = [view_of(whole, f"s{i}", i, (500,), (1,)) for i in range(3000)]
    columns = [view_of(whole, f"c{i}", i, (500,), (200,)) for i in range(200)]
    found = measured([*sliding, *columns], backend=backend)
    assert found.total is not None
    assert found.total.stats.numel == 100_000
    assert close(found.total.norm, math.sqrt(math.fsum(x * x for x in array.tolist())))
    for i in (0, 1, 2999):
        assert close(found.tensors[i].norm, exact_norm(array[i : i + 500].tolist(), 2.0))
    assert close(found.tensors[3007].norm, exact_norm(array[7::200].tolist(), 2.0))
    assert len(found.notes) < 10
