"""Directories of no layout that is read: which one they are nearest to, and what is missing."""

from __future__ import annotations

import fnmatch
from typing import Final

from gradtool.core.figures import first_of
from gradtool.errors import CorruptFileError, EmptyDumpError, UnsupportedFormatError
from gradtool.formats.layouts.asked import DEEPEST
from gradtool.storage.json import parse_object
from gradtool.storage.listing import Listing

_TRAINED: Final = "its model.safetensors or pytorch_model.bin is missing"

_NEAREST: Final = (
    ("__*.metadata", "each rank's own part of a torch_dcp: .metadata and *.distcp are missing"),
    ("trainer_state.json", f"a checkpoint of Transformers' Trainer: {_TRAINED}"),
    ("adapter_config.json", "a PEFT adapter: its adapter_model.safetensors is missing"),
    ("config.json", f"a model of Transformers: {_TRAINED}"),
    ("latest_checkpointed_iteration.txt", "a run of Megatron: its iter_####### are missing"),
    ("zero_to_fp32.py", "a run of DeepSpeed: its global_step# are missing"),
    (".z[agm]*", "a Zarr store, which gradtool does not read"),
    ("zarr.json", "a Zarr store, which gradtool does not read"),
    ("saved_model.pb", "a SavedModel of TensorFlow, which gradtool does not read"),
    ("*.data-?????-of-?????", "a checkpoint of TensorFlow, which gradtool does not read"),
    ("Manifest.json", "a package of Core ML, which gradtool does not read"),
)
"""What a directory without tensor files may be, by names in it; the first that fits is meant."""

_COMMON: Final = "common.pt"
_METADATA: Final = "metadata.json"
_METADATA_NBYTES: Final = 1 << 16
"""Megatron's have less than 200."""


def nothing_in(listing: Listing) -> EmptyDumpError:
    """The error for a directory without a tensor file: what it may be, or else what is there."""
    names = listing.names
    fitting = (words for glob, words in _NEAREST if fnmatch.filter(names, glob))
    visible = [name for name in names if not name.startswith(".")]
    there = f": only {first_of(visible)}" if visible else ""
    words = next((f": looks like {words}" for words in fitting), there)
    hint = f"gradtool looks {DEEPEST} levels below the directory that is named"
    return EmptyDumpError(listing.path, f"holds no tensor file{words}", hint=hint)


def refuse_megatron(listing: Listing) -> None:
    """UnsupportedFormatError for a checkpoint of Megatron Core that is no torch_dcp.

    Without Megatron's metadata beside it `common.pt` is a file like others.

    Source: `save_config` of megatron/core/dist_checkpointing/core.py.
    """
    backend = _backend(listing) if _COMMON in listing.names else None
    if backend is not None:
        problem = f"is a checkpoint of Megatron Core, its tensors in the backend {backend!r:.80}"
        missing = "gradtool reads those of torch_dcp, and `.metadata` and *.distcp are missing"
        hint = f"name {_COMMON} to read what is no tensor of the model"
        raise UnsupportedFormatError(listing.path, f"{problem}: {missing}", hint=hint)


def _backend(listing: Listing) -> str | None:
    if _METADATA not in listing.names or not listing.is_file(_METADATA):
        return None
    with listing.open(_METADATA) as source:
        if source.file.size > _METADATA_NBYTES:
            return None
        document = source.read(0, source.file.size)
    try:
        found = parse_object(document, listing.at(_METADATA), "it").get("sharded_backend")
    except CorruptFileError:  # of another program
        return None
    return found if isinstance(found, str) else None
