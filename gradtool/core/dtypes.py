"""Element types, under the names that safetensors gives them.

`C32` and `C128` are gradtool's own, in the same style, for torch's complex32 and complex128.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["float", "complex", "integer", "bool", "scale", "sub-byte", "text"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    `bits` is the width of one element, both parts of a complex one included. `component`
    names the real type of a complex type's parts. `min_exponent` is the exponent of a real
    floating-point type's smallest normal number. `precision` (significand bits with the hidden
    one) and `max_finite` (largest finite number) are those of a real type in which torch returns
    norms; `precision` is 0 for all others, fp8 among them.
    """

    name: str
    bits: int
    kind: Kind
    component: str | None = None
    precision: int = 0
    min_exponent: int = 0
    max_finite: float = 0.0

    @property
    def itemsize(self) -> int:
        """Bytes per element; only meaningful for whole-byte types."""
        return self.bits // 8

    @property
    def is_measured(self) -> bool:
        """Whether tensors of this type can be gradients."""
        return self.kind in ("float", "complex")

    @property
    def is_fp8(self) -> bool:
        """Whether tensors of this type are kept small by scales beside them."""
        return self.kind == "float" and self.bits == 8

    @property
    def smallest_normal(self) -> float:
        """The smallest normal number of a measured type; for a complex type, of its parts."""
        real = DTYPES[self.component] if self.component else self
        return math.ldexp(1.0, real.min_exponent)

    @property
    def norm_dtype(self) -> DType | None:
        """The type in which torch returns the norm of a tensor of this type; None for no norm."""
        native = DTYPES[self.component] if self.component else self
        return native if native.precision else None

    def round(self, value: float) -> float:
        """`value` rounded once, to nearest even, into this type; beyond its range, infinity.

        Dividing by a power of two is exact and `round` on a float is exact and half-to-even,
        so no double rounding occurs, in the subnormal range either.
        """
        if not math.isfinite(value) or value == 0.0 or self.precision >= 53:
            return value
        exponent = max(math.frexp(value)[1] - 1, self.min_exponent)
        quantum = math.ldexp(1.0, exponent - self.precision + 1)
        rounded = round(value / quantum) * quantum
        return math.copysign(math.inf if abs(rounded) > self.max_finite else rounded, value)


def _floating(name: str, bits: int, precision: int, max_exponent: int) -> DType:
    max_finite = math.ldexp(2.0 - math.ldexp(1.0, 1 - precision), max_exponent)
    return DType(name, bits, "float", None, precision, 1 - max_exponent, max_finite)


DTYPES: Final[dict[str, DType]] = {
    dtype.name: dtype
    for dtype in (
        DType("BOOL", 8, "bool"),
        DType("U8", 8, "integer"),
        DType("I8", 8, "integer"),
        DType("U16", 16, "integer"),
        DType("I16", 16, "integer"),
        DType("U32", 32, "integer"),
        DType("I32", 32, "integer"),
        DType("U64", 64, "integer"),
        DType("I64", 64, "integer"),
        DType("F4", 4, "sub-byte"),
        DType("F6_E2M3", 6, "sub-byte"),
        DType("F6_E3M2", 6, "sub-byte"),
        DType("F8_E8M0", 8, "scale"),
        DType("F8_E5M2", 8, "float", min_exponent=-14),
        DType("F8_E4M3", 8, "float", min_exponent=-6),
        DType("F8_E5M2FNUZ", 8, "float", min_exponent=-15),
        DType("F8_E4M3FNUZ", 8, "float", min_exponent=-7),
        _floating("F16", 16, precision=11, max_exponent=15),
        _floating("BF16", 16, precision=8, max_exponent=127),
        _floating("F32", 32, precision=24, max_exponent=127),
        _floating("F64", 64, precision=53, max_exponent=1023),
        DType("C32", 32, "complex", component="F16"),
        DType("C64", 64, "complex", component="F32"),
        DType("C128", 128, "complex", component="F64"),
    )
}


def promote(dtypes: Iterable[DType]) -> DType | None:
    """The type that `torch.promote_types` makes of the types of norms; None for no types."""
    names = {dtype.name for dtype in dtypes}
    if len(names) <= 1:
        return DTYPES[names.pop()] if names else None
    return DTYPES["F64" if "F64" in names else "F32"]
