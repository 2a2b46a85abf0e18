"""Directories: each layout is a row of LAYOUTS, told by what lies there; those read are modules.

An index file names the shards of a checkpoint itself, wherever it lies: a module, and no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

from gradtool.core.checkpoint import Checkpoint
from gradtool.errors import UnsupportedFormatError
from gradtool.formats.about import About
from gradtool.formats.layouts import directory
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.dcp import hf_dcp, torch_dcp
from gradtool.formats.layouts.deepspeed import universal, zero
from gradtool.storage.listing import Listing


@dataclass(frozen=True, slots=True)
class Layout:
    """A way in which files make up a checkpoint: how to tell it, how to read its catalogue.

    What recognises it looks at names only; `open` may say with an InputError why it is none.
    """

    name: str
    recognises: Callable[[Listing], bool]
    open: Callable[[Listing, Asked], Checkpoint]
    about: About


@dataclass(frozen=True, slots=True)
class FileSet:
    """A way in which files of other formats make up a checkpoint, told by how they are named."""

    name: str
    about: About


def _refuse(words: str, listing: Listing, _asked: Asked) -> NoReturn:
    raise UnsupportedFormatError(listing.path, f"is {words}, which gradtool does not read")


def _unread(name: str, words: str, *markers: str) -> Layout:
    """A layout that is known by one of several entries in it, and not read."""
    return Layout(
        name,
        lambda listing: any(marker in listing.names for marker in markers),
        partial(_refuse, words),
        About(words, markers, reads=False, clips=False),
    )


LAYOUTS: Final = (
    Layout(
        "torch_dcp",
        torch_dcp.recognises,
        torch_dcp.open_torch_dcp,
        About("torch.distributed.checkpoint", torch_dcp.MARKERS),
    ),
    _unread("orbax", "an Orbax checkpoint", "_CHECKPOINT_METADATA", "manifest.ocdbt"),
    Layout(
        "hf_dcp",
        hf_dcp.recognises,
        hf_dcp.open_hf_dcp,
        About("torch's HuggingFaceStorageWriter", hf_dcp.MARKERS),
    ),
    Layout(
        "ds_universal",
        universal.recognises,
        universal.open_universal,
        About("DeepSpeed's universal checkpoints", universal.MARKERS),
    ),
    Layout(
        zero.FORMAT,
        zero.recognises,
        zero.open_zero,
        About("DeepSpeed's ZeRO, stages 1 to 3", zero.MARKERS),
    ),
    Layout(
        "directory",
        lambda _: True,
        directory.open_directory,
        About("files that belong together", ("no other marker",)),
    ),
)
"""Every layout, in the order in which a directory is held against them."""

SETS: Final = (
    FileSet(
        "sharded",
        About("shards, with an index or without", ("*.index.json", "*-#####-of-#####.*")),
    ),
    FileSet(
        "ranks",
        About("a file or a folder for each rank", ("*rank#*", "*rank_#*", "*rank=#*")),
    ),
)
"""What files make up in a directory of no layout, or where they are named together."""


def open_layout(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of a directory, by the first layout that recognises it."""
    layout = next(row for row in LAYOUTS if row.recognises(listing))
    return layout.open(listing, asked)
