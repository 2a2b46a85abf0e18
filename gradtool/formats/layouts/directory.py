"""A directory: its sharded checkpoints, and every other tensor file that lies in it.

Only the directory itself is read, not those inside it. Hidden files are left alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from gradtool.core.figures import first_of
from gradtool.core.names import NameFilter
from gradtool.core.sections import SECTION_KINDS
from gradtool.core.tensors import Checkpoint, Skipped, TensorSpec
from gradtool.errors import (
    EmptyDumpError,
    UnknownFormatError,
    UnsupportedFormatError,
)
from gradtool.formats.files import SUFFIXES, LeftAloneError, OpenFile
from gradtool.formats.layouts._joined import joined, repeated_name
from gradtool.formats.layouts.sharded_index import is_index_name, open_index
from gradtool.storage.listing import Listing

_Item = TypeVar("_Item", TensorSpec, Skipped)


def open_directory(listing: Listing, open_file: OpenFile, wanted: NameFilter) -> Checkpoint:
    """The catalogue of all tensor files of a directory.

    A tensor keeps its name where no other file has it; else all are prefixed by their file's.

    Raises:
        EmptyDumpError: no file holds tensors.
        UnsupportedFormatError: names that stay ambiguous.
        InputError: a file that is named like a tensor file is broken, or is none.
    """
    path = listing.path
    contents = _open_contents(listing, open_file, wanted)
    if not contents.parts:
        hint = "gradtool reads the files of one directory, not of those in it"
        raise EmptyDumpError(path, "holds no tensor file", hint=hint)
    if len(contents.parts) == 1 and is_index_name(contents.parts[0][1].path):
        index = contents.parts[0][1]
        return replace(index, path=path, notes=(*index.notes, *contents.notes()))
    parts = [part for _, part in contents.parts]
    notes = list(contents.notes())
    if len(parts) > 1:
        clash = repeated_name(parts) is not None
        if clash:
            notes.append("tensors are prefixed by their file: several files use the same names")
        parts = _placed(contents.parts, prefix=clash)
        ambiguous = repeated_name(parts)
        if ambiguous is not None:
            raise UnsupportedFormatError(path, "two files have a tensor so named", tensor=ambiguous)
    return joined(path, "directory", parts, notes=notes)


@dataclass(slots=True)
class _Contents:
    """What a directory holds: catalogues under the names of their files, and the rest."""

    parts: list[tuple[str, Checkpoint]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """What was left out, in a sentence each."""
        if self.unread:
            yield f"not read: {first_of(self.unread)}"
        if self.repeated:
            yield f"the same files under other names, read once: {first_of(self.repeated)}"


def _open_contents(listing: Listing, open_file: OpenFile, wanted: NameFilter) -> _Contents:
    """Each index with its shards, then each file that no index claims."""
    contents = _Contents()
    seen: dict[tuple[int, int] | None, str] = {}
    visible = [name for name in listing.names if not name.startswith(".")]
    for name in filter(is_index_name, visible):
        index = open_index(listing, name, partial(open_file, wanted=_filter_in(name, wanted)))
        for file in index.files:
            seen[file.identity] = os.path.basename(file.path)
        contents.parts.append((name, index))
    for name in visible:
        if listing.is_directory(name):
            contents.unread.append(f"{name}/")
        elif not is_index_name(name) and (identity := listing.identity(name)) not in seen:
            seen[identity] = name
            _open_one(listing, name, partial(open_file, wanted=_filter_in(name, wanted)), contents)
        elif not is_index_name(name) and seen[identity] != name:
            contents.repeated.append(name)
    return contents


def _open_one(listing: Listing, name: str, open_file: OpenFile, contents: _Contents) -> None:
    holds_tensors = name.lower().endswith(SUFFIXES)
    if not holds_tensors and not listing.is_file(name):
        return
    try:
        part = open_file(listing.at(name), must_be_known=holds_tensors)
    except LeftAloneError:
        contents.unread.append(name)
        return
    if part is not None:
        contents.parts.append((name, part))
    elif holds_tensors:
        raise UnknownFormatError(listing.at(name), "is named like a tensor file, and is none")


def _filter_in(file: str, wanted: NameFilter) -> NameFilter:
    """A filter of the names in a file, each of which may get a prefix yet."""
    starts = ("", f"{_stem(file)}.", f"{file}.")
    return lambda name: any(wanted(start + name) for start in starts)


def _placed(parts: Sequence[tuple[str, Checkpoint]], *, prefix: bool) -> list[Checkpoint]:
    """Each file's catalogue as part of the directory's.

    Its prefix is the stem of the file, or all its name where stems repeat.
    """
    stems = Counter(_stem(name) for name, _ in parts)
    return [
        _renamed(name if stems[_stem(name)] > 1 else _stem(name), part, prefix=prefix)
        for name, part in parts
    ]


def _stem(name: str) -> str:
    return name.split(".", 1)[0] if is_index_name(name) else os.path.splitext(name)[0]


def _renamed(stem: str, part: Checkpoint, *, prefix: bool) -> Checkpoint:
    """A file's catalogue under its prefix, and under the section that its name means.

    `optimizer.pt` beside `model.safetensors` holds moments, as a key of that name would.
    """
    kind = SECTION_KINDS.get(stem)
    section = stem if kind is not None and not part.section_kinds else None
    start = f"{stem}." if prefix else ""

    def place(item: _Item) -> _Item:
        return replace(
            item,
            name=start + item.name,
            section=item.section if section is None else section,
        )

    return replace(
        part,
        tensors=tuple(map(place, part.tensors)),
        skipped=tuple(map(place, part.skipped)),
        left_out=tuple(start + name for name in part.left_out),
        skipped_left_out=tuple(start + name for name in part.skipped_left_out),
        section_kinds={section: kind} if section and kind else part.section_kinds,
        in_model_order=False,  # nothing tells which file comes first in the model
    )
