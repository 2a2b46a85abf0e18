"""What gguf-py and Flax read of their files, as NumPy's arrays by name.

Flax itself is large: what it does with what `msgpack` reads is written down here once more, after
`msgpack_restore` of flax/serialization.py, Flax 0.12.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import gguf
import ml_dtypes
import msgpack
import numpy as np

CHUNKED: Final = "__msgpack_chunked_array__"


class _Reader(gguf.GGUFReader):
    """gguf-py's reader, which goes through 2^62 values that are not there, ended where they end."""

    def _get(self, offset: int, dtype: Any, count: int = 1, **order: Any) -> np.ndarray:
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise EOFError("a value behind the end of the file")
        return super()._get(offset, dtype, count, **order)


def gguf_arrays(path: str) -> dict[str, np.ndarray]:
    """By gguf-py; what is quantised as it is stored, as bytes."""
    found = {}
    for tensor in _Reader(path).tensors:
        array = np.array(tensor.data)
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            array = array.view(ml_dtypes.bfloat16)
        found[tensor.name] = array
    return found


def quantised(path: str) -> dict[str, str]:
    """The names of the tensors that are, with the types that gguf-py gives them."""
    blocks = gguf.constants.GGML_QUANT_SIZES
    return {
        tensor.name: tensor.tensor_type.name
        for tensor in _Reader(path).tensors
        if blocks[tensor.tensor_type][0] > 1
    }


def restored(content: bytes) -> Any:
    """The tree of a document, in which extensions are arrays and what was chunked is whole."""
    tree = msgpack.unpackb(content, ext_hook=_extension, raw=False, strict_map_key=False)
    return _whole(tree)


def flax_arrays(path: str) -> list[tuple[str, np.ndarray]]:
    """All arrays of a file of Flax's, by the keys that lead to them joined by dots."""
    with open(path, "rb") as file:
        tree = restored(file.read())
    stem = os.path.splitext(os.path.basename(path))[0]
    return [(name or stem, array) for name, array in named_arrays(tree)]


def named_arrays(node: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in a tree, each by its path, empty keys left out."""
    if isinstance(node, np.ndarray):
        yield name, node
    elif isinstance(node, dict | list):
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            part = str(key)
            yield from named_arrays(value, f"{name}.{part}" if name and part else name or part)


def _extension(code: int, data: bytes) -> Any:
    if code == 2:
        real, imaginary = msgpack.unpackb(data)[:2]
        return complex(real, imaginary)
    if code not in (1, 3):
        return msgpack.ExtType(code, data)
    shape, name, content = msgpack.unpackb(data, raw=True)
    dtype = np.dtype(ml_dtypes.bfloat16) if name == b"bfloat16" else np.dtype(name)
    array = np.frombuffer(content, dtype).reshape(shape)
    return array if code == 1 else array[()]


def _whole(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if CHUNKED in node:
        shape = [node["shape"][str(axis)] for axis in range(len(node["shape"]))]
        chunks = [node["chunks"][str(number)] for number in range(len(node["chunks"]))]
        return np.concatenate(chunks).reshape(shape)
    return {key: _whole(value) for key, value in node.items()}
