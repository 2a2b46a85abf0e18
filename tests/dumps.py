"""Dumps for tests: bytes on disk, and catalogues of them made by hand."""

from __future__ import annotations

import itertools
import json
import os
import struct
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES
from gradtool.core.measurement import Measurement
from gradtool.core.tensors import Checkpoint, Extent, TensorSpec
from gradtool.engine.measure import measure
from gradtool.storage.reader import open_source

NUMPY_TYPES: dict[str, Any] = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "C128": np.complex128,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
}

WINDOW = 4
"""Tasks that `measured` has under way at most."""

_numbers = itertools.count()


def write_safetensors(
    path: Path, tensors: dict[str, tuple[str, NDArray[Any]]], metadata: dict[str, str] | None = None
) -> Path:
    """A safetensors file written from its specification, so that any dtype can be in it."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, array) in tensors.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def stored(
    directory: Path, dtype: str, arrays: list[NDArray[Any]], parts: int = 1
) -> list[TensorSpec]:
    """Tensors in one or several files of raw bytes, each tensor cut over all the files."""
    contents = [b""] * parts
    cuts: list[list[tuple[int, int, int]]] = []
    for array in arrays:
        raw, item = array.tobytes(), DTYPES[dtype].itemsize
        edges = [array.size * part // parts * item for part in range(parts + 1)]
        ranges = []
        for part in range(parts):
            piece = raw[edges[part] : edges[part + 1]]
            if piece:
                ranges.append((part, len(contents[part]), len(piece)))
            contents[part] += piece
        cuts.append(ranges)
    files = []
    for content in contents:
        path = directory / f"raw-{os.getpid()}-{next(_numbers)}"
        path.write_bytes(content)
        with open_source(str(path)) as source:
            files.append(source.file)
    return [
        TensorSpec(
            name=f"t.{i}",
            dtype=DTYPES[dtype],
            shape=array.shape,
            extents=tuple(Extent(files[part], offset, nbytes) for part, offset, nbytes in ranges),
        )
        for i, (array, ranges) in enumerate(zip(arrays, cuts, strict=True))
    ]


def measured(
    specs: list[TensorSpec],
    norm_type: float = 2.0,
    executor: Executor | None = None,
    **options: Any,
) -> Measurement:
    """The measurement of a catalogue made by hand."""
    files = tuple(dict.fromkeys(extent.file for spec in specs for extent in spec.extents))
    checkpoint = Checkpoint("by hand", "raw", files, tuple(specs))
    if executor is not None:
        return measure(checkpoint, executor=executor, window=WINDOW, norm_type=norm_type, **options)
    with ThreadPoolExecutor(2) as threads:
        return measure(checkpoint, executor=threads, window=WINDOW, norm_type=norm_type, **options)
