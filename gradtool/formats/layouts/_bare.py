"""Files of one bare tensor each, which is called as its file: modules of a model, or steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import first_of
from gradtool.core.names import every_name
from gradtool.errors import InputError
from gradtool.formats.file_kinds import ends_as_a_section, is_bare
from gradtool.formats.layouts._contents import Part, open_entry, stem_of
from gradtool.formats.layouts.arrangement import Unit, runs_among
from gradtool.formats.layouts.asked import Asked
from gradtool.storage.listing import Listing


def are_bare_modules(
    listing: Listing, run: Sequence[Unit], units: Sequence[Unit], asked: Asked
) -> bool:
    """Whether files of `run`, whose names differ in a number, are modules and no steps.

    They are if each holds one bare tensor, nothing in the names speaks of steps or whole dumps, and
    shapes differ, or files of other names hold bare tensors too: `conv1.npy`, `conv2.npy`,
    `fc.npy`. Raises InputError for what cannot be opened.
    """
    if any(unit.counts_steps or ends_as_a_section(stem_of(unit.name)) for unit in run):
        return False
    first = _bare(listing, run[0], asked)
    if first is None:
        return False
    suffix = os.path.splitext(run[0].name)[1]
    names = {unit.name for unit in run}
    others = (unit for unit in units if unit.name not in names and unit.name.endswith(suffix))
    for unit in others:
        with suppress(InputError):
            if _bare(listing, unit, asked) is not None:
                return True
    for unit in run[1:]:
        one = _bare(listing, unit, asked)
        if one is None or _shapes(one) != _shapes(first):
            return one is not None
    return False


def notes_on_bare(parts: Sequence[Part]) -> Iterator[str]:
    """Whose tensors are called as their files."""
    bare = [part.name for part in parts if is_bare(part.checkpoint, stem_of(part.name))]
    if bare:
        yield f"one tensor in each file, called as the file: {first_of(bare)}"


def notes_on_modules(units: Sequence[Unit], parts: Sequence[Part]) -> Iterator[str]:
    """Which files might pass for steps, and are taken for modules."""
    bare = {part.name for part in parts if is_bare(part.checkpoint, stem_of(part.name))}
    runs = runs_among([unit for unit in units if unit.name in bare])
    numbered = [unit.name for run in runs for unit in run]
    if numbered:
        yield f"taken for modules of one model, not for steps: {first_of(numbered)}"


def _bare(listing: Listing, unit: Unit, asked: Asked) -> Checkpoint | None:
    """The catalogue of a file with one bare tensor; None for anything else."""
    if unit.kind != "entry" or listing.is_directory(unit.name):
        return None
    found = open_entry(listing, unit.name, replace(asked, wanted=every_name))
    return found if is_bare(found, stem_of(unit.name)) else None


def _shapes(found: Checkpoint) -> list[tuple[int, ...]]:
    return [spec.shape for spec in found.tensors]
