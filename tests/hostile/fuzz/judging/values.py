"""Every tensor that an object of torch's, or an array of NumPy's, holds, by name.

Names follow rules of this module's own. A tensor in a dict or list, or an attribute of a tensor, is
called by the keys, positions and attributes that lead to it, joined by dots, empty ones left out; a
lone one as its file is, without suffix. Keys that are numbers are spelled as Python's `str` does,
tuples of texts and numbers as `repr` does. Where these rules say nothing (keys that are tensors,
types, sizes or huge numbers, sets, hooks, attributes of dicts, nested tensors) the place is "odd":
any name will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import numpy as np
import torch

from fuzz.judging.figures import Figures, figures_of
from fuzz.judging.sums import summed_up, widened

TORCH_NAMES: Final = {
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.complex32: "C32", torch.complex64: "C64", torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0", torch.float4_e2m1fn_x2: "F4", torch.bool: "BOOL",
    torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.uint8: "U8", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
}  # fmt: skip
NUMPY_NAMES: Final = {
    "b1": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16",
    "u4": "U32", "u8": "U64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}  # fmt: skip
_ML_NAMES: Final = {
    "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
_QUANTIZED: Final = (
    torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4,
)  # fmt: skip
_ATOMS: Final = (
    str, bytes, bytearray, int, float, complex, type(None), type, FunctionType,
    BuiltinFunctionType, torch.dtype, torch.device, torch.layout, torch.qscheme,
    torch.serialization.StorageType,
)  # fmt: skip
FLOATING: Final = frozenset(name for name in TORCH_NAMES.values() if name[0] in "BFC") - {
    "BOOL", "F4", "F8_E8M0",
}  # fmt: skip
_MOST_KEY_BITS: Final = 60
_MOST_ELEMENTS: Final = 1 << 22


@dataclass(frozen=True)
class Seen:
    """A tensor as a loader gives it.

    `figures` is None where it has no numbers of its own (meta, quantized, packed, text), and
    `shape` where it has no one shape (nested).
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    figures: Figures | None
    is_odd: bool = False
    is_negated: bool = False
    """Whether it is stored as its negative, as which gradtool counts infinities."""

    @property
    def has_elements(self) -> bool:
        """Whether there is anything in it to be seen."""
        return self.shape is None or 0 not in self.shape

    @property
    def may_be_gradient(self) -> bool:
        """Whether a check would look at it: integers it passes by wherever they are."""
        is_integer = self.dtype in ("BOOL", "index") or self.dtype[0] in "IU"
        return self.has_elements and not is_integer


class UnknownValueError(Exception):
    """The walk met a value of a type that it cannot look into: it has to learn it."""


class UnreadableTensorError(Exception):
    """torch itself cannot read the elements of a tensor that it loaded."""


class Walk:
    """Finds all tensors in what torch loaded; each object is looked into once on a path."""

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._open: set[int] = set()

    def visit(self, value: Any, path: tuple[str, ...], *, odd: bool) -> Iterator[Seen]:
        if isinstance(value, _ATOMS) or id(value) in self._open:
            return
        for kind, look in _LOOKS:
            if isinstance(value, kind):
                self._open.add(id(value))
                yield from look(self, value, path, odd)
                self._open.discard(id(value))
                return
        raise UnknownValueError(type(value).__name__)

    def _mapping(self, value: dict[Any, Any], path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        for position, (key, item) in enumerate(value.items()):
            part = _part(key)
            yield from self.visit(key, path, odd=True)
            place = f"key#{position}" if part is None else part
            yield from self.visit(item, (*path, place), odd=odd or part is None)
        yield from self._attributes(value, path, odd=True)

    def _numbered(self, value: Any, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        for position, item in enumerate(value):
            yield from self.visit(item, (*path, str(position)), odd=odd)

    def _array(self, value: np.ndarray, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        """An array of NumPy's, which may hold objects."""
        if value.dtype.hasobject:
            # An array of one object, at the root, is what `numpy.save` makes of a dict.
            items = value.reshape(-1).tolist()
            is_dict = not path and not value.shape
            inner = self.visit(items[0], path, odd=odd) if is_dict else None
            yield from self._numbered(items, path, odd) if inner is None else inner
        else:
            yield seen_array(self._name(path), value, odd=odd)

    def _number(self, value: np.generic, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        """A number of NumPy's is no tensor, as little as Python's."""
        del value, path, odd
        yield from ()

    def _set(self, value: set[Any], path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        del odd
        for item in value:
            yield from self.visit(item, path, odd=True)

    def _storage(self, value: Any, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        """A storage as a tensor of its elements, unless BUILD made another thing of it."""
        dtype = getattr(value, "dtype", torch.uint8)
        untyped = getattr(value, "_untyped_storage", value)
        if not isinstance(dtype, torch.dtype) or not isinstance(untyped, torch.UntypedStorage):
            yield from self._attributes(value, path, odd=True)
        elif dtype in _QUANTIZED:
            numel = untyped.nbytes() // torch._utils._element_size(dtype)
            yield Seen(self._name(path), str(dtype), (numel,), None, odd)
        else:
            tensor = torch.empty(0, dtype=dtype, device=untyped.device).set_(untyped)
            yield from self._content(tensor, path, odd)

    def _attributes(self, value: Any, path: tuple[str, ...], *, odd: bool) -> Iterator[Seen]:
        for key, item in getattr(value, "__dict__", {}).items():
            part = _part(key)
            place = "attribute" if part is None else part
            yield from self.visit(item, (*path, place), odd=odd or part is None)

    def _tensor(self, value: torch.Tensor, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        yield from self._content(value, path, odd)
        yield from self._attributes(value, path, odd=odd)
        yield from self.visit(value._backward_hooks, path, odd=True)
        if value.is_leaf and value.grad is not None:
            yield from self.visit(value.grad, (*path, "grad"), odd=True)

    def _content(self, value: torch.Tensor, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        name = self._name(path)
        if value.is_nested:
            yield from self._nested(value, path)
        elif value.device.type == "meta" or value.is_quantized:
            dtype = TORCH_NAMES.get(value.dtype, str(value.dtype))
            yield Seen(name, dtype, tuple(value.shape), None, odd)
        elif value.layout is torch.strided:
            yield from self.strided(value, name, odd=odd)
        else:
            yield from self._sparse(value, path, odd)

    def _nested(self, value: torch.Tensor, path: tuple[str, ...]) -> Iterator[Seen]:
        dtype = TORCH_NAMES.get(value.dtype, str(value.dtype))
        figures = None
        if dtype in FLOATING:
            try:
                parts = [_exact(part).reshape(-1) for part in value.detach().unbind()]
            except RuntimeError as error:
                raise UnreadableTensorError(str(error)) from error
            figures = figures_of(np.concatenate(parts or [np.zeros(0)]))
        yield Seen(self._name(path), dtype, None, figures, is_odd=True)

    def _sparse(self, value: torch.Tensor, path: tuple[str, ...], odd: bool) -> Iterator[Seen]:
        value = value.detach()
        if value.layout is torch.sparse_coo:
            values, indices = value._values(), {"indices": value._indices()}
            dtype = TORCH_NAMES.get(values.dtype, "")
            summed = summed_up(values, indices["indices"]) if dtype in FLOATING else None
            if summed is not None:
                name = self._name(path)
                shape = (summed.places, *values.shape[1:])
                yield Seen(name, dtype, shape, figures_of(summed.values), odd)
                shape = (len(indices["indices"]), summed.places)
                yield Seen(self._name((*path, "indices")), "index", shape, None, odd)
                return
        else:
            by_row = value.layout in (torch.sparse_csr, torch.sparse_bsr)
            values = value.values()
            indices = {
                "compressed_indices": value.crow_indices() if by_row else value.ccol_indices(),
                "plain_indices": value.col_indices() if by_row else value.row_indices(),
            }
        yield from self._content(values, path, odd)
        for key, index in indices.items():
            # torch makes them I64, whatever integers they are stored as.
            yield Seen(self._name((*path, key)), "index", tuple(index.shape), None, odd)

    def strided(self, tensor: torch.Tensor, name: str, *, odd: bool) -> Iterator[Seen]:
        """A tensor of plain elements, as its numbers."""
        dtype = TORCH_NAMES.get(tensor.dtype, str(tensor.dtype))
        figures = _figures(tensor.detach()) if dtype in FLOATING else None
        yield Seen(name, dtype, tuple(tensor.shape), figures, odd, tensor.is_neg())

    def _name(self, path: tuple[str, ...]) -> str:
        return ".".join(part for part in path if part) or self._stem


_LOOKS: Final[tuple[tuple[Any, Callable[..., Iterator[Seen]]], ...]] = (
    (torch.Tensor, Walk._tensor),
    (np.ndarray, Walk._array),
    ((np.generic, np.dtype), Walk._number),
    ((torch.UntypedStorage, torch.TypedStorage), Walk._storage),
    (dict, Walk._mapping),
    ((list, tuple), Walk._numbered),
    (set, Walk._set),
)


def escaped(name: str) -> str:
    """A name as text that any output takes: surrogates are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _part(key: object) -> str | None:
    """The part of a name that a key is; None where the rules say nothing."""
    if isinstance(key, str):
        return escaped(key)
    if isinstance(key, int) and key.bit_length() > _MOST_KEY_BITS:
        return None
    if key is None or isinstance(key, bool | int | float):
        return str(key)
    is_plain = type(key) is tuple and all(
        item is None or isinstance(item, str | bool | int | float) for item in key
    )
    return repr(key) if is_plain else None


def seen_array(name: str, array: np.ndarray, *, odd: bool = False) -> Seen:
    """An array of plain elements, as its numbers."""
    code = array.dtype.str[1:]
    dtype = _ML_NAMES.get(array.dtype.name) or NUMPY_NAMES.get(code, code)
    figures = figures_of(array) if dtype in FLOATING else None
    return Seen(escaped(name), dtype, array.shape, figures, odd)


def _figures(tensor: torch.Tensor) -> Figures:
    """The figures of a tensor, whose repeated dimensions are counted and not unrolled."""
    times = 1
    for axis in range(tensor.ndim - 1, -1, -1):
        if tensor.stride(axis) == 0 and tensor.shape[axis] > 1:
            times *= tensor.shape[axis]
            tensor = tensor.select(axis, 0)
    if tensor.numel() > _MOST_ELEMENTS:
        raise UnknownValueError(f"{tensor.numel()} elements")
    return figures_of(_exact(tensor), times)


def _exact(tensor: torch.Tensor) -> np.ndarray:
    if tensor.is_neg():
        return -_exact(torch._neg_view(tensor))  # fp8 has no minus of torch's
    return widened(tensor)
