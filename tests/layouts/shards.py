"""Shards as torch's writer for Hugging Face makes them, of any boxes, and what torch reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from dumps import write_safetensors
from numpy.typing import NDArray

from gradtool.core.shapes.boxes import Box

Held = Mapping[str, tuple[Box, NDArray[Any]]]
"""What one shard holds, by name: a box, and its elements."""


def shard_name(shard: int, number: int = 1, total: int = 1) -> str:
    """The name of a file, numbers counted from 1."""
    return f"shard-{shard:05}-model-{number:05}-of-{total:05}.safetensors"


def write_shard(path: Path, held: Held) -> Path:
    """A file of one rank: its tensors in float32, and where they belong."""
    offsets = {name: {"saved_offsets": list(box.offsets)} for name, (box, _) in held.items()}
    noted = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    return write_safetensors(path, {n: ("F32", array) for n, (_, array) in held.items()}, noted)


def write_shards(directory: Path, shards: Sequence[Held]) -> Path:
    """A file for each shard."""
    directory.mkdir(exist_ok=True)
    for number, held in enumerate(shards, 1):
        write_shard(directory / shard_name(number), held)
    return directory


def loaded(
    directory: Path, shapes: Mapping[str, tuple[int, ...]], reader: dcp.StorageReader | None = None
) -> dict[str, NDArray[Any]]:
    """The tensors of these shapes that torch loads from a directory, by default of such shards."""
    state = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
    reader = reader or dcp.HuggingFaceStorageReader(str(directory))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(state, storage_reader=reader, no_dist=True)
    return {name: np.asarray(tensor) for name, tensor in state.items()}
