"""Numbers of every size that a type has, for dumps that are compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dumps import COMPONENTS, NUMPY_TYPES
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES


def numbers_like(dtype: str, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """So many parts of numbers around 1, some of them 0 of either sign, and a few not finite."""
    part = COMPONENTS.get(dtype, dtype)
    parts = DTYPES[dtype].itemsize // DTYPES[part].itemsize
    values = rng.standard_normal(count * parts) * 10.0 ** rng.uniform(-2, 2, count * parts)
    values[rng.integers(0, len(values), len(values) // 9)] = 0.0
    values[rng.integers(0, len(values), len(values) // 9)] *= -0.0
    values[[5, 77, 900]] = math.nan, math.inf, -math.inf
    found: NDArray[Any] = values.astype(NUMPY_TYPES[part])
    return found.view(NUMPY_TYPES[dtype])
