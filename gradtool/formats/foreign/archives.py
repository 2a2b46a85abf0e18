"""Zip archives of other programs, and those that somebody packed a checkpoint into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gradtool.core.figures import counted
from gradtool.storage.archives.zip import Entry

_OF_EXPORT: Final = ("/models/model.json", "serialized_exported_program.json")
"""Sources: `MODELS_DIR` of torch/export/pt2_archive/constants.py, torch 2.13, and `save` of
torch/export/__init__.py, torch 2.6.
"""

_TENSOR_FILES: Final = (".safetensors", ".gguf", ".msgpack", ".pt", ".pth", ".bin", ".ckpt", ".npz")


def archive_in(entries: Sequence[Entry]) -> str | None:
    """What an archive of no format that gradtool reads is; None where there is none."""
    if not entries:
        return None
    names = [entry.name for entry in entries]
    if any(name.endswith(_OF_EXPORT) for name in names):
        return "is a program of torch.export: save its weights by torch.save or safetensors"
    packed = next((name for name in names if name.lower().endswith(_TENSOR_FILES)), None)
    if packed is not None:
        return f"is a zip archive that holds {packed!r:.80}: unpack it, and name what is in it"
    return f"is a zip archive of {counted(len(names), 'entry', 'entries')}, none of them a tensor"
