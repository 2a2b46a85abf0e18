"""How far apart two tensors may be that are called the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds on the distance of two tensors, all of which must hold; without any, equal bits.

    Attributes:
        rtol, atol: `|b - a| <= atol + rtol * |a|` for each element, as numpy.testing has it.
        max_rel_l2: a bound on `|b - a| / |a|`, norms of whole tensors.
        ulps: how many numbers of the dtype, of the narrower one of two, `b` may be away from `a`.
        equal_nan: whether any NaN agrees with any NaN; else only with one of the same bits.

    With any of these, infinities of one sign agree, and so do 0.0 and -0.0.
    """

    rtol: float | None = None
    atol: float | None = None
    max_rel_l2: float | None = None
    ulps: int | None = None
    equal_nan: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether only equal bits are the same."""
        return self == EXACT

    @property
    def is_elementwise(self) -> bool:
        """Whether each `|b - a|` has a bound of its own."""
        if self.rtol is not None or self.atol is not None:
            return True
        return self.equal_nan and self.ulps is None and self.max_rel_l2 is None


EXACT = Tolerance()
