"""From a path to a `Checkpoint`: `files` reads single ones, `layouts` what many make up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    Unit,
    arranged_below,
    glob_of,
    note_on_part,
)
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.directory import open_unit
from gradtool.formats.layouts.names.further import told_apart
from gradtool.formats.layouts.sharded_index import is_index_name, open_index, shards_named_by
from gradtool.storage.listing import (
    Listing,
    expanded,
    is_glob,
    listing_around,
    listing_of,
    place_in_common,
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


def units_named(label: str, paths: Iterable[str]) -> list[Unit]:
    """The units of paths that were named as `label`: of a list's glob for a set, that set alone."""
    units = units_of(paths)
    # Such a glob may fit further files.
    return [unit for unit in units if glob_of(Listing(""), unit) == label] or units


def units_of(paths: Iterable[str]) -> list[Unit]:
    """What paths and globs name together: sets of shards and of ranks, all else by itself.

    One path that is one file is that file, whatever its name tells of others; what is named with
    others, or by a glob, is held against all that names tell, as in a directory. Files that an
    index among them names are its; of several names of one file one counts. In the order of steps
    where all have one.
    """
    here = Listing("")
    paths = list(paths)
    given = [name for path in paths for name in expanded(path)]
    claimed = {shard for name in given if is_index_name(name) for shard in shards_named_by(name)}
    there = filter(here.exists, dict.fromkeys(given))
    others = {*told_apart(here, there, filter(here.exists, claimed)).further, *claimed}
    names = [name for name in given if name not in others]
    place = place_in_common(paths)
    if not all(name.startswith(place) for name in names):
        place = ""  # `a//b`, whose matches have one slash
    found = (
        []
        if list(dict.fromkeys(given)) == paths[:1]
        else arranged_below(place, list(dict.fromkeys(names)))
    )
    sets = {entry: unit for unit in found if _is_set(here, unit) for entry in unit.entries}
    units: dict[object, Unit] = {}
    for number, name in enumerate(names):
        if name in sets:
            units.setdefault(sets[name].name, sets[name])
        else:
            units[number] = Unit(name)  # what is named twice is meant twice
    in_order = list(units.values())
    if all(unit.step is not None for unit in in_order):
        in_order.sort(key=lambda unit: unit.step or 0)
    return in_order


def _is_set(listing: Listing, unit: Unit) -> bool:
    """Whether a unit is a set, of which but one member may be there; folders are no shards."""
    is_folder = len(unit.entries) == 1 and listing.is_directory(unit.entries[0])
    return unit.kind == "rank" or (unit.kind == "shard" and not is_folder)
