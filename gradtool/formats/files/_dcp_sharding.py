"""What torch's distributed checkpoints note in a safetensors file: which boxes it holds.

`DCP_SHARDING_INFO` in the metadata is JSON, `{name: {"saved_offsets": [...]}}`: the index in the
whole tensor of the first element of what the file has under that name.
Source: `_write_files_from_queue` of torch/distributed/checkpoint/filesystem.py, and `_hf_utils.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeGuard

from gradtool.core.shapes.boxes import Box, Held
from gradtool.core.tensors import Placed
from gradtool.errors import CorruptFileError
from gradtool.storage.json import parse_object

SHARDING_INFO: Final = "DCP_SHARDING_INFO"
_OFFSETS: Final = "saved_offsets"
_LIMIT: Final = 1 << 63


def read_boxes(text: str, path: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Placed]:
    """The box of each tensor, given the text and the shapes of what the file holds.

    Raises CorruptFileError, naming the tensor, where the two do not fit each other.
    """
    offsets_of = parse_object(text, path, SHARDING_INFO)
    for name in offsets_of.keys() - shapes.keys():
        problem = f"{SHARDING_INFO} has offsets of it, and the file has no such tensor"
        raise CorruptFileError(path, problem, tensor=name)
    placed = {}
    for name, shape in shapes.items():
        entry = offsets_of.get(name)
        offsets = entry.get(_OFFSETS) if isinstance(entry, dict) else None
        if not _are_offsets(offsets, len(shape)):
            problem = f"{SHARDING_INFO} has no offsets for its {len(shape)} dimensions"
            raise CorruptFileError(path, problem, tensor=name)
        placed[name] = Placed((Held(Box(tuple(offsets), shape), (0,) * len(shape)),))
    return placed


def _are_offsets(found: object, count: int) -> TypeGuard[list[int]]:
    return (
        isinstance(found, list)
        and len(found) == count
        and all(type(offset) is int and 0 <= offset < _LIMIT for offset in found)
    )
