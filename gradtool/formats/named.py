"""What several paths and globs name together: one checkpoint, or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradtool.core.file_names import is_unfinished
from gradtool.core.names import no_name
from gradtool.formats.files import open_file
from gradtool.formats.layouts._noted import with_noted_ranks
from gradtool.formats.layouts.arrangement import Unit, arranged_below, glob_of
from gradtool.formats.layouts.names.further import told_apart
from gradtool.formats.layouts.sharded_index import is_index_name, shards_named_by
from gradtool.storage.listing import Listing, expanded, place_in_common


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
    where each has one of its own.
    """
    here = Listing("")
    paths = list(paths)
    given = [name for path in paths for name in _named_by(here, path)]
    claimed = {shard for name in given if is_index_name(name) for shard in shards_named_by(name)}
    there = filter(here.exists, dict.fromkeys(given))
    others = {*told_apart(here, there, filter(here.exists, claimed)).further, *claimed}
    names = [name for name in given if name not in others]
    is_one_file = list(dict.fromkeys(given)) == paths[:1]
    found = [] if is_one_file else _together(here, place_in_common(paths), names)
    sets = {entry: unit for unit in found if _is_set(here, unit) for entry in unit.entries}
    units: dict[object, Unit] = {}
    for number, name in enumerate(names):
        if name in sets:
            units.setdefault(sets[name].name, sets[name])
        else:
            units[number] = Unit(name)  # what is named twice is meant twice
    in_order = list(units.values())
    steps = {unit.step for unit in in_order}
    if None not in steps and len(steps) == len(in_order):
        in_order.sort(key=lambda unit: unit.step or 0)
    return in_order


def _named_by(listing: Listing, path: str) -> list[str]:
    """What a path or a glob names; of a glob no saves that were not finished, if there is more."""
    matches = expanded(path)
    start = len(place_in_common([path]))
    finished = [name for name in matches if not _is_unfinished(listing, name, start)]
    return finished or matches


def _is_unfinished(listing: Listing, name: str, start: int) -> bool:
    *folders, last = name[start:].split("/")
    if any(map(is_unfinished, folders)):
        return True
    return is_unfinished(last) and listing.is_directory(name)


def _together(listing: Listing, place: str, names: Sequence[str]) -> list[Unit]:
    """What names make up together, and what the files note, all of which are in one place."""
    is_below = all(name.startswith(place) for name in names)
    # Of `a//b*` the matches have one slash.
    found = arranged_below(place if is_below else "", list(dict.fromkeys(names)))
    return with_noted_ranks(listing, found, _writer_of)


def _writer_of(path: str) -> tuple[int, int] | None:
    found = open_file(path, raw_dtype=None, wanted=no_name)
    return None if found is None else found.writer


def _is_set(listing: Listing, unit: Unit) -> bool:
    """Whether a unit is a set, of which but one member may be there; folders are no shards."""
    is_folder = len(unit.entries) == 1 and listing.is_directory(unit.entries[0])
    return unit.kind == "rank" or (unit.kind == "shard" and not is_folder)
