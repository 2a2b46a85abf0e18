"""A digest is of what a tensor's elements are, and not of how they are stored."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuttings import SHAPES, boxes_of
from dumps import measured
from hypothesis import given
from hypothesis import strategies as st
from storing import TYPES, Codes, Way, in_chunks, ways, written

from gradtool.core.dtypes import DTYPES
from gradtool.core.shapes.boxes import Box, boxes_of_range
from gradtool.engine.backend import TASK_BYTES

MIB = 1 << 20


def digest_of(raw: bytes) -> str:
    """The digest by its definition."""
    blocks = (raw[start : start + MIB] for start in range(0, len(raw), MIB))
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


@given(shape=SHAPES, data=st.data(), dtype=TYPES, way=ways(), is_cut=st.booleans())
def test_it_is_the_same_however_a_tensor_is_stored(
    shape: tuple[int, ...],
    data: st.DataObject,
    dtype: str,
    way: Way,
    is_cut: bool,
    scratch: Path,
) -> None:
    seed = data.draw(st.integers(0, 99))
    size = (*shape, DTYPES[dtype].itemsize)
    codes: Codes = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    if is_cut:
        spec = in_chunks(codes, dtype, data.draw(boxes_of(shape)), way, scratch)
    else:
        spec = written(codes, dtype, way, scratch)
    (found,) = measured([spec], digest=True).tensors
    assert found.digest == digest_of(codes.tobytes())
    (without,) = measured([spec]).tensors
    assert without == replace(found, digest=None)


@pytest.mark.parametrize("kind", ["plain", "turned", "gaps", "stream", "turned stream"])
@pytest.mark.parametrize("dtype", ["F8_E5M2", "F32", "C128"])
def test_long_tensors_are_digested_in_many_tasks(kind: str, dtype: str, tmp_path: Path) -> None:
    itemsize = DTYPES[dtype].itemsize
    rows = TASK_BYTES // (1000 * itemsize) + 77
    codes = np.random.default_rng(7).integers(0, 256, (rows, 1001, itemsize), dtype=np.uint8)
    assert codes.nbytes > TASK_BYTES
    whole = written(codes, dtype, Way(kind, 2, swapped=False, negated=False), tmp_path)
    short = written(codes[:3], dtype, Way("plain", 1, swapped=True, negated=False), tmp_path)
    found = measured([replace(short, name="s"), whole], digest=True).tensors
    assert [one.digest for one in found] == [
        digest_of(codes[:3].tobytes()),
        digest_of(codes.tobytes()),
    ]


@given(shape=SHAPES, data=st.data())
def test_a_range_is_cut_into_boxes_in_its_order(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    numel = math.prod(shape)
    start = data.draw(st.integers(0, numel))
    stop = data.draw(st.integers(start, numel))
    positions = np.arange(numel).reshape(shape)

    def place(box: Box) -> tuple[slice, ...]:
        return tuple(map(slice, box.offsets, box.ends))

    boxes = list(boxes_of_range(shape, start, stop))
    found = [n for box in boxes for n in positions[place(box)].reshape(-1).tolist()]
    assert found == list(range(start, stop))
    assert len(boxes) <= max(2 * len(shape) - 1, 1)
