"""Checksums of checksums: CRC-32 of parts put together, and torch's serialization id.

A CRC-32 is the remainder of a polynomial over GF(2), so that the checksum of two parts one
after another follows from theirs: `crc(a + b) = crc(a) * x^(8 * len(b)) + crc(b)`.
Source: zlib's crc32.c, `crc32_combine`, which Python does not offer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_POLYNOMIAL: Final = 0xEDB88320
_ONE: Final = 1 << 31
_WORD: Final = (1 << 64) - 1
_GOLDEN_RATIO: Final = 0x9E3779B9


def combine_crc32(first: int, second: int, second_nbytes: int) -> int:
    """The CRC-32 of two parts one after another, given theirs and the second one's length."""
    return _multiplied(_power_of_x(8 * second_nbytes), first) ^ second


def serialization_digits(crc32s: Iterable[int]) -> bytes:
    """The last 20 digits of torch's serialization id, from the records' CRCs in order.

    Records without bytes have a CRC of 0 and do not count.
    Source: `c10::hash_combine` in caffe2/serialize/inline_container.cc.
    """
    combined = 0
    for crc32 in crc32s:
        combined ^= (crc32 + _GOLDEN_RATIO + (combined << 6) + (combined >> 2)) & _WORD
    return b"%020d" % combined


def _multiplied(a: int, b: int) -> int:
    """A * b modulo the polynomial; the highest bit is the coefficient of x^0."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=64)
def _power_of_x(exponent: int) -> int:
    """x^exponent modulo the polynomial; parts of one file have few different lengths."""
    power, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            power = _multiplied(power, square)
        square = _multiplied(square, square)
        exponent >>= 1
    return power
