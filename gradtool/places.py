"""Where dumps lie, as users name them: paths, or several paths that make up one dump."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias, TypeGuard

from gradtool.formats import units_of
from gradtool.formats.layouts.arrangement import glob_of
from gradtool.storage.listing import Listing

Place: TypeAlias = str | tuple[str, ...]
"""A path or a glob, or the paths of files that make up one dump: shards, ranks."""


def is_path(source: object) -> TypeGuard[str | bytes | os.PathLike[str]]:
    """Whether a source is a path."""
    return isinstance(source, str | bytes | os.PathLike)


def place_of(source: object) -> Place | None:
    """The place that a source names: a path, or a list or tuple of such; None for arrays."""
    if is_path(source):
        return os.fsdecode(source)
    if isinstance(source, list | tuple) and source and all(map(is_path, source)):
        return tuple(map(os.fsdecode, source))
    return None


def label_of(place: Place) -> str:
    """How a place is called."""
    if isinstance(place, str):
        return place
    units = units_of(place)
    return glob_of(Listing(""), units[0]) if len(units) == 1 else place[0]


def places_among(paths: Iterable[str]) -> list[Place]:
    """The dumps that paths and globs name together: sets of shards and ranks are one each.

    One that has fewer ranks than other steps is named by its glob: opening that says which.
    """
    return [
        unit.entries if unit.kind != "entry" and not unit.is_short else glob_of(Listing(""), unit)
        for unit in units_of(paths)
    ]


def grouped(sources: Iterable[object]) -> list[object]:
    """The sources, with the paths among them sorted as `places_among` does."""
    given = list(sources)
    paths = [os.fsdecode(source) for source in given if is_path(source)]
    return [*places_among(paths), *(source for source in given if not is_path(source))]
