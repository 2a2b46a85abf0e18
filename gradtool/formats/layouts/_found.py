"""Checkpoints found in and below a directory, of which none was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.errors import (
    EmptyDumpError,
    FileAccessError,
    FoundCheckpoint,
    InputError,
    SameTensorsError,
    SeveralCheckpointsError,
)
from gradtool.formats.files import SUFFIXES, format_of
from gradtool.formats.layouts._contents import open_entry
from gradtool.formats.layouts.arrangement import Unit, glob_of, runs_among
from gradtool.formats.layouts.asked import Asked
from gradtool.storage.listing import Listing

MOST_NAMES: Final = 100_000
"""Names that are looked at to find out whether a folder holds anything."""

_MARKERS: Final = (".index.json", ".metadata", ".distcp", "_checkpoint_metadata", "manifest.ocdbt")


def several(
    path: str, units: Sequence[Unit], found: Sequence[FoundCheckpoint]
) -> SeveralCheckpointsError:
    """The error that lists them; steps of a run if their names differ in the step only."""
    runs = runs_among(units)
    is_run = len(runs) == 1 and len(runs[0]) == len(units)
    in_order = sorted(found, key=lambda one: (one.step is None, one.step or 0))
    return SeveralCheckpointsError(path, "run" if is_run else "checkpoints", in_order)


def found_in(listing: Listing, units: Iterable[Unit]) -> Iterator[FoundCheckpoint]:
    """The units of files, by names, sizes, and what the first file of each begins with."""
    for unit in units:
        sizes = [listing.size(entry) for entry in unit.entries]
        layout = format_of(listing.at(unit.entries[0]))
        yield FoundCheckpoint(glob_of(listing, unit), unit.step, layout, len(sizes), sum(sizes))


def found_apart(listing: Listing, units: Iterable[Unit], asked: Asked) -> Iterator[FoundCheckpoint]:
    """One for each unit: of files as `found_in` has them, of a folder by what it is as a whole."""
    for unit in units:
        if not listing.is_directory(unit.entries[0]):
            yield from found_in(listing, [unit])
            continue
        path = glob_of(listing, unit)
        try:
            checkpoint = open_entry(listing, unit.entries[0], asked)
        except (InputError, SameTensorsError, SeveralCheckpointsError):
            yield FoundCheckpoint(path, unit.step, None, 0, 0)
        else:
            yield _found(path, unit, checkpoint)


def may_hold_tensors(listing: Listing, folder: str, asked: Asked) -> bool:
    """Whether a folder, or one below it that is looked into, has a file so named."""
    waiting = [(listing.folder(folder), asked.levels)]
    looked_at = 0
    while waiting:
        place, levels = waiting.pop()
        names: tuple[str, ...] = ()
        with suppress(FileAccessError):  # a folder of the system's, say
            names = place.names if levels > 0 else ()
        looked_at += len(names)
        if looked_at > MOST_NAMES:
            return True
        for name in names:
            if name.lower().endswith((*SUFFIXES, *_MARKERS)):
                return True
            if place.is_directory(name) and not place.is_link(name):
                waiting.append((place.folder(name), levels - 1))
    return False


def found_below(
    listing: Listing, folders: Iterable[Unit], asked: Asked
) -> Iterator[FoundCheckpoint]:
    """What the folders hold; nothing of those that hold no tensor file."""
    for unit in folders:
        for folder in unit.entries:
            if may_hold_tensors(listing, folder, asked):
                with suppress(EmptyDumpError):
                    yield from _in_folder(listing, folder, unit, asked)


def _in_folder(
    listing: Listing, folder: str, unit: Unit, asked: Asked
) -> Iterator[FoundCheckpoint]:
    path = listing.at(folder)
    try:
        checkpoint = open_entry(listing, folder, asked)
    except SeveralCheckpointsError as error:
        yield from error.found
    except EmptyDumpError:
        raise
    except (InputError, SameTensorsError):
        yield FoundCheckpoint(path, unit.step, None, 0, 0)
    else:
        yield _found(path, unit, checkpoint)


def _found(path: str, unit: Unit, checkpoint: Checkpoint) -> FoundCheckpoint:
    step = unit.step if checkpoint.step is None else checkpoint.step
    files = checkpoint.files
    return FoundCheckpoint(path, step, checkpoint.format, len(files), checkpoint.nbytes)
