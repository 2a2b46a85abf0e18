"""Tensors seen with two of their axes the other way round."""

from __future__ import annotations

from dataclasses import replace

from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import Chunk, TensorSpec


def transposed(spec: TensorSpec) -> TensorSpec:
    """A tensor with its last two axes swapped; one with fewer axes as it is."""
    if len(spec.shape) < 2:
        return spec
    if spec.chunks:
        chunks = tuple(
            Chunk(
                Box(_swapped(chunk.box.offsets), _swapped(chunk.box.sizes)),
                transposed(chunk.stored),
            )
            for chunk in spec.chunks
        )
        return replace(spec, shape=_swapped(spec.shape), chunks=chunks)
    strides = contiguous_strides(spec.shape) if spec.strides is None else spec.strides
    return replace(spec, shape=_swapped(spec.shape), strides=_swapped(strides))


def _swapped(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*sizes[:-2], sizes[-1], sizes[-2])
