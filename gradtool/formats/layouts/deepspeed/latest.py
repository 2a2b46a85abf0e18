"""A run of DeepSpeed: `latest` has the name of a folder beside it, which is the last checkpoint.

Source: `save_checkpoint` of deepspeed/runtime/engine.py.
"""

from __future__ import annotations

import re
from typing import Final

from gradtool.errors import CorruptFileError
from gradtool.formats.files import SUFFIXES
from gradtool.formats.layouts.deepspeed.names import is_model, is_zero
from gradtool.storage.listing import Listing, is_plain

LATEST: Final = "latest"
_BESIDE: Final = ("zero_to_fp32.py", "zero_to_torch.py", "latest_universal")
_STEP: Final = re.compile(r"global_step\d", re.ASCII)
_MOST_NBYTES: Final = 4096
_NO_WEIGHTS: Final = ("rng_state", "random_states", "scheduler", "training_args", "scaler")


def is_run(listing: Listing) -> bool:
    """Whether a directory is one of a run of DeepSpeed, by what it leaves there."""
    names = listing.names
    is_named = LATEST in names and any(name in _BESIDE for name in names)
    return is_named or any(map(_STEP.match, names))


def folder_of_latest(listing: Listing) -> str | None:
    """The folder that `latest` names; None where there is no `latest`.

    Raises CorruptFileError where it names none.
    """
    if LATEST not in listing.names:
        return None
    with listing.open(LATEST) as source:
        size = min(source.file.size, _MOST_NBYTES)
        text = source.read(0, size).decode("utf-8", "replace").strip()
    if not is_plain(text) or not listing.is_directory(text):
        problem = f"names {text!r:.80}, which is no folder beside it"
        hint = "name the folder of a step to read that one"
        raise CorruptFileError(listing.at(LATEST), problem, hint=hint)
    return text


def is_only_one(listing: Listing, folder: str) -> bool:
    """Whether no other folder is a checkpoint, and no weights lie beside them."""
    for name in listing.names:
        if name == folder:
            continue
        if listing.is_directory(name):
            if not name.startswith(".") and _is_checkpoint(listing.folder(name)):
                return False
        elif name.lower().endswith(SUFFIXES) and not name.startswith(_NO_WEIGHTS):
            return False
    return _is_checkpoint(listing.folder(folder))


def _is_checkpoint(listing: Listing) -> bool:
    return is_zero(listing.names) or any(map(is_model, listing.names))
