"""Files as the real writers leave them: what mutants are made of."""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from fuzz.files.exchanged_seeds import flax_seeds, gguf_seeds
from fuzz.files.legacy_files import LegacyFile
from fuzz.files.pickle_files import PickleFile

TORCH_TYPES: Final = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex32,
    torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.bool,
)  # fmt: skip

_NUMPY_CODES: Final = (
    "f4", "f2", "f8", "c8", "c16", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "b1",
)  # fmt: skip


class Seed(NamedTuple):
    """A file to start from: `kind` is what it is taken apart as, `name` its own."""

    kind: str
    name: str
    content: bytes


def numbers(count: int, first: float = 0.5) -> torch.Tensor:
    """Different float32 numbers, so that no two tensors are mistaken for each other."""
    return torch.arange(count, dtype=torch.float32) * 0.25 + first


def _torch_objects() -> Iterator[tuple[str, Callable[[], Any]]]:
    for dtype in TORCH_TYPES:
        yield str(dtype), lambda dtype=dtype: {"w": numbers(6).to(dtype), "b": numbers(3, 7.0)}
    yield "state dict", _model().state_dict
    yield "optimizer", _optimizer
    yield "views", _views
    yield "parameters", _parameters
    yield "sections", lambda: {"model": _model().state_dict(), "optimizer": _optimizer(), "step": 3}
    yield "keys", lambda: {3: numbers(2), ("a", 1): numbers(3), None: numbers(1), "": numbers(4)}
    yield "containers", lambda: [numbers(2), (numbers(3), {"x": [numbers(1)]}), "text", 2.5, None]
    yield "lone tensor", lambda: numbers(5).reshape(1, 5)
    yield "scalars", lambda: {"loss": torch.tensor(2.5), "none": torch.zeros(0, 3), "n": 1 << 40}
    yield "sparse", _sparse
    yield "quantized", _quantized
    yield "nested", lambda: {"n": torch.nested.nested_tensor([numbers(2), numbers(3)])}
    yield "complex views", _complex_views
    yield "meta", lambda: {"m": torch.empty(3, 2, device="meta"), "w": numbers(2)}
    yield "storages", lambda: {"s": numbers(4).untyped_storage(), "w": numbers(2)}
    yield "allowed", _allowed_objects
    yield "alike", lambda: {"w": numbers(4), "W": numbers(4, 9.0), "w.x": numbers(4, 3.0)}


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)
    return torch.nn.Sequential(OrderedDict(linear=layers[0], norm=layers[1]))


def _optimizer() -> Any:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def _views() -> Any:
    base = numbers(24)
    grid = base.reshape(4, 6)
    return {
        "all": grid, "transposed": grid.t(), "row": grid[1], "column": grid[:, 2],
        "block": grid[1:3, 2:5], "stepped": base[::3], "expanded": base[:1].expand(5),
        "same": base, "shifted": base[3:9],
    }  # fmt: skip


def _parameters() -> Any:
    plain = torch.nn.Parameter(numbers(4))
    marked = torch.nn.Parameter(numbers(3, 5.0), requires_grad=False)
    marked.extra = numbers(2, 8.0)
    tensor = numbers(2, 4.0)
    tensor.note = "kept"
    tensor.mean = numbers(1, 6.0)
    return {
        "plain": plain,
        "marked": marked,
        "tensor": tensor,
        "needs": numbers(2).requires_grad_(),
    }


def _sparse() -> Any:
    coo = torch.sparse_coo_tensor([[0, 2], [1, 0]], numbers(2), (3, 3))
    twice = torch.sparse_coo_tensor([[2, 0, 2, 2], [1, 0, 1, 1]], numbers(8).view(4, 2), (3, 3, 2))
    return {
        "coalesced": coo.coalesce(), "coo": coo, "twice": twice,
        "csr": coo.to_dense().to_sparse_csr(), "csc": coo.to_dense().to_sparse_csc(),
    }  # fmt: skip


def _quantized() -> Any:
    tensor = numbers(4).reshape(2, 2)
    scales, zeros = torch.tensor([0.5, 0.25]), torch.tensor([1, 0])
    return {
        "tensor": torch.quantize_per_tensor(tensor, 0.25, 1, torch.qint8),
        "channel": torch.quantize_per_channel(tensor, scales, zeros, 0, torch.quint8),
        "wide": torch.quantize_per_tensor(tensor, 0.25, 0, torch.qint32),
    }  # fmt: skip


def _complex_views() -> Any:
    first, second = (numbers(8, start).view(torch.complex64) for start in (0.5, 9.0))
    return {"z": first, "conj": first.conj(), "negated": second.conj().imag, "half": second.imag}


def _allowed_objects() -> Any:
    counter = Counter(a=2)
    return {
        "size": torch.Size([2, 3]), "device": torch.device("cpu"), "dtype": torch.float16,
        "bytes": b"\0\xff", "bytearray": bytearray(b"ab"), "complex": 1 + 2j, "set": {1, 2},
        "counter": counter, "layout": torch.strided, "w": numbers(3),
    }  # fmt: skip


def _torch_seeds() -> Iterator[Seed]:
    for name, make in _torch_objects():
        yield Seed("torch", f"torch/{name.removeprefix('torch.')}", saved(make()))
    torch.utils.serialization.config.save.storage_alignment = 1
    yield Seed("torch", "torch/unaligned", saved({"w": numbers(3)}))
    torch.utils.serialization.config.save.storage_alignment = 64
    torch.serialization.set_crc32_options(False)
    yield Seed("torch", "torch/no checksums", saved({"w": numbers(3), "v": numbers(2, 3.0)}))
    torch.serialization.set_crc32_options(True)
    yield Seed("torch", "torch/big endian", _big_endian())


_UNTYPED: Final = ("torch.float8", "torch.uint16", "torch.uint32", "torch.uint64")
_NOT_LEGACY: Final = frozenset({"torch.complex32", "storages", "nested"})
"""What torch writes as it did before 1.6 and does not read again: untyped storages, which
some types have too, and sizes that it looks at before they are read.
"""


def _legacy_seeds() -> Iterator[Seed]:
    for name, make in _torch_objects():
        if name not in _NOT_LEGACY and not name.startswith(_UNTYPED):
            content = saved(make(), _use_new_zipfile_serialization=False)
            content = LegacyFile.parse(content).build()
            yield Seed("torch legacy", f"torch legacy/{name.removeprefix('torch.')}", content)


def saved(value: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _big_endian() -> bytes:
    """As a big-endian machine writes: the same records with other bytes, of the same length."""
    swapped = numbers(4).numpy().byteswap().tobytes()
    content = saved({"w": numbers(4)}).replace(numbers(4).numpy().tobytes(), swapped)
    reader = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(reader)
    source = torch._C.PyTorchFileReader(io.BytesIO(content))
    for record in source.get_all_records():
        if record not in ("version", ".data/serialization_id"):
            data = b"big" if record == "byteorder" else source.get_record(record)
            writer.write_record(record, data, len(data))
    writer.write_end_of_file()
    return reader.getvalue()


def _array(code: str) -> np.ndarray:
    kind = ml_dtypes.bfloat16 if code == "bf16" else np.dtype(code)
    return (np.arange(6) * 0.5 + 1.5).astype(kind).reshape(2, 3)


def _pickle_seeds() -> Iterator[Seed]:
    several = {"w": _array("<f4"), "b": _array(">f8"), "n": np.arange(3), "z": _array("<c8")}
    objects = np.array([_array("<f4"), None, "x"], object)
    made: dict[str, Any] = {
        "several": several,
        "nested": {
            "grads": {"w": _array("<f2"), "l": [_array("<f8"), (_array("<f4"),)]},
            "lr": 0.1,
        },
        "fortran": {"f": np.asfortranarray(_array("f4")), "e": np.zeros((0, 3), "f4")},
        "lone": _array("<f4"),
        "objects": {"o": objects, "s": np.float32(2.5), "t": np.array(["ab"])},
        "brain": {"b": _array("bf16"), "w": _array("<f4")},
    }
    for name, value in made.items():
        for protocol in (2, 3):
            content = pickle.dumps(value, protocol)
            yield Seed("pickle", f"pickle/{name} {protocol}", PickleFile.parse(content).build())


def _npy_seeds() -> Iterator[Seed]:
    arrays = {f"{order}{code}": _array(f"{order}{code}") for code in _NUMPY_CODES for order in "<>"}
    arrays |= {
        "bf16": _array("bf16"), "fortran": np.asfortranarray(_array("f4")),
        "scalar": np.float32(2.5), "empty": np.zeros((0, 3), "f4"), "text": np.array(["ab", "c"]),
        "bytes": np.array([b"ab"]), "dates": np.array(["2024-01-01"], "M8[D]"),
        "record": np.zeros(2, [("x", "f4"), ("y", "i4")]),
        # Zeros, since in others some bytes are whatever was in memory.
        "longdouble": np.zeros(2, np.longdouble), "many": np.ones((1,) * 20, "f4"),
    }  # fmt: skip
    for name, array in arrays.items():
        yield Seed("npy", f"npy/{name}", npy(np.asanyarray(array)))
    for version in ((2, 0), (3, 0)):
        yield Seed("npy", f"npy/version {version[0]}", npy(_array("<f4"), version))


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    """What `np.save` writes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version, allow_pickle=False)
    return buffer.getvalue()


def _npz_seeds() -> Iterator[Seed]:
    several = {"w": _array("<f4"), "b": _array(">f8"), "n": np.arange(3), "z": _array("<c8")}
    nested = {"layer.0/weight": _array("<f2"), "model.w": _array("<f4"), "é": _array("<f8")}
    alike = {"w": _array("<f4"), "W": _array("<f4") * 2, "optimizer.w": np.float64(3.0)}
    files: dict[str, dict[str, Any]] = {"several": several, "nested": nested, "alike": alike}
    for name, arrays in files.items():
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, **arrays)
            yield Seed("npz", f"npz/{save.__name__} {name}", buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, _array("<f4"), _array("<i8"))
    yield Seed("npz", "npz/positions", buffer.getvalue())


def _safetensors_seeds() -> Iterator[Seed]:
    for dtype in TORCH_TYPES:
        if dtype not in (torch.complex32, torch.complex128):
            tensors = {"w": numbers(6).reshape(2, 3).to(dtype), "b": numbers(3, 7.0)}
            name = f"safetensors/{str(dtype).removeprefix('torch.')}"
            yield Seed("safetensors", name, safetensors.torch.save(tensors))
    model = _model().state_dict()
    yield Seed("safetensors", "safetensors/model", safetensors.torch.save(model, {"format": "pt"}))
    arrays = {"é.w": _array("<f4"), "empty": np.zeros((0, 2), "f4"), "scalar": np.array(2.5)}
    yield Seed("safetensors", "safetensors/numpy", safetensors.numpy.save(arrays))
    yield Seed("safetensors", "safetensors/nothing", safetensors.numpy.save({}, {"a": "b"}))
    # MLX's, whose header says null where there is no metadata.
    header = b'{"__metadata__":null,"w":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}}'
    content = len(header).to_bytes(8, "little") + header + numbers(2).numpy().tobytes()
    yield Seed("safetensors", "safetensors/mlx", content)


@cache
def seeds() -> dict[str, Seed]:
    """All seeds by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = [
            *_torch_seeds(),
            *_legacy_seeds(),
            *_pickle_seeds(),
            *_npy_seeds(),
            *_npz_seeds(),
            *_safetensors_seeds(),
            *(Seed("gguf", f"gguf/{name}", content) for name, content in gguf_seeds(_array)),
            *(Seed("flax", f"flax/{name}", content) for name, content in flax_seeds(_array)),
        ]
    assert math.isfinite(sum(len(seed.content) for seed in every))
    return {seed.name: seed for seed in every}
