"""From a path to a `Checkpoint`: `files` reads single ones, `layouts` what many make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from gradtool.core.checkpoint import Checkpoint, RanksMode
from gradtool.core.dtypes import DType
from gradtool.core.names import NameFilter, every_name, no_name
from gradtool.errors import FileAccessError, UnknownFormatError
from gradtool.formats.files import open_file
from gradtool.formats.layouts import open_layout
from gradtool.formats.layouts._found import found_apart, several
from gradtool.formats.layouts.arrangement import (
    note_on_part,
)
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.directory import open_unit
from gradtool.formats.layouts.sharded_index import is_index_name, open_index
from gradtool.formats.named import units_named
from gradtool.storage.listing import (
    Listing,
    expanded,
    is_glob,
    listing_around,
    listing_of,
)


@dataclass(frozen=True, slots=True)
class Opening:
    """How files are to be read.

    Attributes:
        raw_dtype: what NumPy's nameless `V2` elements are.
        wanted: the names that are asked for; others may be left out of the catalogue.
        ranks, replicated, join: see `Asked`.
    """

    raw_dtype: DType | None = None
    wanted: NameFilter = every_name
    ranks: RanksMode = "auto"
    replicated: NameFilter = no_name
    join: bool = False

    @property
    def asked(self) -> Asked:
        """The same of a directory."""
        return Asked(
            open_file=partial(open_file, raw_dtype=self.raw_dtype),
            open_folder=open_layout,
            wanted=self.wanted,
            ranks=self.ranks,
            replicated=self.replicated,
            join=self.join,
        )


def open_checkpoint(path: str, opening: Opening = Opening()) -> Checkpoint:
    """The catalogue of whatever lies at `path`: a file, a directory, an index file, or a glob.

    Headers are read, tensor data is not, and nothing found there is run. All that is there is
    checked; what is not wanted may be left out of the catalogue, which then has its name. Raises
    InputError, or SeveralCheckpointsError for a directory or glob that holds more than one.
    """
    listing = listing_of(path)
    if listing is not None:
        return open_layout(listing, opening.asked)
    if is_index_name(path):
        open_one = partial(open_file, raw_dtype=opening.raw_dtype, wanted=opening.wanted)
        return open_index(*listing_around(path), open_one)
    matches = expanded(path)
    if matches != [path]:
        return open_together(path, [path], opening)
    if is_glob(path):
        raise FileAccessError(path, "matches nothing")
    checkpoint = open_file(path, raw_dtype=opening.raw_dtype, wanted=opening.wanted)
    if checkpoint is None:
        raise UnknownFormatError(
            path,
            "is in no format that gradtool knows",
            hint="`gradtool formats` lists what it reads",
        )
    alone = note_on_part(path)
    return replace(checkpoint, essential_notes=alone) if alone else checkpoint


def open_together(label: str, paths: Sequence[str], opening: Opening) -> Checkpoint:
    """The one checkpoint that files or folders make up together, as `label`.

    Raises as `open_checkpoint`; SeveralCheckpointsError where they are more than one.
    """
    units = units_named(label, paths)
    if len(units) > 1:
        raise several(label, list(found_apart(Listing(""), units, opening.asked)))
    (unit,) = units
    if unit.kind == "entry":
        return open_checkpoint(unit.name, opening)
    return replace(open_unit(Listing(""), unit, opening.asked), path=label)
