"""A tensor cut into boxes measures, locates and clips like the whole one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuttings import cut, cuttings
from dumps import measured, stored
from hypothesis import given
from hypothesis import strategies as st
from oracle import close

from gradtool.core.shapes.boxes import Box
from gradtool.engine.backend import Backend

BAD = st.sampled_from([0.0, 0.0, 0.1, 0.9])


@given(cutting=cuttings(), bad=BAD, seed=st.integers(0, 99), files=st.integers(1, 3))
def test_it_measures_and_locates_like_the_whole(
    backend: Backend,
    cutting: tuple[tuple[int, ...], list[Box]],
    bad: float,
    seed: int,
    files: int,
    scratch: Path,
) -> None:
    shape, boxes = cutting
    rng = np.random.default_rng(seed)
    array = np.where(rng.random(shape) < bad, math.nan, rng.standard_normal(shape))
    (whole,) = measured(stored(scratch, "F64", [array]), backend=backend).tensors
    (found,) = measured([cut(array, boxes, scratch, files)], backend=backend).tensors
    assert found.spec.shape == shape
    assert found.first_nonfinite == whole.first_nonfinite
    for field in ("numel", "nan", "posinf", "neginf", "zeros", "subnormals", "max_abs"):
        assert getattr(found.stats, field) == getattr(whole.stats, field)
    assert close(found.finite_norm, whole.finite_norm, 1e-15)
    assert found.unique is not None
    assert replace(found.unique, first_nonfinite=None) == replace(found.stats, first_nonfinite=None)


def test_tensors_whose_boxes_share_their_bytes_count_them_once(
    backend: Backend, tmp_path: Path
) -> None:
    array = np.arange(12.0).reshape(3, 4)
    boxes = [Box((0, 0), (2, 4)), Box((2, 0), (1, 4))]
    first = cut(array, boxes, tmp_path, 1)
    chunks = tuple(replace(c, stored=replace(c.stored, name="tied")) for c in first.chunks)
    tied = replace(first, name="tied", chunks=chunks)
    found = measured([first, tied], backend=backend)
    assert [tensor.alias_of for tensor in found.tensors] == [None, "cut"]
    assert found.total is not None
    assert found.total.tensors == 1
    assert found.total.norm == pytest.approx(math.sqrt(sum(x * x for x in range(12))), rel=1e-15)
