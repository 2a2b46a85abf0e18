"""The transforms of the CPU backend: elements scaled or clamped in place with NumPy.

Arithmetic is in float64, and each result is rounded into the stored type once, to nearest even.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DTYPES, DType
from gradtool.engine.numpy_backend.encodings import Array, Float64

_ORDER: Final = {True: ">", False: "<"}
_NATIVE: Final = {"big": ">", "little": "<"}[sys.byteorder]

_VALUES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
}

_TABLES: Final = 8
"""Tables to keep: all blocks of a type use the same, unless tensors have different transforms."""


def apply(
    raw: Array,
    dtype: DType,
    transform: Transform,
    *,
    big_endian: bool = False,
    coefs: Float64 | None = None,
) -> None:
    """Transform the elements in `raw`, bytes (uint8) aligned to the element size, in place.

    A complex element is scaled in both parts, and is non-finite where either is. `coefs` has the
    factor of each element, where the transform has units.
    """
    part = dtype if dtype.component is None else DTYPES[dtype.component]
    parts = 1 if part is dtype else 2
    values = raw.view(_VALUES[part.name])
    factors: float | Float64 = transform.coef
    if coefs is not None:
        factors = coefs if parts == 1 else np.repeat(coefs, parts)
    swapped = part.itemsize > 1 and _ORDER[big_endian] != _NATIVE
    # Arithmetic on NaN, Inf and subnormals is wanted, and no mistake to warn about.
    with np.errstate(all="ignore"):
        if swapped:
            values.byteswap(inplace=True)
        if part.itemsize >= 4:
            _apply_wide(values, transform, factors, parts)
        else:
            _apply_narrow(values, part, transform, factors, parts)
        if swapped:
            values.byteswap(inplace=True)


def _apply_wide(values: Array, transform: Transform, factors: float | Float64, parts: int) -> None:
    """Transform float32 or float64: NumPy widens and rounds as much at a time as a cache holds."""
    bad = kept = None
    if transform.nonfinite in ("zero", "keep"):
        bad = _nonfinite(values, parts)
        kept = values[bad]
    if not (isinstance(factors, float) and factors == 1.0):
        np.multiply(values, factors, out=values, dtype=np.float64, casting="same_kind")
    if transform.bound < math.inf:
        bound = transform.bound
        np.clip(values, -bound, bound, out=values, dtype=np.float64, casting="same_kind")
    if bad is not None:
        values[bad] = 0.0 if transform.nonfinite == "zero" else kept


def _apply_narrow(
    values: Array, part: DType, transform: Transform, factors: float | Float64, parts: int
) -> None:
    """Transform half precision or fp8: so few codes that results are looked up in a table."""
    words = values.view(f"u{part.itemsize}")
    if not isinstance(factors, float):  # no complex type is made of such
        words[...] = _results(words, part.name, transform, factors)
    elif parts == 2 and transform.nonfinite in ("zero", "keep"):
        # A finite part may belong to an element that is not finite.
        bad = _nonfinite(values.astype(np.float32), parts)
        kept = words[bad]
        words[...] = _table(part.name, transform)[words]
        words[bad] = 0 if transform.nonfinite == "zero" else kept
    elif len(words) < 1 << part.bits:
        words[...] = _results(words, part.name, transform, transform.coef)
    else:
        np.take(_table(part.name, transform), words, out=words, mode="clip")


@lru_cache(maxsize=_TABLES)
def _table(name: str, transform: Transform) -> Array:
    """The transformed code of each code of a narrow type."""
    itemsize = DTYPES[name].itemsize
    codes = np.arange(1 << 8 * itemsize, dtype=f"u{itemsize}")
    with np.errstate(all="ignore"):
        return _results(codes, name, transform, transform.coef)


def _results(words: Array, name: str, transform: Transform, factors: float | Float64) -> Array:
    """The codes of the transformed elements, given the codes of the elements."""
    before = words.view(_VALUES[name]).astype(np.float64)
    after = np.clip(before * factors, -transform.bound, transform.bound)
    results: Array = _rounded(after, name).view(words.dtype)
    if transform.nonfinite != "scale":
        bad = ~np.isfinite(before)
        results[bad] = 0 if transform.nonfinite == "zero" else words[bad]
    return results


def _rounded(values: Float64, name: str) -> Array:
    """`values` in a narrow type, rounded once.

    NumPy rounds float64 to float16 once. ml_dtypes converts by way of float32 and would round
    twice, unless that step rounds to odd: Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd", 2008.
    """
    exact: Array = values if name == "F16" else _rounded_to_odd(values)
    rounded: Array = exact.astype(_VALUES[name])
    return rounded


def narrowed(values: Float64, dtype: DType) -> Array:
    """`values` in a real type, rounded once."""
    if dtype.itemsize < 4:
        return _rounded(values, dtype.name)
    wide: Array = values.astype(_VALUES[dtype.name])
    return wide


def _rounded_to_odd(values: Float64) -> NDArray[np.float32]:
    """float64 as float32, towards zero and with the last bit set wherever that is inexact."""
    nearest: NDArray[np.float32] = values.astype(np.float32)
    words = nearest.view(np.uint32)
    inexact = nearest != values
    words -= np.abs(nearest) > np.abs(values)
    words |= inexact & np.isfinite(values)
    return nearest


def _nonfinite(values: Array, parts: int) -> NDArray[np.bool_]:
    """Which parts belong to an element that is NaN or Inf."""
    bad: NDArray[np.bool_] = ~np.isfinite(values)
    return bad if parts == 1 else np.repeat(bad.reshape(-1, 2).any(axis=1), 2)
