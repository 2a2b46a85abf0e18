"""Statistics of sets of elements, which merge exactly, and the norms computed from them.

    total_norm = ( sum over all elements |g|^p )^(1/p)

The sum is kept as `power_sum * scale**p`, with the powers taken of `|g| / scale`, so that
no intermediate power overflows or underflows whatever p and the magnitudes are (the idea of
LAPACK's `?lassq` and of Blue, 1978). Non-finite elements are counted and left out of it.

Sums of parts are exact: the rounding error of a sum is kept beside it, as in `math.fsum`
(Shewchuk, 1997), so that parts give the same bits in whatever order and groups they are merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

ARITHMETIC = 1
"""Counts up where the same elements may come to other figures than before, in their last digit."""

SAFE_EXPONENT = 400
"""Binary exponent of |g|^p up to which no sum of 2^60 powers overflows and no power underflows."""

LARGEST_EXACT_POWER = 512
"""Largest |p| for which the scale is a power of two; beyond it only the peak itself will do."""

_SMALLEST_NORMAL = 2.0**-1022


@dataclass(frozen=True, slots=True)
class TensorStats:
    """Counts and sums of one pass over elements: of a tensor, of a part or of many tensors.

    Attributes:
        norm_type: p, any float but NaN.
        numel: elements counted, non-finite ones included.
        power_sum: sum of (|g| / scale)^p over the finite elements, for p < 0 over the
            non-zero ones; 0.0 for infinite p, the number of non-zeros for p = 0.
        scale: positive; 1.0 unless powers of the plain magnitudes could leave the range.
        max_abs: largest finite magnitude; 0.0 where there is none.
        min_abs: smallest finite non-zero magnitude, computed for p < 0 only; else infinity.
        nan, posinf, neginf, zeros: counts of elements.
        subnormals: finite non-zero elements whose magnitude is below the smallest normal
            number of the dtype that they are stored in, or of a complex one's parts.
        first_nonfinite: C-order position of the first NaN or Inf in its tensor; None where
            there is none. For several tensors together it means nothing.
        rest: the exact rounding error of `power_sum`, as (scale, sum) pairs that stand for
            sum * scale^p each.
    """

    norm_type: float
    numel: int = 0
    power_sum: float = 0.0
    scale: float = 1.0
    max_abs: float = 0.0
    min_abs: float = math.inf
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    zeros: int = 0
    subnormals: int = 0
    first_nonfinite: int | None = None
    rest: tuple[tuple[float, float], ...] = ()

    @property
    def nonfinite(self) -> int:
        """Number of NaN and Inf elements."""
        return self.nan + self.posinf + self.neginf

    @property
    def norm(self) -> float:
        """The norm by the rules of IEEE and torch.

        Any NaN makes it NaN; an Inf makes it infinite for p > 0 and adds nothing for p < 0;
        for p = 0 both are non-zero elements.
        """
        if self.norm_type == 0.0:
            return self.power_sum + self.nonfinite
        if self.nan:
            return math.nan
        infinities = self.posinf + self.neginf
        if infinities and (self.norm_type > 0.0 or infinities == self.numel):
            return math.inf
        return self.finite_norm

    @property
    def finite_norm(self) -> float:
        """The norm of the finite elements; 0.0 where there is none."""
        p, finite = self.norm_type, self.numel - self.nonfinite
        if not finite:
            return 0.0
        if p == math.inf:
            return self.max_abs
        if p == 0.0:
            return self.power_sum
        if p < 0.0 and self.zeros:
            return 0.0
        if finite - self.zeros == 1:
            return self.max_abs  # one element is its own norm, however extreme p is
        return self.min_abs if p == -math.inf else _root(self.power_sum, p, self.scale)

    def divided(self, divisor: float) -> TensorStats:
        """The statistics of the same elements divided by `divisor`, a positive number.

        `subnormals` stays what it is: a fact about the values as they are stored.
        """
        if divisor == 1.0:
            return self
        extremes = replace(self, max_abs=self.max_abs / divisor, min_abs=self.min_abs / divisor)
        scale = self.scale / divisor
        if _SMALLEST_NORMAL <= scale < math.inf:
            rest = tuple((rest_scale / divisor, part) for rest_scale, part in self.rest)
            return replace(extremes, scale=scale, rest=rest)
        # The norm may be a normal number where the scale is not: it becomes the scale itself, 0 or
        # infinite where no float64 holds it.
        if not self.power_sum:
            return replace(extremes, scale=1.0, rest=())
        norm = _quotient(self.power_sum, self.norm_type, self.scale, divisor)
        return replace(extremes, power_sum=1.0, scale=norm, rest=())

    def moved(self, first: int) -> TensorStats:
        """The statistics of the same elements, moved to start at position `first` of a tensor."""
        if first == 0 or self.first_nonfinite is None:
            return self
        return replace(self, first_nonfinite=first + self.first_nonfinite)

    def negated(self) -> TensorStats:
        """The statistics of the same elements times -1."""
        return replace(self, posinf=self.neginf, neginf=self.posinf)

    def repeated(self, times: int) -> TensorStats:
        """The statistics of a view that names each of the elements `times` times, rounded."""
        if times == 1:
            return self
        return replace(
            self,
            numel=self.numel * times,
            power_sum=self.power_sum * times,
            rest=(),
            nan=self.nan * times,
            posinf=self.posinf * times,
            neginf=self.neginf * times,
            zeros=self.zeros * times,
            subnormals=self.subnormals * times,
        )


def merge(parts: Sequence[TensorStats], norm_type: float) -> TensorStats:
    """The statistics of all parts together; for no parts, those of no elements.

    Any grouping gives the same bits; for |p| beyond LARGEST_EXACT_POWER, where each part has a
    scale of its own, each call rounds the sum once.
    """
    if len(parts) == 1:
        return parts[0]
    firsts = [part.first_nonfinite for part in parts if part.first_nonfinite is not None]
    power_sum, scale, rest = _add_powers(parts, norm_type)
    return TensorStats(
        norm_type=norm_type,
        numel=sum(part.numel for part in parts),
        power_sum=power_sum,
        scale=scale,
        max_abs=max((part.max_abs for part in parts), default=0.0),
        min_abs=min((part.min_abs for part in parts), default=math.inf),
        nan=sum(part.nan for part in parts),
        posinf=sum(part.posinf for part in parts),
        neginf=sum(part.neginf for part in parts),
        zeros=sum(part.zeros for part in parts),
        subnormals=sum(part.subnormals for part in parts),
        first_nonfinite=min(firsts, default=None),
        rest=rest,
    )


def power_scale(peak: float, norm_type: float) -> float:
    """The scale for the powers of magnitudes among which `peak` has the largest power.

    `peak` is the largest magnitude for p > 0 and the smallest non-zero one for p < 0. A
    power of two wherever that is enough, so that dividing by it is exact.
    """
    if peak == 0.0 or math.isinf(peak) or math.isinf(norm_type):
        return 1.0
    exponent = math.frexp(peak)[1] - 1
    if abs(exponent * norm_type) <= SAFE_EXPONENT and abs(norm_type) <= SAFE_EXPONENT:
        return 1.0
    return math.ldexp(1.0, exponent) if abs(norm_type) <= LARGEST_EXACT_POWER else peak


def norm_of(values: Sequence[float], norm_type: float) -> float:
    """The norm of plain non-negative numbers, by the same rules and with the same care."""
    p = norm_type
    finite = [value for value in values if math.isfinite(value)]
    nonzero = [value for value in finite if value]
    max_abs, min_abs = max(finite, default=0.0), min(nonzero, default=math.inf)
    scale = power_scale(max_abs if p > 0.0 else min_abs, p)
    infinite_p = math.isinf(p)
    return TensorStats(
        norm_type=p,
        numel=len(values),
        power_sum=0.0 if infinite_p else math.fsum(_power(v / scale, p) for v in nonzero),
        scale=scale,
        max_abs=max_abs,
        min_abs=min_abs,
        nan=sum(map(math.isnan, values)),
        posinf=sum(map(math.isinf, values)),
        zeros=len(finite) - len(nonzero),
    ).norm


def _add_powers(
    parts: Sequence[TensorStats], p: float
) -> tuple[float, float, tuple[tuple[float, float], ...]]:
    """The sum of the parts' powers, its scale, and its rounding error (see `TensorStats.rest`).

    The scale is the one among the parts' scales that has the largest power.
    """
    sums: dict[float, list[float]] = {}
    for part in parts:
        if part.power_sum:
            sums.setdefault(part.scale, []).append(part.power_sum)
        for scale, error in part.rest:
            sums.setdefault(scale, []).append(error)
    exact = {scale: expansion for scale in sums if (expansion := _expansion(sums[scale]))}
    if not exact:
        return 0.0, 1.0, ()
    top = max(exact) if p > 0.0 else min(exact)
    if len(exact) == 1:
        power_sum = exact[top][0]
    else:
        power_sum = math.fsum(exact[scale][0] * _factor(scale, top, p) for scale in exact)
    if abs(p) > LARGEST_EXACT_POWER:
        return power_sum, top, ()
    exact[top] = _expansion([*exact[top], -power_sum])
    rest = ((scale, part) for scale in sorted(exact) for part in exact[scale])
    return power_sum, top, tuple(rest)


def _expansion(terms: list[float]) -> list[float]:
    """The exact sum of `terms` in few numbers: the rounded sum, the rounded remainder, and on."""
    remaining = list(terms)
    parts: list[float] = []
    while part := math.fsum(remaining):
        parts.append(part)
        remaining.append(-part)
    return parts


def _factor(scale: float, top: float, p: float) -> float:
    """The factor that turns sums of (|g| / scale)^p into sums of (|g| / top)^p; scales may be 0."""
    if scale == top:
        return 1.0
    return _power(scale / top, p) if top else 0.0


def _power(ratio: float, p: float) -> float:
    """ratio**p; infinite on overflow, 0.0 for a ratio of 0 or infinity: too small to count."""
    if ratio == 0.0 or math.isinf(ratio):
        return 0.0
    try:
        return math.pow(ratio, p)
    except OverflowError:
        return math.inf


def _root(power_sum: float, p: float, scale: float) -> float:
    """power_sum**(1/p) * scale, without intermediate overflow."""
    if power_sum == 0.0:
        return 0.0
    if p == 2.0:
        return math.sqrt(power_sum) * scale
    log2_root = math.log2(power_sum) / p
    if abs(log2_root) < SAFE_EXPONENT:
        return math.pow(power_sum, 1.0 / p) * scale
    if math.isinf(log2_root):
        return math.inf if log2_root > 0.0 else 0.0
    mantissa, exponent = math.frexp(scale)
    whole = math.floor(log2_root)
    try:
        return math.ldexp(mantissa * math.pow(2.0, log2_root - whole), exponent + whole)
    except OverflowError:
        return math.inf


def _quotient(power_sum: float, p: float, scale: float, divisor: float) -> float:
    """power_sum**(1/p) * scale / divisor, without intermediate overflow or underflow."""
    log2_root = math.log2(power_sum) / p
    whole = 0
    if abs(log2_root) < SAFE_EXPONENT:
        root = math.pow(power_sum, 1.0 / p)
    else:
        whole = math.floor(log2_root)
        root = math.pow(2.0, log2_root - whole)
    parts = [math.frexp(number) for number in (root, scale, divisor)]
    (root, root_exponent), (scale, scale_exponent), (divisor, divisor_exponent) = parts
    exponent = root_exponent + scale_exponent - divisor_exponent + whole
    try:
        return math.ldexp(root * scale / divisor, exponent)
    except OverflowError:
        return math.inf
