"""Which narrower type numbers of a wide one have been in."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_FRACTIONS: Final = {"BF16": 7, "TF32": 10}
_F64_FRACTION: Final = 52
_F32_FRACTION: Final = 23


class Grid:
    """The types that hold all numbers so far; blocks of float32 or float64 are added to it."""

    def __init__(self) -> None:
        self._fits = {"BF16": True, "F16": True, "TF32": True, "F32": True}

    def add(self, codes: NDArray[Any]) -> None:
        """Add the words of numbers."""
        width = codes.itemsize * 8
        values = codes.view(f"f{codes.itemsize}")
        if width == 32:
            self._fits["F32"] = False  # that is no narrower type
        fraction = _F32_FRACTION if width == 32 else _F64_FRACTION
        used = int(np.bitwise_or.reduce(codes, axis=None))
        for name, kept in _FRACTIONS.items():
            self._fits[name] &= not used & (1 << fraction - kept) - 1
        with np.errstate(all="ignore"):
            for name, kind in (("F16", np.float16), ("F32", np.float32)):
                if self._fits[name]:
                    back = values.astype(kind).astype(values.dtype)
                    self._fits[name] = bool(np.array_equal(back, values, equal_nan=True))

    @property
    def name(self) -> str | None:
        """The narrowest of them; None if there is none."""
        return next((name for name, fits in self._fits.items() if fits), None)
