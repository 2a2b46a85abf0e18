"""Dumps for tests: bytes on disk, and catalogues of them made by hand."""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Extent
from gradtool.core.measurement import Measurement
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.progress import Observer, whole_progress
from gradtool.engine.reading.measure import measure
from gradtool.engine.schedule import Runner
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

SMALLEST_NORMAL = {
    name: float(ml_dtypes.finfo(kind).smallest_normal) for name, kind in NUMPY_TYPES.items()
}
SMALLEST_NORMAL["C32"] = SMALLEST_NORMAL["F16"]

WINDOW = 4
"""Tasks that `measured` has under way at most."""

_numbers = itertools.count()


def write_safetensors(
    path: Path, tensors: dict[str, tuple[str, NDArray[Any]]], metadata: dict[str, str] | None = None
) -> Path:
    """A safetensors file written from its specification, so that any dtype can be in it."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = bytearray()
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


def tiny_numbers(
    dtype: str, count: int, rng: np.random.Generator, *, nonfinite: bool = False
) -> NDArray[Any]:
    """Elements of a real dtype on both sides of the borders of what is subnormal."""
    limits = ml_dtypes.finfo(NUMPY_TYPES[dtype])
    normal, least = float(limits.smallest_normal), float(limits.smallest_subnormal)
    borders = [0.0, least, normal / 2, normal - least, normal, normal * 1.5, 1.0]
    bad = [math.nan, math.inf] if nonfinite else []
    values = rng.choice([*borders, *borders, *bad], count) * rng.choice([-1.0, 1.0], count)
    array: NDArray[Any] = values.astype(NUMPY_TYPES[dtype])
    return array


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
    progress: Observer | None = None,
    *,
    backend: Backend = NUMPY,
    **options: Any,
) -> Measurement:
    """The measurement of a catalogue made by hand."""
    files = tuple(dict.fromkeys(extent.file for spec in specs for extent in spec.extents))
    checkpoint = Checkpoint("by hand", "raw", files, tuple(specs))
    with nullcontext(executor) if executor is not None else ThreadPoolExecutor(2) as workers:
        runner = Runner(workers, WINDOW, backend, whole_progress(progress))
        return measure(checkpoint, runner, norm_type=norm_type, **options)


_NARROW: dict[str, tuple[int, int, int]] = {
    "F16": (10, 15, 0x7BFF),
    "BF16": (7, 127, 0x7F7F),
    "F8_E5M2": (2, 15, 0x7B),
    "F8_E4M3": (3, 7, 0x7E),
    "F8_E5M2FNUZ": (2, 16, 0x7F),
    "F8_E4M3FNUZ": (3, 8, 0x7F),
}
"""Bits of the fraction, bias of the exponent and code of the largest finite number."""

COMPONENTS = {"C32": "F16", "C64": "F32", "C128": "F64"}
"""Types of the parts of complex types."""


def codes_type(dtype: str) -> str:
    """NumPy's name for unsigned integers of the size of an element, or of its part."""
    return f"u{DTYPES[COMPONENTS.get(dtype, dtype)].itemsize}"


def magnitudes(dtype: str) -> NDArray[np.float64]:
    """What the codes from 0 to the largest finite one stand for, by IEEE 754 and its kin."""
    fraction_bits, bias, last = _NARROW[dtype]
    codes = np.arange(last + 1)
    exponent, fraction = codes >> fraction_bits, codes & ((1 << fraction_bits) - 1)
    significand = np.where(exponent > 0, fraction + (1 << fraction_bits), fraction)
    return np.ldexp(significand.astype(float), np.maximum(exponent, 1) - bias - fraction_bits)


def decoded(codes: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """The numbers that codes stand for; NaN for NaN and for infinities."""
    if dtype in ("F32", "F64"):
        found = codes.view(f"f{codes.dtype.itemsize}")
        return np.where(np.isfinite(found), found, np.nan).astype(np.float64)
    known, sign = magnitudes(dtype), 1 << DTYPES[dtype].bits - 1
    table = np.full(2 * sign, np.nan)
    table[: len(known)] = known
    table[sign : sign + len(known)] = -known
    if dtype.endswith("FNUZ"):
        table[sign] = np.nan
    return table.take(codes)


def encoded(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """The codes nearest to finite values in range, ties to even."""
    if dtype in ("F32", "F64"):
        return values.astype(f"f{DTYPES[dtype].itemsize}").view(codes_type(dtype))
    known, sign = magnitudes(dtype), 1 << DTYPES[dtype].bits - 1
    # Halfway between neighbours, which float64 holds exactly.
    halfway = (known[1:] + known[:-1]) / 2
    codes = np.searchsorted(halfway, np.abs(values))
    tie = halfway[np.minimum(codes, len(halfway) - 1)] == np.abs(values)
    codes += tie & (codes % 2 == 1)
    signed = np.signbit(values) & ~((codes == 0) & dtype.endswith("FNUZ"))
    return (codes + np.where(signed, sign, 0)).astype(codes_type(dtype))


def transformed(
    codes: NDArray[Any], dtype: str, coef: float = 1.0, bound: float = math.inf
) -> NDArray[Any]:
    """Codes of elements scaled and clamped in float64 and rounded once; non-finite ones kept."""
    values = decoded(codes, COMPONENTS.get(dtype, dtype))
    parts = 2 if dtype in COMPONENTS else 1
    bad = np.repeat(np.isnan(values).reshape(-1, parts).any(axis=1), parts)
    after = np.clip(values * coef, -bound, bound)
    result = codes.copy()
    result[~bad] = encoded(after[~bad], COMPONENTS.get(dtype, dtype))
    return result
