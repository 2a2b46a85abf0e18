"""Ways in which a tensor may be stored, for tests that say that they do not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from dumps import NUMPY_TYPES, codes_type, stored
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Inline
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import Chunk, TensorSpec

TYPES = st.sampled_from([*NUMPY_TYPES, "C32"])
Codes = NDArray[np.uint8]
"""Elements as rows of bytes: the last axis is not one of the tensor's."""


@dataclass(frozen=True)
class Way:
    """How a tensor is stored: what is true of its elements, and where they lie."""

    kind: str
    files: int
    swapped: bool
    negated: bool


@st.composite
def ways(draw: st.DrawFn) -> Way:
    kinds = ["plain", "turned", "gaps", "stream", "turned stream"]
    return Way(
        kind=draw(st.sampled_from(kinds)),
        files=draw(st.integers(1, 3)),
        swapped=draw(st.booleans()),
        negated=draw(st.booleans()),
    )


def written(codes: Codes, dtype: str, way: Way, directory: Path) -> TensorSpec:
    """The elements stored in that way, under the name `t`."""
    shape = codes.shape[:-1]
    raw = codes.reshape(-1, codes.shape[-1]).view(codes_type(dtype)).copy()
    if way.negated:
        raw ^= raw.dtype.type(1 << raw.dtype.itemsize * 8 - 1)
    if way.swapped:
        raw = raw.byteswap()
    elements = raw.view(np.uint8).reshape(codes.shape)
    strides = None
    if way.kind.startswith("turned"):
        elements = np.moveaxis(elements, -1, 0).T.copy() if elements.ndim > 2 else elements
        strides = contiguous_strides(shape[::-1])[::-1]
    if way.kind == "gaps" and elements.size:
        wide = np.full((*(2 * size for size in shape), codes.shape[-1]), 0xA5, np.uint8)
        wide[(slice(None, None, 2),) * len(shape)] = elements
        strides = tuple(2 * stride for stride in contiguous_strides([2 * n for n in shape]))
        touched = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        elements = wide.reshape(-1, codes.shape[-1])[:touched]
    flat = elements.reshape(-1, codes.shape[-1])
    rows = flat.view(f"V{codes.shape[-1]}").reshape(-1)
    # A view with gaps is of one storage.
    parts = 1 if way.kind == "gaps" else way.files
    (spec,) = stored(directory, dtype, [rows], parts=parts)
    spec = replace(
        spec,
        name="t",
        shape=shape,
        strides=strides,
        big_endian=way.swapped,
        is_negated=way.negated,
    )
    if way.kind.endswith("stream"):
        return replace(spec, extents=(), stream=Inline(elements.tobytes()))
    return spec


def in_chunks(codes: Codes, dtype: str, boxes: list[Box], way: Way, directory: Path) -> TensorSpec:
    """The same cut into boxes, each of which is stored in that way."""
    chunks = []
    for box in boxes:
        part = codes[tuple(map(slice, box.offsets, box.ends))]
        chunks.append(Chunk(box, written(np.ascontiguousarray(part), dtype, way, directory)))
    return TensorSpec("t", DTYPES[dtype], codes.shape[:-1], chunks=tuple(chunks))


def stored_as(
    codes: Codes, dtype: str, boxes: list[Box] | None, way: Way, directory: Path
) -> TensorSpec:
    """The elements stored in that way, cut into boxes if there are any."""
    if boxes is None:
        return written(codes, dtype, way, directory)
    return in_chunks(codes, dtype, boxes, way, directory)
