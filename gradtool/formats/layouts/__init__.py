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
from gradtool.formats.layouts import directory
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.dcp import hf_dcp, torch_dcp
from gradtool.storage.listing import Listing


@dataclass(frozen=True, slots=True)
class Layout:
    """A way in which files make up a checkpoint: how to tell it, how to read its catalogue.

    What recognises it looks at names only; `open` may say with an InputError why it is none.
    """

    name: str
    recognises: Callable[[Listing], bool]
    open: Callable[[Listing, Asked], Checkpoint]


def _unread(words: str, listing: Listing, _asked: Asked) -> NoReturn:
    raise UnsupportedFormatError(listing.path, f"is {words}, which gradtool does not read")


def _with(marker: str, name: str, words: str) -> Layout:
    """A layout that is known by a file in it, and not read."""
    return Layout(name, lambda listing: marker in listing.names, partial(_unread, words))


LAYOUTS: Final = (
    Layout("torch_dcp", torch_dcp.recognises, torch_dcp.open_torch_dcp),
    _with("_CHECKPOINT_METADATA", "orbax", "an Orbax checkpoint"),
    _with("manifest.ocdbt", "orbax", "an Orbax checkpoint"),
    Layout("hf_dcp", hf_dcp.recognises, hf_dcp.open_hf_dcp),
    Layout("directory", lambda _: True, directory.open_directory),
)
"""Every layout, in the order in which a directory is held against them."""


def open_layout(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of a directory, by the first layout that recognises it."""
    layout = next(row for row in LAYOUTS if row.recognises(listing))
    return layout.open(listing, asked)
