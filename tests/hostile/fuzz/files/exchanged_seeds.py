"""GGUF and Flax's files as their writers leave them, of arrays that are given."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Final

import gguf
import ml_dtypes
import msgpack
import numpy as np

Arrays = Callable[[str], np.ndarray]
"""Makes an array of a type by NumPy's code, or of bfloat16."""

_CODES: Final = (
    "f4", "f2", "f8", "c8", "c16", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "b1", "bf16",
)  # fmt: skip


def gguf_seeds(array: Arrays) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files that gguf-py writes."""
    plain = {code: array(code) for code in ("f4", "f2", "f8", "i1", "i4", "i8")}
    for order in gguf.GGUFEndian:
        yield (f"plain {order.name.lower()}", _gguf(plain, order=order))
    model = {"token_embd.weight": array("f4"), "blk.0.attn.weight": array("f2")}
    texts = {"tokenizer.ggml.tokens": ["a", "bc", ""], "general.type": "model"}
    yield ("model", _gguf(model, texts))
    yield ("aligned", _gguf(model, {"general.alignment": 64}))
    odd = {"scalar": np.float32(2.5), "empty": np.zeros((0, 3), "f4"), "optimizer.w": array("f4")}
    yield ("odd", _gguf({**odd, "grads.w": array("f4")}))
    yield ("nothing", _gguf({}))
    types = gguf.GGMLQuantizationType
    rows = np.arange(64, dtype="f4").reshape(2, 32) / 8
    for kind in (types.Q4_0, types.Q8_0, types.BF16, types.MXFP4):
        packed = {"w": array("f4"), "packed": (gguf.quants.quantize(rows, kind), kind)}
        yield (f"{kind.name}", _gguf(packed))


def _gguf(
    arrays: dict[str, Any],
    keys: dict[str, Any] | None = None,
    order: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> bytes:
    """What gguf-py writes; arrays may come with the type that they are of."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "seed.gguf")
        writer = gguf.GGUFWriter(path, "seed", endianess=order)
        for key, value in (keys or {}).items():
            if key == "general.alignment":
                writer.add_custom_alignment(value)
            else:
                (writer.add_array if isinstance(value, list) else writer.add_string)(key, value)
        for name, one in arrays.items():
            data, kind = one if isinstance(one, tuple) else (np.asarray(one), None)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with open(path, "rb") as file:
            return file.read()


def flax_seeds(array: Arrays) -> Iterator[tuple[str, bytes]]:
    """The same of files that Flax writes."""
    for code in _CODES:
        yield (code, _flax({"w": array(code), "b": array(code)[0]}))
    moments = {"0": {"count": np.array(3, "i4"), "mu": {"w": array("f4")}}, "1": {}}
    state = {"step": 3, "params": {"w": array("f4")}, "opt_state": moments}
    trees: dict[str, Any] = {
        "state": state, "bare": array("f4"), "list": [array("f4"), {"b": array("f8")}, 3, None],
        "scalars": {"loss": np.float32(2.5), "z": 1 + 2j, "w": np.array(0.25, "f4"), "t": "text"},
        "keys": {1: array("f4"), "1.5": array("f8"), "": {"": array("f2")}},
        "empty": {"w": np.zeros((0, 3), "f4"), "n": {}, "l": []},
        "fp8": {"w": array("f4").astype(ml_dtypes.float8_e4m3fn), "b": b"bytes"},
    }  # fmt: skip
    for name, tree in trees.items():
        yield (f"{name}", _flax(tree))


def _flax(tree: Any) -> bytes:
    """What Flax writes."""
    return msgpack.packb(tree, default=_flax_extension, strict_types=True)


def _flax_extension(value: Any) -> msgpack.ExtType:
    if isinstance(value, complex):
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
    one = np.asarray(value)
    parts = one.shape, one.dtype.name, one.tobytes("C")
    code = 1 if isinstance(value, np.ndarray) else 3
    return msgpack.ExtType(code, msgpack.packb(parts, use_bin_type=True))
