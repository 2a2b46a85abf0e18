"""What the loaders that gradtool speaks for see in a file."""

from __future__ import annotations

import os
import pickle
import struct
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from typing import Final

import msgpack
import numpy as np
import safetensors
import torch

from fuzz.judging.exchanged import flax_arrays, gguf_arrays, quantised
from fuzz.judging.values import Seen, UnreadableTensorError, Walk, escaped, seen_array

REFUSALS: Final = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError,
    AssertionError, MemoryError, OverflowError, SyntaxError, NotImplementedError, RecursionError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error, UnicodeError,
    safetensors.SafetensorError, tokenize.TokenError,
)  # fmt: skip
"""What loaders raise at bad files."""


@dataclass
class Loaded:
    """What a loader sees in a file, and what it refuses of it: `error` is the first refusal."""

    seen: list[Seen] = field(default_factory=list)
    error: str | None = None
    has_notes: bool = False
    """Whether gradtool's own notes are in it, which may name what has no tensor."""


def refusal(error: BaseException) -> str:
    """An exception's type, and what its message says."""
    try:
        message = str(error)
    except Exception as unspeakable:  # noqa: BLE001 - of a tensor, say, that torch cannot print
        message = type(unspeakable).__name__
    for mark in ("WeightsUnpickler error: ", "compatible with your use case: "):
        message = message.rpartition(mark)[2]
    return f"{type(error).__name__}: {' '.join(message.split())[:300]}"


def load_torch(path: str) -> Loaded:
    """By `torch.load(weights_only=True)`."""
    return _load_torch(path, mmap=False)


def load_torch_mapped(path: str) -> Loaded:
    """By `torch.load(weights_only=True, mmap=True)`."""
    return _load_torch(path, mmap=True)


def _load_torch(path: str, *, mmap: bool) -> Loaded:
    try:
        root = torch.load(path, weights_only=True, mmap=mmap)
    except REFUSALS as error:
        return Loaded(error=refusal(error))
    stem = os.path.splitext(os.path.basename(path))[0]
    try:
        return Loaded([*Walk(stem).visit(root, (), odd=False)])
    except UnreadableTensorError as error:
        return Loaded(error=refusal(error))


def load_safetensors(path: str) -> Loaded:
    """By the safetensors package, as torch's tensors."""
    loaded = Loaded()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            loaded.has_notes = any(key.startswith("gradtool.") for key in metadata)
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(name)
                loaded.seen += Walk(name).strided(tensor, name, odd=False)
    except REFUSALS as error:
        loaded.error = refusal(error)
    return loaded


def load_numpy(path: str) -> Loaded:
    """By `numpy.load(allow_pickle=False)`; every key of an archive, as members are called too."""
    loaded = Loaded()
    try:
        found = np.load(path, allow_pickle=False)
    except REFUSALS as error:
        return Loaded(error=refusal(error))
    if isinstance(found, np.ndarray):
        name = os.path.basename(path).removesuffix(".npy")
        return Loaded([seen_array(name, found)])
    with found:
        keys = {(key, key) for key in found.files}
        keys |= {(key, key.removesuffix(".npy")) for key in found.zip.namelist()}
        for key, name in sorted(keys):
            try:
                array = found[key]
            except REFUSALS as error:
                loaded.error = loaded.error or refusal(error)
                continue
            if isinstance(array, np.ndarray):
                seen = seen_array(name, array)
                loaded.seen += [] if seen in loaded.seen else [seen]
    return loaded


def load_gguf(path: str) -> Loaded:
    """By gguf-py; what is quantised has no numbers of its own."""
    try:
        arrays, packed = gguf_arrays(path), quantised(path)
    except REFUSALS as error:
        return Loaded(error=refusal(error))
    return Loaded(
        [
            Seen(escaped(name), packed[name], None, None)
            if name in packed
            else seen_array(name, array)
            for name, array in arrays.items()
        ]
    )


def load_flax(path: str) -> Loaded:
    """By `flax.serialization.msgpack_restore`."""
    try:
        arrays = flax_arrays(path)
    except (*REFUSALS, msgpack.UnpackException) as error:
        return Loaded(error=refusal(error))
    seen = [seen_array(name, array) for name, array in arrays]
    # Flax writes the names of types, not their codes.
    return Loaded(
        [
            replace(one, dtype=array.dtype.name) if array.dtype.kind in "mM" else one
            for one, (_, array) in zip(seen, arrays, strict=True)
        ]
    )


def silence() -> None:
    """Loaders warn about much that is no matter here."""
    warnings.simplefilter("ignore")
