"""Directories as torch's distributed checkpoints leave them, of any boxes, without any process."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from cuttings import part_of
from numpy.typing import NDArray
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from gradtool.core.shapes.boxes import Box


class Item(NamedTuple):
    """A box of a tensor that a rank writes."""

    name: str
    box: Box


def shard_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"__{rank}_0.distcp"


def write_distcp(
    directory: Path,
    wholes: Mapping[str, torch.Tensor],
    ranks: Sequence[Sequence[Item]],
    *,
    in_blobs: bool = False,
    others: Mapping[str, object] | None = None,
    paths: Mapping[str, tuple[str | int, ...]] | None = None,
) -> Metadata:
    """A directory of a file for each rank, and what was written to `.metadata`.

    The first rank writes `others`, which are no tensors. `in_blobs` makes one safetensors file of
    all boxes of a rank.
    """
    directory.mkdir(exist_ok=True)
    stored: dict[MetadataIndex, _StorageInfo] = {}
    entries: dict[str, Any] = {
        name: TensorStorageMetadata(TensorProperties(whole.dtype), whole.shape, [])
        for name, whole in wholes.items()
    }
    for rank, items in enumerate(ranks):
        stream, blob, offsets = io.BytesIO(), {}, {}
        for name, value in (others or {}).items() if rank == 0 else ():
            start = stream.tell()
            torch.save(value, stream)
            entries[name] = BytesStorageMetadata()
            info = _StorageInfo(shard_file(rank), start, stream.tell() - start)
            stored[MetadataIndex(name)] = info
        for name, box in items:
            part = part_of(wholes[name], box).clone()
            start = stream.tell()
            if in_blobs:
                blob[name], offsets[name] = part, {"saved_offsets": box.offsets}
            else:
                torch.save(part, stream)
            nbytes = part.nbytes if in_blobs else stream.tell() - start
            chunks = entries[name].chunks
            chunks.append(ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)))
            index = MetadataIndex(name, torch.Size(box.offsets), len(chunks) - 1)
            stored[index] = _StorageInfo(shard_file(rank), start, nbytes)
        if in_blobs:
            noted = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0"}
            stream.write(safetensors.torch.save(blob, metadata=noted))
        (directory / shard_file(rank)).write_bytes(stream.getvalue())
    planned = {name: (name,) for name in entries} if paths is None else dict(paths)
    metadata = Metadata(entries, planned, stored, StorageMeta(), "1.0.0")
    write_metadata(directory, metadata)
    return metadata


def write_metadata(directory: Path, metadata: object) -> None:
    """Write `.metadata` anew, as torch does."""
    (directory / ".metadata").write_bytes(pickle.dumps(metadata, protocol=4))


def loaded_blobs(directory: Path) -> dict[str, NDArray[Any]]:
    """The tensors of files whose items are in blobs, which torch writes and does not load."""
    metadata = FileSystemReader(directory).read_metadata()
    found = {}
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            found[name] = np.full(entry.size, np.nan, np.float32)
    for index, info in metadata.storage_data.items():
        content = (directory / info.relative_path).read_bytes()[info.offset :]
        part = safetensors.numpy.load(content)[index.fqn]
        box = Box(tuple(index.offset), part.shape)
        found[index.fqn][tuple(map(slice, box.offsets, box.ends))] = part
    return found
