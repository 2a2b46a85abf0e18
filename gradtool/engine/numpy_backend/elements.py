"""Single elements of blocks that are compared: where they are, their numbers, their bits."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradtool.core.comparing.distance import Sample
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Array, Float64
from gradtool.engine.operands import Walk, flipped_bits

Mask = NDArray[np.bool_]
Steps = NDArray[np.intp]

_SPARSE: Final = 16
"""Elements of which one at most is picked out by itself."""


def samples(
    walk: Walk,
    start: int,
    unlike: Mask,
    values: tuple[Float64, Float64],
    codes: tuple[Array, Array] | None,
    *,
    only_first: bool,
) -> tuple[Sample, ...]:
    """The elements that differ, which are `start` or more into the block, or the first in C order.

    `codes` are both sides' bits, one or two for each element as it is real or complex; None where
    they are not of one type.
    """
    if only_first and walk.is_ascending:
        indices = np.array([unlike.argmax()])
    else:
        indices = np.flatnonzero(unlike)
    positions = walk.positions(indices + start)
    if only_first:
        first = [int(positions.argmin())]
        indices, positions = indices[first], positions[first]
    parts = len(values[0]) // len(unlike)
    bits: list[int] | list[None] = [None] * len(indices)
    if codes is not None:
        bits = flipped_bits(*(side.reshape(-1, parts)[indices] for side in codes))
    a, b = (numbers(side, indices, parts) for side in values)
    return tuple(map(Sample, positions.tolist(), a, b, bits))


def steps_apart(first: Array, second: Array) -> tuple[Mask | None, Array]:
    """Which words of finite numbers have other signs, and by how many numbers they are apart.

    None where all have the same ones.
    """
    # Without their signs, words are in the order of the numbers; 0.0 and -0.0 are one place.
    signed, bits = f"i{first.dtype.itemsize}", BUFFERS.flipped.array(first.dtype, len(first))
    np.bitwise_xor(first, second, out=bits)
    apart: Array = BUFFERS.apart.array(first.dtype, len(first))
    np.subtract(first, second, out=apart)
    np.abs(apart.view(signed), out=apart.view(signed))
    if bits.view(signed).min() >= 0:
        return None, apart
    crossing: Mask = bits.view(signed) < 0
    magnitude = first.dtype.type((1 << first.dtype.itemsize * 8 - 1) - 1)
    places = np.flatnonzero(crossing)
    if len(places) * _SPARSE < len(first):
        apart[places] = (first[places] & magnitude) + (second[places] & magnitude)
        return crossing, apart
    across = (first & magnitude) + (second & magnitude)
    # By masks, which are all ones where signs differ: NumPy takes ten times as long to choose.
    across ^= apart
    across &= np.right_shift(bits.view(signed), first.dtype.itemsize * 8 - 1).view(first.dtype)
    apart ^= across
    return crossing, apart


def numbers(values: Float64, indices: Steps, parts: int) -> list[Any]:
    """Elements as Python's numbers, of one or two parts each."""
    if parts == 1:
        return list(values[indices].tolist())
    pairs = values.reshape(-1, 2)[indices].tolist()
    return [complex(real, imaginary) for real, imaginary in pairs]
