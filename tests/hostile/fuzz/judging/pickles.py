"""What a plain pickle of arrays gives whoever loads it.

NumPy's own `__setstate__` ends the process for many a state that lies, and so it is not asked: the
unpickler is Python's, and what an array is made of its state is said here, by NumPy's rules.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import ml_dtypes
import numpy as np

from fuzz.judging.loaders import REFUSALS, Loaded, refusal
from fuzz.judging.values import Walk


class _Type:
    """A dtype: the code that it is called with, and its state."""

    def __init__(self, code: Any, _align: Any = False, _copy: Any = False) -> None:
        self.dtype = np.dtype(ml_dtypes.bfloat16 if code is _Brain else code)
        if not isinstance(code, str) and code is not _Brain:
            raise TypeError("a type without a code")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, order, *fields = state
        if version not in (3, 4) or order not in ("<", ">", "=", "|"):
            raise ValueError("a state that is none")
        if any(field is not None for field in fields[:3]):
            raise ValueError("fields")
        if self.dtype == ml_dtypes.bfloat16 and order == ">":
            raise ValueError("an order that ml_dtypes does not have")
        if self.dtype != ml_dtypes.bfloat16 and not self.dtype.hasobject:
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array: what its state makes of it."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        if not isinstance(shape, tuple) or not isinstance(kind, _Type):
            raise TypeError("a state that is none")
        if isinstance(data, list):
            if not kind.dtype.hasobject:
                raise TypeError("a list of what are no objects")
            made = np.empty(len(data), object)
            made[:] = data
        elif kind.dtype.hasobject or not isinstance(data, bytes | bytearray):
            raise TypeError("no bytes")
        else:
            made = np.frombuffer(data, kind.dtype)
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError("no shape")
        self.array = made.reshape(shape, order="F" if is_fortran else "C")


class _Brain:
    """bfloat16, as ml_dtypes has it."""


class _Number:
    """A number, which is no tensor."""

    def __init__(self, kind: _Type, data: bytes = b"") -> None:
        del kind, data


def _reconstruct(cls: Any, shape: Any, kind: Any) -> _Array:
    del cls, shape, kind
    return _Array()


_KNOWN = {
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _Number,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "ml_dtypes.bfloat16": _Brain,
    "__builtin__.bytes": bytes,
    "_codecs.encode": None,
    "collections.OrderedDict": None,
}


class _Restricted(pickle._Unpickler):
    """Knows what an array is made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        dotted = f"{module}.{name}"
        if dotted not in _KNOWN:
            raise pickle.UnpicklingError(f"{dotted} is not allowed")
        return _KNOWN[dotted] or super().find_class(module, name)


def load_pickle(path: str) -> Loaded:
    """The arrays in a plain pickle; nothing of other formats."""
    with open(path, "rb") as file:
        if file.read(1) != b"\x80":
            return Loaded()
        file.seek(0)
        try:
            root = _Restricted(file).load()
        except REFUSALS as error:
            return Loaded(error=refusal(error))
    stem = os.path.splitext(os.path.basename(path))[0]
    return Loaded([*_ArrayWalk(stem).visit(root, (), odd=False)])


class _ArrayWalk(Walk):
    """The walk over what torch loaded, which knows these arrays too."""

    def visit(self, value: Any, path: tuple[str, ...], *, odd: bool) -> Any:
        if isinstance(value, _Array):
            if value.array is not None:
                yield from super().visit(value.array, path, odd=odd)
        elif not isinstance(value, _Type | _Number | type) and not callable(value):
            yield from super().visit(value, path, odd=odd)
