"""Checkpoints read back as the frameworks read them, with torch and small packages alone.

Each loader takes a checkpoint's path and gives its tensors by name, whole, in their own dtype.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from fuzz.judging.exchanged import flax_arrays, gguf_arrays
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from writers.oracles import flattened
from writers.rank_loaders import dump_ranks, torch_ranks
from writers.zero.loaders import universal, zero

Tensors = dict[str, Tensor]


def load(path: str, loader: str) -> Tensors:
    """The tensors of the checkpoint at `path`, by the loader of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of classes that it means to drop
        return LOADERS[loader](path)


def _dcp(reader: Any) -> Tensors:
    """All tensors by the names that the metadata have, into memory made for them."""
    found = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in found.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def _dcp_safetensors(path: str) -> Tensors:
    """Of a DCP directory whose items are safetensors: torch 2.13 writes it and cannot read it.

    The tensors of each file are one safetensors file that ends with it, a name for each box.
    """
    metadata = FileSystemReader(path).read_metadata()
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    boxes: dict[str, Tensors] = {}
    for index, info in metadata.storage_data.items():
        if index.fqn not in found:
            continue
        if info.relative_path not in boxes:
            with open(os.path.join(path, info.relative_path), "rb") as file:
                file.seek(info.offset)
                boxes[info.relative_path] = safetensors.torch.load(file.read())
        box = boxes[info.relative_path][index.fqn]
        pairs = zip(index.offset or (), box.shape, strict=True)
        found[index.fqn][tuple(slice(start, start + size) for start, size in pairs)] = box
    return found


def _torch(path: str) -> Tensors:
    return flattened(torch.load(path, map_location="cpu", weights_only=True))


def _torch_trusted(path: str) -> Tensors:
    """Of files that hold more than torch's list allows; they are our own."""
    return flattened(torch.load(path, map_location="cpu", weights_only=False))


def _torchscript(path: str) -> Tensors:
    return dict(torch.jit.load(path, map_location="cpu").state_dict())


def _directory(path: str) -> Tensors:
    """A flat directory: whatever in it holds tensors, each by its own loader."""
    found: Tensors = {}
    for name in sorted(os.listdir(path)):
        file = os.path.join(path, name)
        if name.endswith(".safetensors"):
            found |= safetensors.torch.load_file(file)
        elif name.endswith((".bin", ".pt")) and not name.startswith(_NO_TENSORS):
            found |= _torch(file)
        elif name.startswith(_DCP_FOLDERS) and os.path.isdir(file):
            found |= _dcp(FileSystemReader(file))
    return found


_NO_TENSORS: Final = ("training_args", "scheduler")
_DCP_FOLDERS: Final = ("pytorch_model_fsdp", "optimizer_0")


def _npz(path: str) -> Tensors:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _of_arrays(read: Callable[[str], dict[str, np.ndarray]]) -> Callable[[str], Tensors]:
    """What gives NumPy's arrays, as torch's; bfloat16 is not NumPy's own."""

    def load_arrays(path: str) -> Tensors:
        found = {}
        for name, array in read(path).items():
            native = array.astype(array.dtype.newbyteorder("="))
            if native.dtype.name == "bfloat16":
                found[name] = torch.from_numpy(native.view(np.int16)).view(torch.bfloat16)
            else:
                found[name] = torch.from_numpy(native)
        return found

    return load_arrays


LOADERS: Final[dict[str, Callable[[str], Tensors]]] = {
    "dcp": lambda path: _dcp(FileSystemReader(path)),
    "dcp_hf": lambda path: _dcp(HuggingFaceStorageReader(path)),
    "dcp_safetensors": _dcp_safetensors,
    "torch": _torch,
    "torch_trusted": _torch_trusted,
    "torchscript": _torchscript,
    "safetensors": safetensors.torch.load_file,
    "directory": _directory,
    "npz": _npz,
    "gguf": _of_arrays(gguf_arrays),
    "flax": _of_arrays(lambda path: dict(flax_arrays(path))),
    "torch_ranks": torch_ranks,
    "dump_ranks": dump_ranks,
    "zero": zero,
    "universal": universal,
}
"""By the names that oracles use."""
