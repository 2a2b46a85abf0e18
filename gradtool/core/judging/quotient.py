"""What the quotient of a norm and the one that was expected may come from, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

TOLERANCE: Final = 1e-3
"""How far off, relatively, a quotient may be from what explains it: as far as torch's own norm of a
large float32 model is off the true one, and a logged one of four digits.
"""

_DIGITS: Final = 5
_LARGEST_PLAIN: Final = 1e10
"""Numbers from here on, and below its inverse, have more zeros than anybody counts."""

_COUNTS: Final = (*range(2, 33), *range(40, 129, 8), 256, 512, 1024)
"""Numbers of accumulation steps or ranks that occur: small ones, multiples of 8, powers of 2."""

_ROOTS: Final = (2, 3, 5, 6, 7, 8, 10, 12, 32, 128, 512)
"""Those whose square root is told: few, as roots lie close together, and none a square."""

_LOSS_SCALES: Final = tuple(2**exponent for exponent in range(11, 33))

_COUNTED: Final = "the number of accumulation steps or ranks"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a dump besides its norm; None for what is not.

    Attributes:
        numel: elements in it.
        ranks: number of ranks that it is from.
        loss_scale: that it was saved with.
    """

    numel: int | None = None
    ranks: int | None = None
    loss_scale: float | None = None


NOTHING_KNOWN: Final = Known()


class _Explanation(NamedTuple):
    """A factor, how it is written, and what it may be."""

    factor: float
    text: str
    meaning: str


def times(quotient: float) -> str:
    """`8.0011 times`, in plain digits for all but the most extreme quotients; finite ones only."""
    return f"{plain(quotient)} times"


def plain(value: float) -> str:
    """A finite number in five significant digits or all those before its point, and no exponent."""
    if value and not 1 / _LARGEST_PLAIN < abs(value) < _LARGEST_PLAIN:
        return f"{value:.{_DIGITS}g}"
    if abs(value) >= 10**_DIGITS:
        return f"{value:.0f}"
    return f"{Decimal(f'{value:.{_DIGITS}g}'):f}"


def explained(
    quotient: float, known: Known = NOTHING_KNOWN, tolerance: float = TOLERANCE
) -> str | None:
    """What a quotient may be, as `8, the number of accumulation steps or ranks?`; None if nothing.

    What is known of the dump is thought of first. Of random quotients, uniform in their logarithm,
    fewer than three in a hundred get an explanation, in any decade; a tenth of that beyond 1,000.
    """
    if not (0.0 < quotient < math.inf) or abs(quotient - 1.0) <= tolerance:
        return None
    for one in _explanations(known):
        if _agree(quotient, one.factor, tolerance):
            return f"{one.text}, {one.meaning}?"
        if _agree(quotient * one.factor, 1.0, tolerance):
            return f"1/{one.text}, one over {one.meaning}?"
    return None


def _explanations(known: Known) -> Iterator[_Explanation]:
    """What is thought of, the likeliest first."""
    if known.loss_scale is not None and known.loss_scale > 0.0:
        yield _Explanation(known.loss_scale, plain(known.loss_scale), "the loss scale of the dump")
    if known.ranks is not None and known.ranks > 1:
        ranks = str(known.ranks)
        yield _Explanation(known.ranks, ranks, "the number of ranks")
        root = "the square root of the number of ranks"
        yield _Explanation(math.sqrt(known.ranks), f"sqrt({ranks})", root)
    for count in _COUNTS:
        yield _Explanation(count, str(count), _COUNTED)
    for count in _ROOTS:
        yield _Explanation(math.sqrt(count), f"sqrt({count})", f"the square root of {_COUNTED}")
    for scale in _LOSS_SCALES:
        yield _Explanation(scale, str(scale), "a loss scale, a power of two")
    if known.numel is not None and known.numel > 1:
        numel = str(known.numel)
        yield _Explanation(known.numel, numel, "the number of elements: one a mean, one a sum")
        root = "the square root of the number of elements: one is an RMS"
        yield _Explanation(math.sqrt(known.numel), f"sqrt({numel})", root)


def _agree(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * other
