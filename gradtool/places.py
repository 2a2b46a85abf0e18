"""Where dumps lie, as users name them: paths, or several paths that make up one dump."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from gradtool.errors import FoundCheckpoint, InputError
from gradtool.formats.layouts._steps import missing_beside
from gradtool.formats.layouts.arrangement import glob_of
from gradtool.formats.named import units_of
from gradtool.storage.listing import Listing


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A dump of which what is named beside it tells that a part is missing.

    `path` is what there is of it, `error` says what is missing.
    """

    path: str
    error: InputError


Place: TypeAlias = str | tuple[str, ...] | Incomplete
"""A path or a glob, or the paths of files that make up one dump: shards, ranks."""


def is_path(source: object) -> TypeGuard[str | bytes | os.PathLike[str]]:
    """Whether a source is a path."""
    return isinstance(source, str | bytes | os.PathLike)


def place_of(source: object) -> Place | None:
    """The place that a source names: a path, or a list or tuple of such; None for arrays."""
    if isinstance(source, Incomplete):
        return source
    if is_path(source):
        return os.fsdecode(source)
    if isinstance(source, list | tuple) and source and all(map(is_path, source)):
        return tuple(map(os.fsdecode, source))
    return None


def label_of(place: Place) -> str:
    """How a place is called; several dumps never as one of them is."""
    if isinstance(place, str):
        return place
    if isinstance(place, Incomplete):
        return place.path
    units = units_of(place)
    if len(units) == 1:
        return glob_of(Listing(""), units[0])
    return f"{place[0]} and {len(place) - 1:,} more"


def places_among(paths: Iterable[str]) -> list[Place]:
    """The dumps that paths and globs name together: sets of shards and ranks are one each.

    One that has fewer ranks than other steps is incomplete, be it a set or a folder.
    """
    here = Listing("")
    units = units_of(paths)
    missing = missing_beside(here, units)
    return [
        Incomplete(glob_of(here, unit), missing[unit.name])
        if unit.name in missing
        else unit.entries
        if unit.kind != "entry"
        else glob_of(here, unit)
        for unit in units
    ]


def place_of_found(found: FoundCheckpoint) -> Place:
    """The place of one of several checkpoints that a path holds."""
    return found.path if found.error is None else Incomplete(found.path, found.error)


def grouped(sources: Iterable[object]) -> list[object]:
    """The sources, with the paths among them sorted as `places_among` does."""
    given = list(sources)
    paths = [os.fsdecode(source) for source in given if is_path(source)]
    return [*places_among(paths), *(source for source in given if not is_path(source))]
