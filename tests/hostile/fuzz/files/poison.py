"""Numbers that no healthy gradient holds, put where one reader may see them and another not."""

from __future__ import annotations

import random
import struct
from typing import Final

_PATTERNS: Final = {
    2: (b"\x00\x7e", b"\xc0\x7f", b"\x00\x7c", b"\x80\x7f", b"\x00\xfc"),  # F16 and BF16
    4: (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"),
    8: (struct.pack("<d", float("nan")), struct.pack("<d", float("-inf"))),
    1: (b"\x7f", b"\xff", b"\x7c", b"\x80"),  # fp8's
}
"""By width in bytes, little-endian: NaN and infinities."""


def spoiled(rng: random.Random, data: bytes) -> bytes:
    """The data with a NaN or infinity of some type somewhere, in either order of bytes."""
    width = rng.choice((4, 4, 4, 2, 8, 1))
    if len(data) < width:
        return data
    pattern = rng.choice(_PATTERNS[width])
    if rng.random() < 0.25:
        pattern = pattern[::-1]
    at = rng.randrange(len(data) // width) * width
    return data[:at] + pattern + data[at + width :]


def numbers(rng: random.Random, nbytes: int) -> bytes:
    """Plain small float32 numbers, `nbytes` bytes of them, spoiled as often as not."""
    count = nbytes // 4 + 1
    data = struct.pack(f"<{count}f", *(rng.randrange(-64, 64) / 8 for _ in range(count)))[:nbytes]
    return spoiled(rng, data) if rng.random() < 0.5 else data


def number(rng: random.Random) -> float:
    """A Python number, of which every second one is bad."""
    return rng.choice((1.5, -2.0, float("nan"), float("inf"), 1e300, 0.0, float("-inf"), 3.25))
