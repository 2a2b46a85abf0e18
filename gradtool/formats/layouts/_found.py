"""Checkpoints found in and below a directory, of which none was chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.file_names import in_order_of_steps
from gradtool.errors import (
    EmptyDumpError,
    FileAccessError,
    FoundCheckpoint,
    InputError,
    SameTensorsError,
    SeveralCheckpointsError,
)
from gradtool.formats.files import format_of, is_tensor_file
from gradtool.formats.layouts._contents import open_entry
from gradtool.formats.layouts._steps import lacking_tensors, missing_beside
from gradtool.formats.layouts.arrangement import Unit, are_one_run, glob_of
from gradtool.formats.layouts.asked import Asked
from gradtool.storage.listing import MOST_NAMES, Listing

_MARKERS: Final = (".index.json", ".metadata", ".distcp", "_checkpoint_metadata", "manifest.ocdbt")


def several(path: str, found: Sequence[FoundCheckpoint]) -> SeveralCheckpointsError:
    """The error that lists them; steps of a run if their paths differ in the step only."""
    in_order = in_order_of_steps(found, lambda one: one.step, lambda one: one.path)
    kind = "run" if _are_steps([one.path for one in found]) else "checkpoints"
    return SeveralCheckpointsError(path, kind, in_order)


def _are_steps(paths: Sequence[str]) -> bool:
    """Whether paths differ in the step only: the steps of each of several runs are no run."""
    split = [os.path.split(path) for path in paths]
    if len({folder for folder, _ in split}) == 1:
        paths = [name for _, name in split]  # whose numbers are known from when they were sorted
    places = zip(*(path.split("/") for path in paths), strict=False)
    return (
        are_one_run([Unit(path) for path in paths])
        and sum(len(set(names)) > 1 for names in places) == 1
    )


def found_in(
    listing: Listing, units: Sequence[Unit], *, lacking: Mapping[str, InputError]
) -> Iterator[FoundCheckpoint]:
    """The units of files, by names, sizes, and what the first file of each begins with.

    `lacking` has what is wrong with some of them, by their names.
    """
    for unit in units:
        sizes = [listing.size(entry) for entry in unit.entries]
        error = lacking.get(unit.name)
        layout = None if error else format_of(listing.at(unit.entries[0]))
        size = len(sizes), sum(sizes)
        yield FoundCheckpoint(glob_of(listing, unit), unit.step, layout, *size, error)


def found_apart(listing: Listing, units: Sequence[Unit], asked: Asked) -> Iterator[FoundCheckpoint]:
    """One for each unit: of files as `found_in` has them, of a folder by what it is as a whole."""
    lacking = lacking_among(listing, units, asked)
    for unit in units:
        if not listing.is_directory(unit.entries[0]):
            yield from found_in(listing, [unit], lacking=lacking)
            continue
        path, error = glob_of(listing, unit), lacking.get(unit.name)
        try:
            if error is not None:
                raise error
            checkpoint = open_entry(listing, unit.entries[0], asked)
        except (InputError, SameTensorsError, SeveralCheckpointsError):
            yield FoundCheckpoint(path, unit.step, None, 0, 0, error)
        else:
            yield _found(path, unit, checkpoint)


def lacking_among(listing: Listing, units: Sequence[Unit], asked: Asked) -> dict[str, InputError]:
    """What is wrong with units that lack what others have; nothing where each is read by itself."""
    return {} if asked.ranks == "each" else dict(missing_beside(listing, units))


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
            if is_tensor_file(name) or name.lower().endswith(_MARKERS):
                return True
            if place.is_directory(name) and not place.is_link(name):
                waiting.append((place.folder(name), levels - 1))
    return False


def found_below(
    listing: Listing, folders: Sequence[str], links: Sequence[str], asked: Asked
) -> SeveralCheckpointsError:
    """What the folders hold: nothing of those that hold no tensor file, if they are no steps.

    `links` are directories that are not followed.
    """
    holding = [name for name in folders if may_hold_tensors(listing, name, asked)]
    lacking = lacking_among(listing, [Unit(name) for name in holding], asked)
    found: list[FoundCheckpoint] = []
    kinds = []
    for name in holding:
        with suppress(EmptyDumpError):
            inside = _in_folder(listing, Unit(name), lacking.get(name), asked)
            found += inside.found
            kinds.append(inside.kind)
    for name in lacking_tensors([*folders, *links], holding):
        path, problem = listing.at(name), "is a link to a directory, not followed"
        error = FileAccessError(path, problem) if name in links else None
        found.append(FoundCheckpoint(path, Unit(name).step, None, 0, 0, error))
        kinds.append("run")
    listed = several(listing.path, found)
    if len(kinds) == 1:  # what it is by what its files note, say
        listed = SeveralCheckpointsError(listing.path, kinds[0], listed.found)
    return listed


def _in_folder(
    listing: Listing, unit: Unit, lack: InputError | None, asked: Asked
) -> SeveralCheckpointsError:
    path = listing.at(unit.name)
    try:
        if lack is not None:
            found = FoundCheckpoint(path, unit.step, None, 0, 0, lack)
        else:
            found = _found(path, unit, open_entry(listing, unit.name, asked))
    except SeveralCheckpointsError as error:
        return error
    except EmptyDumpError:
        raise
    except (InputError, SameTensorsError):
        found = FoundCheckpoint(path, unit.step, None, 0, 0)
    return SeveralCheckpointsError(path, "checkpoints", [found])


def _found(path: str, unit: Unit, checkpoint: Checkpoint) -> FoundCheckpoint:
    step = unit.step if checkpoint.step is None else checkpoint.step
    files = checkpoint.files
    return FoundCheckpoint(path, step, checkpoint.format, len(files), checkpoint.nbytes)
