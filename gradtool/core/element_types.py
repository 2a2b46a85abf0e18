"""Element types as torch and NumPy name them, in pickles and in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.tensors import skip_reason


@dataclass(frozen=True, slots=True)
class ElementType:
    """An element type of another library.

    Attributes:
        name: gradtool's name for it, or the library's own where gradtool has none.
        itemsize: bytes of one element.
        dtype: the dtype to measure it as; None for a type that is not measured.
        reason: why it is not measured; "" for one that is.
    """

    name: str
    itemsize: int
    dtype: DType | None
    reason: str


def _of_dtype(dtype: DType) -> ElementType:
    reason = skip_reason(dtype)
    # Sub-byte elements are packed in pairs: torch counts the pairs.
    itemsize = max(dtype.itemsize, 1)
    return ElementType(dtype.name, itemsize, dtype if reason is None else None, reason or "")


def _torch_only(name: str, itemsize: int, reason: str) -> ElementType:
    return ElementType(f"torch.{name}", itemsize, None, reason)


_ELEMENT_TYPES: Final[dict[str, ElementType]] = {
    **{
        name: _of_dtype(DTYPES[ours])
        for name, ours in {
            "bfloat16": "BF16",
            "bool": "BOOL",
            "complex128": "C128",
            "complex32": "C32",
            "complex64": "C64",
            "float16": "F16",
            "float32": "F32",
            "float4_e2m1fn_x2": "F4",
            "float64": "F64",
            "float8_e4m3fn": "F8_E4M3",
            "float8_e4m3fnuz": "F8_E4M3FNUZ",
            "float8_e5m2": "F8_E5M2",
            "float8_e5m2fnuz": "F8_E5M2FNUZ",
            "float8_e8m0fnu": "F8_E8M0",
            "int16": "I16",
            "int32": "I32",
            "int64": "I64",
            "int8": "I8",
            "uint16": "U16",
            "uint32": "U32",
            "uint64": "U64",
            "uint8": "U8",
        }.items()
    },
    **{name: _torch_only(name, 1, "quantized") for name in ("qint8", "quint8")},
    **{name: _torch_only(name, 1, "quantized") for name in ("quint4x2", "quint2x4")},
    "qint32": _torch_only("qint32", 4, "quantized"),
    **{name: _torch_only(name, 1, "bits") for name in ("bits1x8", "bits2x4", "bits4x2", "bits8")},
    "bits16": _torch_only("bits16", 2, "bits"),
}
_STORAGE_TYPES: Final = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "QInt32Storage": "qint32",
    "QInt8Storage": "qint8",
    "QUInt2x4Storage": "quint2x4",
    "QUInt4x2Storage": "quint4x2",
    "QUInt8Storage": "quint8",
    "ShortStorage": "int16",
    "UntypedStorage": "uint8",
}
_STORAGE: Final = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)")
_NUMPY_NUMBER: Final = re.compile(r"[fciu](\d{1,2})")


def torch_type(name: str) -> ElementType | None:
    """The type called `torch.NAME`; None for one that gradtool does not know."""
    module, _, dtype = name.rpartition(".")
    return _ELEMENT_TYPES.get(dtype) if module == "torch" else None


@lru_cache(maxsize=64)
def storage_type(class_name: str) -> ElementType | None:
    """The element type of a torch storage class, bytes if untyped; None for any other class."""
    match = _STORAGE.fullmatch(class_name)
    return _ELEMENT_TYPES.get(_STORAGE_TYPES.get(match[1], "")) if match else None


def numpy_type(description: str) -> ElementType | None:
    """The type of a NumPy description (`f8`, `ml_dtypes.bfloat16`); None if it is unknown."""
    module, _, name = description.rpartition(".")
    if module == "ml_dtypes":
        return _ELEMENT_TYPES.get(name)
    if description == "b1":
        return _ELEMENT_TYPES["bool"]
    match = _NUMPY_NUMBER.fullmatch(description)
    dtype = DTYPES.get(f"{description[0].upper()}{8 * int(match[1])}") if match else None
    return _of_dtype(dtype) if dtype else None


def listed_name(name: str) -> str:
    """The name in catalogues of an array library's type `name`: safetensors' own, if it has one."""
    element_type = _ELEMENT_TYPES.get(name)
    return element_type.name if element_type else name


def array_type(name: str) -> ElementType | None:
    """The type that array libraries call `name` (`float32`, `bfloat16`); None if it is unknown."""
    return _ELEMENT_TYPES.get(name)
