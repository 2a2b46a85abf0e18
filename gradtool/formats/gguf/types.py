"""The element types of GGUF, by their numbers.

Source: `ggml_type` and `type_traits` of ggml/include/ggml.h and ggml/src/ggml.c, llama.cpp of July
2026. Numbers that are not here were taken out of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gradtool.core.dtypes import DTYPES, DType


class GgmlType(NamedTuple):
    """A type of GGML: `block` elements of a row lie together in `nbytes` bytes.

    `dtype` is what its elements are; None for quantised ones.
    """

    name: str
    block: int
    nbytes: int
    dtype: DType | None = None


def _plain(name: str) -> GgmlType:
    dtype = DTYPES[name]
    return GgmlType(name, 1, dtype.itemsize, dtype)


TYPES: Final[dict[int, GgmlType]] = {
    0: _plain("F32"),
    1: _plain("F16"),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 36),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: _plain("I8"),
    25: _plain("I16"),
    26: _plain("I32"),
    27: _plain("I64"),
    28: _plain("F64"),
    29: GgmlType("IQ1_M", 256, 56),
    30: _plain("BF16"),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18),
}
