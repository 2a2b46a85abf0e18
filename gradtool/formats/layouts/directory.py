"""A directory without a marker: what its files and folders make up is told by names and contents.

It is one checkpoint or refused; what it holds is never simply added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import first_of
from gradtool.core.file_names import in_order_of_steps
from gradtool.errors import (
    FoundCheckpoint,
    InputError,
    MissingShardError,
    SeveralCheckpointsError,
    UnsupportedFormatError,
    UsageError,
)
from gradtool.formats.layouts._bare import are_bare_modules, notes_on_bare, notes_on_modules
from gradtool.formats.layouts._contents import (
    Contents,
    Part,
    contents_of,
    noted_step,
    open_entry,
    open_others,
)
from gradtool.formats.layouts._found import (
    found_apart,
    found_below,
    found_in,
    lacking_among,
    may_hold_tensors,
    several,
)
from gradtool.formats.layouts._joined import joined, repeated_name
from gradtool.formats.layouts._nearest import nothing_in, refuse_megatron
from gradtool.formats.layouts._noted import with_noted_ranks
from gradtool.formats.layouts.arrangement import (
    Unit,
    are_modules,
    arranged,
    counts_ranks,
    glob_of,
    rank_labels,
    runs_among,
)
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.names.gaps import refuse_faults
from gradtool.formats.layouts.ranks import joined_ranks
from gradtool.formats.layouts.together.files import (
    joined_files,
    refuse_one_model_twice,
    refuse_same_tensors,
)
from gradtool.formats.layouts.together.kinds import kinds_apart
from gradtool.storage.listing import Listing


def open_directory(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of the one checkpoint that a directory is.

    Raises:
        EmptyDumpError: no file holds tensors, here or below.
        SeveralCheckpointsError: it holds the steps of a run, or other checkpoints, or folders do.
        SameTensorsError: two files hold the same tensors, and names do not tell why, or are one
            model.
        MissingShardError: a shard or a rank is missing.
        InputError: a file that is named like a tensor file is broken, or is none.
    """
    refuse_megatron(listing)
    contents = contents_of(listing, asked)
    named = arranged(contents.files)
    units = with_noted_ranks(listing, named, lambda name: open_entry(listing, name, asked).writer)
    if not asked.join:
        names = [part.name for part in contents.parts] + [unit.name for unit in units]
        refuse_one_model_twice(listing.path, names)
        if _has_runs(listing, units, asked):
            raise _all_found(listing, units, contents, asked)
    parts = [
        *contents.parts,
        *(Part(unit.name, open_unit(listing, unit, asked)) for unit in units),
        *(Part(name, open_entry(listing, name, asked)) for name in contents.part_folders),
        *open_others(listing, contents, asked),
    ]
    if not parts:
        return _from_folders(listing, contents, asked)
    _refuse_ranks_of_two_kinds(listing, units, contents, asked)
    below = _notes_on_folders(listing, contents, asked)
    notes = list(contents.notes())
    if len(parts) == 1:
        whole = parts[0].checkpoint
        whole = replace(whole, path=listing.path, notes=(*whole.notes, *notes))
    else:
        _refuse_steps(listing, units, parts)
        whole = _together(listing, units, parts, notes, asked)
    return replace(
        whole,
        step=noted_step(listing) if whole.step is None else whole.step,
        essential_notes=(*whole.essential_notes, *below),
    )


def open_unit(listing: Listing, unit: Unit, asked: Asked) -> Checkpoint:
    """The catalogue of a file or folder, or of a set of such, complete with all its numbers."""
    if unit.kind == "entry":
        return open_entry(listing, unit.name, asked)
    path = glob_of(listing, unit)
    if unit.kind == "rank" and asked.ranks == "each":
        apart = found_apart(listing, unit.members, asked)
        labelled = zip(apart, rank_labels(unit), strict=True)
        found = [one._replace(rank=label) for one, label in labelled]
        raise SeveralCheckpointsError(path, "ranks", found)
    refuse_faults(unit, listing.path or path, listing.path)
    try:
        members = [open_unit(listing, member, asked) for member in unit.members]
    except SeveralCheckpointsError as error:
        # One of them has more than one, and the others must not be forgotten.
        raise _several_in(listing, unit, asked) from error
    if unit.kind == "shard" and repeated_name(members) is None:
        # In the order of their numbers writers cut a model.
        return joined(path, "sharded", members, notes=["the shards have no index"])
    return joined_ranks(path, unit, members, asked)


def _together(
    listing: Listing, units: Sequence[Unit], parts: Sequence[Part], notes: list[str], asked: Asked
) -> Checkpoint:
    prefix = asked.join or are_modules(units)
    kinds = kinds_apart(parts)
    alike = set() if prefix else refuse_same_tensors(listing.path, parts, kinds)
    clashes = prefix and repeated_name(part.checkpoint for part in parts) is not None
    notes += notes_on_bare(parts)
    whole = joined_files(listing.path, parts, kinds, notes, prefix=clashes, alike=alike)
    return replace(whole, essential_notes=(*whole.essential_notes, *notes_on_modules(units, parts)))


def _has_runs(listing: Listing, units: Sequence[Unit], asked: Asked) -> bool:
    """Whether files, by their names, are steps of a run.

    The first of each group tells: files without gradients are none, nor are modules.
    """
    for run in runs_among(units):
        try:
            first = open_unit(listing, run[0], asked)
            if (first.tensors or first.left_out) and not are_bare_modules(
                listing, run, units, asked
            ):
                return True
        except (InputError, UsageError):  # which opening it alone will raise again
            return True
    return False


def _all_found(
    listing: Listing, units: Sequence[Unit], contents: Contents, asked: Asked
) -> SeveralCheckpointsError:
    """All checkpoints in a directory and below it."""
    lacking = lacking_among(listing, units, asked)
    below = found_below(listing, contents.folders, _links(listing, contents), asked)
    return several(listing.path, [*found_in(listing, units, lacking=lacking), *below.found])


def _links(listing: Listing, contents: Contents) -> list[str]:
    """The links to directories in one: these are not followed."""
    return [name for name in contents.unread if listing.is_link(name)]


def _refuse_steps(listing: Listing, units: Sequence[Unit], parts: Sequence[Part]) -> None:
    """SeveralCheckpointsError for files that note different steps."""
    paths = {unit.name: glob_of(listing, unit) for unit in units}
    with_tensors = [part for part in parts if part.checkpoint.tensors or part.checkpoint.left_out]
    steps = {part.checkpoint.step for part in with_tensors}
    if len(steps - {None}) > 1:
        found = [
            FoundCheckpoint(
                paths.get(part.name) or listing.at(part.name),
                part.checkpoint.step,
                part.checkpoint.format,
                len(part.checkpoint.files),
                part.checkpoint.nbytes,
            )
            for part in with_tensors
        ]
        in_order = in_order_of_steps(found, lambda one: one.step, lambda one: one.path)
        raise SeveralCheckpointsError(listing.path, "run", in_order)


def _from_folders(listing: Listing, contents: Contents, asked: Asked) -> Checkpoint:
    """The checkpoint that folders make up, if they are ranks; else the list of what they hold."""
    names = [name for name in contents.folders if may_hold_tensors(listing, name, asked)]
    _refuse_unread_ranks(listing, contents, names)
    holding = arranged(names)
    if len(holding) == 1 and holding[0].kind == "rank":
        return replace(open_unit(listing, holding[0], asked), path=listing.path)
    below = found_below(listing, contents.folders, _links(listing, contents), asked)
    if not below.found:
        raise nothing_in(listing)
    raise below


def _refuse_unread_ranks(listing: Listing, contents: Contents, holding: Sequence[str]) -> None:
    """MissingShardError for the folder of a rank that holds nothing, or is a link elsewhere.

    Links to directories are not followed; the others would pass for all that there are.
    """
    links = _links(listing, contents)
    for unit in arranged([*contents.folders, *links]):
        unread = [name for name in unit.entries if name not in holding]
        if unit.kind == "rank" and 0 < len(unread) < len(unit.entries):
            is_link = unread[0] in links
            problem = "is a link to a directory, not followed" if is_link else "holds no tensor"
            raise MissingShardError(listing.path, f"{unread[0]!r} {problem}; other ranks do")


def _refuse_ranks_of_two_kinds(
    listing: Listing, units: Sequence[Unit], contents: Contents, asked: Asked
) -> None:
    """UnsupportedFormatError for a rank that is a file beside one that is a folder."""
    files = [unit.name for unit in units if counts_ranks(unit.name)]
    folders = [name for name in contents.folders if counts_ranks(name)]
    if files and any(may_hold_tensors(listing, name, asked) for name in folders):
        problem = f"has ranks as files and as folders: {files[0]!r} and {folders[0]!r}"
        raise UnsupportedFormatError(listing.path, problem, hint="name the one to read")


def _several_in(listing: Listing, unit: Unit, asked: Asked) -> SeveralCheckpointsError:
    """What a set of folders holds of which each holds several: what is called alike, together.

    Raises MissingShardError for what some of them do not have.
    """
    path = glob_of(listing, unit)
    inner = {folder: _held_in(listing.folder(folder), asked) for folder in unit.entries}
    for name in dict.fromkeys(itertools.chain.from_iterable(inner.values())):
        absent = next((folder for folder, names in inner.items() if name not in names), None)
        if absent is not None:
            problem = f"{absent}/{name} is missing: other ranks have it"
            raise MissingShardError(listing.path or path, problem)
    units = arranged(f"{folder}/{name}" for folder, names in inner.items() for name in names)
    return several(path, [_found_as(listing, one, asked.below()) for one in units])


def _held_in(listing: Listing, asked: Asked) -> list[str]:
    """The files and folders of a folder that hold tensors, or are named as if they did."""
    contents = contents_of(listing, asked)
    folders = (name for name in contents.folders if may_hold_tensors(listing, name, asked))
    return [*contents.files, *folders]


def _found_as(listing: Listing, unit: Unit, asked: Asked) -> FoundCheckpoint:
    """A unit, by what it is as a whole."""
    try:
        found = open_unit(listing, unit, asked)
    except (InputError, UsageError):
        return FoundCheckpoint(glob_of(listing, unit), unit.step, None, 0, 0)
    step = unit.step if found.step is None else found.step
    size = len(found.files), found.nbytes
    return FoundCheckpoint(glob_of(listing, unit), step, found.format, *size)


def _notes_on_folders(listing: Listing, contents: Contents, asked: Asked) -> list[str]:
    """Which folders hold checkpoints of their own, and which are left alone."""
    holding = [name for name in contents.folders if may_hold_tensors(listing, name, asked)]
    others = [name for name in contents.folders if name not in holding]
    notes = []
    if holding:
        folders = first_of([f"{name}/" for name in holding])
        notes.append(f"not read, checkpoints of their own: {folders}")
    contents.unread.extend(f"{name}/" for name in others)
    return notes
