"""How far apart blocks of two tensors are, on the device that holds them.

Elements lie in rows of `ROW`, with zeros after the last, which are alike on both sides.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradtool.core.comparing.distance import MOST_SAMPLES, Largest, Number, Sample
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.dtypes import DType
from gradtool.engine.numpy_backend import transforms as numpy_transforms
from gradtool.engine.numpy_backend.products import Sums
from gradtool.engine.operands import Operand, Walk, flipped_bits, have_one_code, narrower
from gradtool.engine.torch_backend.encodings import INTEGERS, ROW, TYPES, real_values
from gradtool.engine.torch_backend.kernels import count_rows, fetched
from gradtool.engine.torch_backend.products import sums_of
from gradtool.engine.torch_backend.transforms import rounded

_LEAST: Final = -(1 << 63)
"""Added to an int64, it makes the order of signed numbers that of unsigned ones."""

_CODES: Final = {1: torch.int8, **INTEGERS}

Steps = NDArray[np.intp]


class Figures(NamedTuple):
    """What there is to say of a group of elements, but for their statistics.

    `sums` are those of rows, of numbers divided by two to the power of `exponents`, those of
    `squares` of the differences by two to the power of the third.
    """

    sums: Sums
    squares: NDArray[np.float64]
    exponents: tuple[int, int, int]
    differing: int
    samples: list[Sample]
    largest: Largest | None
    opposite: int
    ulps: int
    rounded_apart: int
    zero_signs: int
    same_nan: int
    outside: int


class Comparing:
    """Two groups of elements that are compared, `start` steps into the walk through them.

    Args:
        raws: their bytes (uint8) on a device, in whole rows; they are not changed.
        sides: what they are of.
        walk: where the elements are.
        start: steps of the walk before the first of them.
        tolerance: what elements are counted as outside of.
    """

    def __init__(
        self,
        raws: tuple[Tensor, Tensor],
        sides: tuple[Operand, Operand],
        walk: Walk,
        start: int,
        tolerance: Tolerance,
    ) -> None:
        self.walk, self.start, self.tolerance = walk, start, tolerance
        self.parts = 2 if sides[0].dtype.component else 1
        self.bits = max(side.real.bits for side in sides)
        a, b = (
            real_values(raw, side.dtype, big_endian=False)
            for raw, side in zip(raws, sides, strict=True)
        )
        self.a, self.b = _wide(a, sides[0].divisor), _wide(b, sides[1].divisor)
        self.is_of_one_type = sides[0].dtype == sides[1].dtype
        self.has_bits = have_one_code(*sides)
        if not self.has_bits:
            narrow = narrower(sides[0].real, sides[1].real)
            a, b = _narrowed(self.a, narrow), _narrowed(self.b, narrow)
        self.codes = tuple(one.view(_CODES[one.itemsize]) for one in (a, b))

    def figures(self) -> Figures:
        """See `Figures`."""
        unlike, finite = self._unlike(), self._finite()
        nan = self._any(self.a.isnan()) & ~unlike
        nonzero = self._any((self.a != 0.0) | (self.b != 0.0))
        kept = finite if self.parts == 1 else finite.repeat_interleave(2)
        a, b = (one.masked_fill(~kept, 0.0) for one in (self.a, self.b))
        d, sizes, halved = self._sizes(a, b)
        apart = self._apart().masked_fill(~kept, _LEAST)
        outside = self._outside(a, torch.where(halved, sizes * 2.0, sizes), apart)
        outside = (outside & finite) | (self._disagreeing() & unlike & ~finite)
        crossing = (a < 0.0) & (b > 0.0) | (a > 0.0) & (b < 0.0)
        counts = [
            unlike,
            nan & ~finite,
            unlike & ~nonzero,
            outside,
            crossing if self.parts == 1 else crossing.new_zeros(len(unlike)),
            self._rounded_apart(),
        ]
        sums, exponents = sums_of(a, b, d, ROW * self.parts)
        columns = fetched(
            *sums,
            *(count_rows(one.view(-1, ROW)) for one in counts),
            sizes.view(-1, ROW).amax(dim=1),
            apart.view(-1, ROW * self.parts).amax(dim=1),
            torch.stack([*exponents, halved]),
        )
        *of_rows, differing, same_nan, zero_signs, beyond, opposite, other = columns[:-3]
        peaks, most, (ea, eb, ed, is_halved) = columns[-3:]
        aa, bb, ab, dd, c, rr, ra = of_rows
        return Figures(
            sums=Sums(aa, bb, ab, c, rr, ra),
            squares=dd,
            exponents=(int(ea), int(eb), int(ed + is_halved)),
            differing=int(differing.sum()),
            samples=self._samples(unlike, differing),
            largest=self._largest(sizes, peaks, halved=bool(is_halved)),
            opposite=int(opposite.sum()),
            ulps=int(most.max()) - _LEAST,
            rounded_apart=int(other.sum()),
            zero_signs=int(zero_signs.sum()),
            same_nan=int(same_nan.sum()),
            outside=int(beyond.sum()),
        )

    def _any(self, of_parts: Tensor) -> Tensor:
        """What holds of elements of which it holds for a part."""
        return of_parts if self.parts == 1 else of_parts.view(-1, 2).any(dim=1)

    def _unlike(self) -> Tensor:
        """Which elements differ, in their bits or, of two types, in their numbers."""
        if self.has_bits:
            return self._any(self.codes[0] != self.codes[1])
        signs = self.a.signbit() != self.b.signbit()
        return self._any((self.a != self.b) | signs)

    def _finite(self) -> Tensor:
        """Which elements are finite on both sides."""
        return ~self._any(~(self.a.isfinite() & self.b.isfinite()))

    def _both_nan(self) -> Tensor:
        return self.a.isnan() & self.b.isnan()

    def _rounded_apart(self) -> Tensor:
        """Which elements differ once they are rounded; a NaN is one whatever its bits."""
        return self._any((self.codes[0] != self.codes[1]) & ~self._both_nan())

    def _disagreeing(self) -> Tensor:
        """Which elements are not the same numbers; a NaN is none."""
        if self.tolerance.is_exact:
            return self._any(torch.zeros_like(self.a, dtype=torch.bool))
        apart = self.a != self.b
        return self._any(apart & ~self._both_nan() if self.tolerance.equal_nan else apart)

    def _sizes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Differences, the distance of each two elements, and whether all these are halved.

        They are where float64 does not hold them.
        """
        d = b - a
        sizes = self._moduli(d)
        halved = sizes.isinf().any()
        if self.bits == 64:
            d = torch.where(halved, b * 0.5 - a * 0.5, d)
            sizes = self._moduli(d)
        return d, sizes, halved

    def _moduli(self, values: Tensor) -> Tensor:
        return values.abs() if self.parts == 1 else torch.hypot(values[::2], values[1::2])

    def _apart(self) -> Tensor:
        """By how many numbers parts are apart, less 2^63 so that int64 holds it."""
        one, other = (_places(codes) for codes in self.codes)
        # The difference of the larger and the smaller is right modulo 2^64.
        return torch.maximum(one, other) - torch.minimum(one, other) + _LEAST

    def _outside(self, a: Tensor, sizes: Tensor, apart: Tensor) -> Tensor:
        """Which elements are beyond the tolerance, if they are finite."""
        tolerance = self.tolerance
        beyond = torch.zeros_like(sizes, dtype=torch.bool)
        if tolerance.is_elementwise:
            bound = self._moduli(a).mul_(tolerance.rtol or 0.0).add_(tolerance.atol or 0.0)
            beyond |= ~(sizes <= bound)
        if tolerance.ulps is not None:
            beyond |= self._any(apart > min(tolerance.ulps + _LEAST, ~_LEAST))
        return beyond

    def _samples(self, unlike: Tensor, differing: NDArray[np.int64]) -> list[Sample]:
        """The elements that differ, or the first in C order of many."""
        many = int(differing.sum()) > MOST_SAMPLES
        rows = np.flatnonzero(differing)
        if many and self.walk.is_ascending:
            rows = rows[:1]
        steps = _steps(unlike.view(-1, ROW), rows)
        positions = self.walk.positions(steps + self.start)
        if many:
            first = [int(positions.argmin())]
            steps, positions = steps[first], positions[first]
        a, b = (self._numbers(side, steps) for side in (self.a, self.b))
        bits: list[int] | list[None] = [None] * len(steps)
        if self.has_bits:
            bits = flipped_bits(*(self._rows(one, steps) for one in self.codes))
            mask = (1 << 8 * self.codes[0].itemsize * self.parts) - 1
            bits = [one & mask for one in bits]
        return list(map(Sample, positions.tolist(), a, b, bits))

    def _largest(
        self, sizes: Tensor, peaks: NDArray[np.float64], *, halved: bool
    ) -> Largest | None:
        size = float(peaks.max())
        if not size:
            return None
        rows = np.flatnonzero(peaks == size)
        if self.walk.is_ascending:
            rows = rows[:1]
        steps = _steps(sizes.view(-1, ROW) == size, rows)
        positions = self.walk.positions(steps + self.start)
        first = int(positions.argmin())
        a, b = (self._numbers(side, steps[first : first + 1]) for side in (self.a, self.b))
        return Largest(size * 2.0 if halved else size, int(positions[first]), a[0], b[0])

    def _rows(self, values: Tensor, steps: Steps) -> NDArray[Any]:
        """The parts of elements, copied to the CPU."""
        index = torch.from_numpy(steps).to(values.device)
        found: NDArray[Any] = values.view(-1, self.parts)[index].cpu().numpy()
        return found

    def _numbers(self, values: Tensor, steps: Steps) -> list[Number]:
        rows = self._rows(values, steps).tolist()
        return [row[0] if self.parts == 1 else complex(*row) for row in rows]


def _wide(values: Tensor, divisor: float) -> Tensor:
    wide = values.to(torch.float64)
    return wide if divisor == 1.0 else wide / divisor


def _narrowed(values: Tensor, dtype: DType) -> Tensor:
    """Numbers in a real type, rounded once."""
    if dtype.itemsize > 1:
        return rounded(values, TYPES[dtype.name])
    # What torch makes of numbers that fp8 does not hold is not the same in all its releases.
    with np.errstate(all="ignore"):
        found = numpy_transforms.narrowed(values.cpu().numpy(), dtype).view(np.int8)
    return torch.from_numpy(found).to(values.device)


def _places(codes: Tensor) -> Tensor:
    """Where numbers are on the line of all of their type; 0.0 and -0.0 are one place."""
    magnitudes = codes.to(torch.int64) & (1 << 8 * codes.itemsize - 1) - 1
    return torch.where(codes < 0, -magnitudes, magnitudes)


def _steps(holds: Tensor, rows: Steps) -> Steps:
    """The elements of these rows of which it is true."""
    found = holds[torch.from_numpy(rows).to(holds.device)].nonzero().cpu().numpy()
    steps: Steps = rows[found[:, 0]] * ROW + found[:, 1]
    return steps
