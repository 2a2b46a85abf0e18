"""Steps of a run beside each other: what one of them lacks that others have."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress

from gradtool.errors import CorruptFileError, FileAccessError
from gradtool.formats.files import is_tensor_file
from gradtool.formats.layouts.arrangement import (
    Unit,
    arranged,
    counts_ranks,
    glob_of,
    runs_among,
)
from gradtool.formats.layouts.names.gaps import fault_in
from gradtool.storage.listing import Listing


def missing_beside(listing: Listing, units: Sequence[Unit]) -> dict[str, CorruptFileError]:
    """What units lack that their names, or other steps among them, tell of, by their names.

    A rank that stopped early leaves steps behind that look whole, each by itself.
    """
    found = {}
    for unit in units:
        if unit.kind == "entry":
            continue
        fault = fault_in(unit, glob_of(listing, unit), listing.path)
        if fault is not None:
            found[unit.name] = fault
    folders = [unit for unit in units if unit.kind == "entry" and listing.is_directory(unit.name)]
    for run in _runs_of_folders(folders):
        found |= _missing_ranks(listing, run)
    return found


def lacking_tensors(names: Sequence[str], holding: Container[str]) -> Iterator[str]:
    """Of folders those that hold no tensor file, and are steps of a run that otherwise do."""
    for run in _runs_of_folders([Unit(name) for name in names]):
        steps = [unit.name for unit in run]
        if any(name in holding for name in steps):
            yield from (name for name in steps if name not in holding)


def _runs_of_folders(folders: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """The steps among folders, those of one run in one place together."""
    places: dict[str, list[Unit]] = {}
    for unit in folders:
        place, name = os.path.split(unit.name.rstrip("/"))
        if Unit(name).counts_steps or name.isdecimal():
            places.setdefault(place, []).append(unit)
    for steps in places.values():
        yield from runs_among(steps)


def _missing_ranks(listing: Listing, run: Sequence[Unit]) -> Iterator[tuple[str, CorruptFileError]]:
    """The steps of which others have more ranks, by the names of their folders."""
    steps = {os.path.basename(unit.name.rstrip("/")): unit.name for unit in run}
    names = [
        f"{step}/{name}" for step, folder in steps.items() for name in _ranks_in(listing, folder)
    ]
    for unit in arranged(names):
        folder = steps[unit.name.partition("/")[0]]
        if not unit.is_short:
            continue
        path = listing.at(folder)
        fault = fault_in(unit, path, os.path.dirname(path.rstrip("/")))
        if fault is not None:
            yield folder, fault


def _ranks_in(listing: Listing, folder: str) -> Iterator[str]:
    """The files and folders of ranks in a folder, by their names."""
    inside = listing.folder(folder)
    names: tuple[str, ...] = ()
    with suppress(FileAccessError):  # which opening it will raise again
        names = inside.names
    for name in names:
        holds = is_tensor_file(name) or inside.is_directory(name)
        if holds and counts_ranks(name) and not name.startswith("."):
            yield name
