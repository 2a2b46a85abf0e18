"""Sets of shards without an index: `model-00001-of-00004.safetensors`.

Source: `save_pretrained` of transformers, which writes an index beside them that may be lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradtool.core.tensors import Checkpoint
from gradtool.formats.layouts._joined import joined


def joined_shards(path: str, shards: Sequence[Checkpoint]) -> Checkpoint:
    """All shards of a set, in the order of their numbers, in which writers cut a model."""
    return joined(path, "sharded", shards, notes=["the shards have no index"])
