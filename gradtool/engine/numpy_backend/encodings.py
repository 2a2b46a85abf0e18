"""How NumPy reads the stored bits of each measured dtype.

Without their sign bits, IEEE numbers read as integers are in order of magnitude: the largest
integer is the largest magnitude, 0 is zero, and from the bits of infinity on nothing is finite.
Integer kernels are the cheapest way to find all three, for every width.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradtool.core.dtypes import DTYPES, DType
from gradtool.engine.buffers import BUFFERS

_BIG_ENDIAN_HOST: Final = sys.byteorder == "big"

Array = NDArray[Any]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How to read the bits of one real IEEE type.

    `word` is the unsigned integer of its width, `magnitude` the mask that drops the sign,
    `infinity` the word of +Inf, and `smallest_normal` that of the smallest number that is normal
    in the dtype that is stored. `value(word)` is the number of a word. `decode(words)` gives the
    exact numbers of many words: a view, or a buffer that the next call overwrites.
    """

    word: np.dtype[Any]
    magnitude: np.unsignedinteger[Any]
    infinity: int
    smallest_normal: int
    decode: Callable[[Array], Float64]
    value: Callable[[int], float]


def _decode_f16(words: Array) -> Float64:
    # By table: conversions of half precision are slow in NumPy, and bit tricks through
    # float32 are slow on subnormals, of which real float16 gradients are full.
    indices = BUFFERS.indices.array(np.intp, len(words))
    np.copyto(indices, words)
    return np.take(_f16_values(), indices, out=_values(len(words)), mode="clip")


@cache
def _f16_values() -> Float64:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)


def _decode_bf16(words: Array) -> Float64:
    # bfloat16 is the upper half of a float32.
    wide = BUFFERS.wide.array(np.uint32, len(words))
    np.left_shift(words, 16, out=wide, dtype=np.uint32)
    return _decode_f32(wide)


def _decode_f32(words: Array) -> Float64:
    values = _values(len(words))
    np.copyto(values, words.view(np.float32))
    return values


def _decode_f64(words: Array) -> Float64:
    return words.view(np.float64)


def _values(count: int) -> Float64:
    return BUFFERS.values.array(np.float64, count)


def _reader(word_format: str, value_format: str, shift: int = 0) -> Callable[[int], float]:
    """A function from one word to its number; NumPy is slow at single numbers."""
    pack, unpack = struct.Struct(word_format).pack, struct.Struct(value_format).unpack
    return lambda word: float(unpack(pack(word << shift))[0])


F64: Final = Encoding(
    word=np.dtype(np.uint64),
    magnitude=np.uint64((1 << 63) - 1),
    infinity=0x7FF << 52,
    smallest_normal=1 << 52,
    decode=_decode_f64,
    value=_reader("Q", "d"),
)

_F32: Final = Encoding(
    word=np.dtype(np.uint32),
    magnitude=np.uint32(0x7FFFFFFF),
    infinity=0x7F800000,
    smallest_normal=1 << 23,
    decode=_decode_f32,
    value=_reader("I", "f"),
)

_ENCODINGS: Final[dict[str, Encoding]] = {
    "F16": Encoding(
        word=np.dtype(np.uint16),
        magnitude=np.uint16(0x7FFF),
        infinity=0x7C00,
        smallest_normal=1 << 10,
        decode=_decode_f16,
        value=_reader("H", "e"),
    ),
    "BF16": Encoding(
        word=np.dtype(np.uint16),
        magnitude=np.uint16(0x7FFF),
        infinity=0x7F80,
        smallest_normal=1 << 7,
        decode=_decode_bf16,
        value=_reader("I", "f", shift=16),
    ),
    "F32": _F32,
    "F64": F64,
}

_FP8: Final[dict[str, DTypeLike]] = {
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
}


def real_words(raw: Array, dtype: DType, *, big_endian: bool) -> tuple[Array, Encoding]:
    """Raw bytes of a real dtype as words in native byte order, and the encoding of the words.

    The fp8 types differ in what their top codes mean; a table widens each to float32, exactly.
    """
    encoding = encoding_of(dtype)
    if dtype.name in _FP8:
        return np.take(_fp8_words(dtype.name), raw, mode="clip"), encoding
    words = raw.view(encoding.word)
    return words.byteswap() if big_endian != _BIG_ENDIAN_HOST else words, encoding


def encoding_of(dtype: DType) -> Encoding:
    """The encoding of a real dtype's words; for fp8, of the float32 that it is widened to."""
    return _fp8_as_f32(dtype) if dtype.name in _FP8 else _ENCODINGS[dtype.name]


@cache
def encoding_of_moduli(part: DType) -> Encoding:
    """The encoding of the moduli, in float64, of complex elements whose parts are of `part`."""
    (smallest_normal,) = struct.unpack("Q", struct.pack("d", part.smallest_normal))
    return replace(F64, smallest_normal=smallest_normal)


@cache
def _fp8_as_f32(dtype: DType) -> Encoding:
    (smallest_normal,) = struct.unpack("I", struct.pack("f", dtype.smallest_normal))
    return replace(_F32, smallest_normal=smallest_normal)


@cache
def _fp8_words(name: str) -> NDArray[np.uint32]:
    codes = np.arange(1 << 8, dtype=np.uint8)
    with np.errstate(invalid="ignore"):
        return codes.view(_FP8[name]).astype(np.float32).view(np.uint32)


@cache
def fp8_values(name: str) -> Float64:
    """The number of each of the 256 codes of an fp8 type."""
    with np.errstate(invalid="ignore"):
        return _fp8_words(name).view(np.float32).astype(np.float64)


def fp8_subnormals(codes: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Which codes are of numbers that are not 0 and below the smallest normal one."""
    # 0 becomes the largest code, and so does what FNUZ types have in place of -0.
    below_magnitude = (codes & np.uint8(0x7F)) - np.uint8(1)
    return below_magnitude < _first_normal_code(name) - np.uint8(1)


@cache
def _first_normal_code(name: str) -> np.uint8:
    return np.uint8(np.argmax(fp8_values(name) >= DTYPES[name].smallest_normal))
