"""GT502: a few elements of which bits are not what they were."""

from __future__ import annotations

import cmath
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gradtool.core.comparing.distance import MOST_SAMPLES, Number, Sample
from gradtool.core.figures import counted, index_text
from gradtool.core.shapes.strides import unravel
from gradtool.rules.diagnosing.evidence import Compared, Diagnosis, Evidence, Told

_SMALLEST_SHARE: Final = 1000
"""One element in so many may differ in several bits: rounding, noise and code change far more."""

_LEAST_ALONE: Final = 4
"""Of so many elements one may differ in one bit: changes of numbers are seldom of a single bit."""

_ROUNDED: Final = 2
"""Numbers that several elements may be off by as sums in another order are."""

_EXPONENT_BITS: Final = {"F16": 5, "BF16": 8, "F32": 8, "F64": 11, "E4M3": 4, "E5M2": 5}


class _Element(NamedTuple):
    tensor: Compared
    sample: Sample

    @property
    def flipped(self) -> int:
        """The bits that differ; 0 where types do."""
        return self.sample.flipped or 0


def _bits(evidence: Evidence) -> Iterator[Told]:
    """A few elements of a dump that otherwise has the very bits of the other."""
    found, numel = _few(evidence), sum(pair.a.numel for pair in evidence.pairs)
    is_single = all(one.flipped.bit_count() == 1 for one in found)
    least = _LEAST_ALONE if is_single and len(found) == 1 else _SMALLEST_SHARE
    if not found or numel < least * len(found):
        return
    # Of a loss, or another tensor of few numbers, nothing shows that the rest was left alone.
    if any(one.tensor.pair.a.numel < _LEAST_ALONE for one in found):
        return
    if not is_single and not all(cmath.isfinite(one.sample.b) for one in found):
        return
    how = "in one bit" if is_single else "in several bits"
    if len(found) == 1:
        what = f"1 of {numel:,} elements differs {how}"
    else:
        what = f"{len(found):,} of {numel:,} elements differ {how} each"
    others = f"; then {counted(len(found) - 1, 'more element')}" if len(found) > 1 else ""
    yield Told(
        f"{what}, all else has the same bits: {_told(found[0])}{others}",
        list({id(one.tensor): one.tensor.pair for one in found}.values()),
    )


def _few(evidence: Evidence) -> list[_Element]:
    """The elements that differ, if each is known with its bits, and they are no rounding."""
    compared = evidence.compared
    if len(compared) > MOST_SAMPLES or len(compared) < len(evidence.differing):
        return []
    differing = sum(one.distance.differing for one in compared)
    found = [_Element(one, sample) for one in compared for sample in one.distance.samples]
    if len(found) < differing or not all(one.flipped for one in found):
        return []
    # A tolerance may allow what rounding did elsewhere.
    is_all = all(pair.identical for pair in evidence.pairs if pair.same)
    # Additions in another order change the last bits of some elements.
    is_rounding = all((one.distance.max_ulps or 0) <= _ROUNDED for one in compared)
    return found if is_all and not (is_rounding and differing > 1) else []


def _told(element: _Element) -> str:
    tensor, sample = element
    place = index_text(unravel(sample.position, tensor.pair.a.shape))
    numbers = " to ".join(map(_text, (sample.a, sample.b)))
    return f"{_which(element)} of {tensor.name!r:.80} at {place}, {numbers}"


def _text(number: Number) -> str:
    return f"{number:.9g}".replace("nan", "NaN").replace("inf", "Inf")


def _which(element: _Element) -> str:
    """`bit 30, of the exponent,`; counted from the last one of a number."""
    dtype = element.tensor.dtypes[0]
    width, exponent = dtype.bits, _EXPONENT_BITS[dtype.name[3:7] if dtype.is_fp8 else dtype.name]
    named: dict[str, list[int]] = {}
    for bit in range(2 * width):
        if element.flipped >> bit & 1:
            named.setdefault(_part(bit % width, width, exponent), []).append(bit % width)
    return " and ".join(_listed(part, bits) for part, bits in named.items())


def _part(bit: int, width: int, exponent: int) -> str:
    if bit == width - 1:
        return "sign"
    return "exponent" if bit >= width - 1 - exponent else "mantissa"


def _listed(part: str, bits: list[int]) -> str:
    word = "bit" if len(bits) == 1 else "bits"
    shown = ", ".join(map(str, bits)) if len(bits) < 5 else f"{bits[0]} to {bits[-1]}"
    return f"{word} {shown} (the sign)" if part == "sign" else f"{word} {shown} (of the {part})"


RULES: Sequence[Diagnosis] = (
    Diagnosis(
        code="GT502",
        name="flipped-bits",
        find=_bits,
        summary="A few elements have other bits, and all others the same.",
        explanation=(
            "Two computations that differ at all differ in most elements. Where a handful differ "
            "and each other bit of both dumps is the same, one was changed after it was computed, "
            "or on its way to the disk: memory, a link, a transfer. A bit of the exponent makes a "
            "number huge or tiny, one of the mantissa may go unnoticed."
        ),
        rationale=(
            f"At most {MOST_SAMPLES} elements differ in all. Where each is another number in more "
            f"than one bit, or there are several, they are fewer than one in {_SMALLEST_SHARE:,}. "
            f"None of them is in a tensor of fewer than {_LEAST_ALONE} elements, such as a loss."
        ),
        remedy="Copy or dump again and compare; test the memory of that host if it comes back.",
    ),
)
