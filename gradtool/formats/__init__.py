"""From a path to a `Checkpoint`: `files` reads single ones, `layouts` what many make up."""

from __future__ import annotations

from functools import partial

from gradtool.core.dtypes import DType
from gradtool.core.names import NameFilter, every_name
from gradtool.core.tensors import Checkpoint
from gradtool.errors import UnknownFormatError
from gradtool.formats.files import open_file
from gradtool.formats.layouts import open_layout
from gradtool.formats.layouts.sharded_index import is_index_name, open_index
from gradtool.storage.listing import listing_around, listing_of


def open_checkpoint(
    path: str, raw_dtype: DType | None = None, wanted: NameFilter = every_name
) -> Checkpoint:
    """The catalogue of whatever lies at `path`: a file, a directory or an index file.

    `raw_dtype` says what NumPy's nameless `V2` elements are. Headers are read, tensor data is
    not, and nothing found there is run. All that is there is checked; what is not `wanted` may be
    left out of the catalogue, which then has its name. Raises InputError.
    """
    open_one = partial(open_file, raw_dtype=raw_dtype)
    listing = listing_of(path)
    if listing is not None:
        return open_layout(listing, open_one, wanted)
    if is_index_name(path):
        return open_index(*listing_around(path), partial(open_one, wanted=wanted))
    checkpoint = open_one(path, wanted=wanted)
    if checkpoint is None:
        raise UnknownFormatError(
            path,
            "is in no format that gradtool knows",
            hint="it reads safetensors, torch (zip), npz and npy files, and directories of them",
        )
    return checkpoint
