"""A directory: its sharded checkpoints, and every other tensor file that lies in it.

Only the directory itself is read, not those inside it. Hidden files are left alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from gradtool.core.names import natural_key
from gradtool.core.sections import SECTION_KINDS
from gradtool.core.tensors import Checkpoint, SectionKind, Skipped, TensorSpec
from gradtool.errors import (
    EmptyDumpError,
    FileAccessError,
    UnknownFormatError,
    UnsupportedFormatError,
)
from gradtool.formats.sharded_index import OpenFile, is_index_name, open_index

SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy")
"""Files so named, in any case, hold tensors; others count where their content says so."""

_FOREIGN: Final = (
    (".metadata", "a torch distributed checkpoint (DCP)"),
    ("_CHECKPOINT_METADATA", "an Orbax checkpoint"),
    ("manifest.ocdbt", "an Orbax checkpoint"),
)


_Item = TypeVar("_Item", TensorSpec, Skipped)


def open_directory(path: str, open_file: OpenFile) -> Checkpoint:
    """The catalogue of all tensor files of a directory.

    A tensor keeps its name where no other file has it; else all are prefixed by their file's.

    Raises:
        EmptyDumpError: no file holds tensors.
        UnsupportedFormatError: a layout that gradtool does not read, or names that stay
            ambiguous.
        InputError: a file that is named like a tensor file is broken, or is none.
    """
    names = _list_directory(path)
    for name, words in _FOREIGN:
        if name in names:
            raise UnsupportedFormatError(path, f"is {words}, which gradtool does not read")
    contents = _open_contents(path, names, open_file)
    if not contents.parts:
        hint = "gradtool reads the files of one directory, not of those in it"
        raise EmptyDumpError(path, "holds no tensor file", hint=hint)
    if len(contents.parts) == 1 and is_index_name(contents.parts[0][1].path):
        index = contents.parts[0][1]
        return replace(index, path=path, notes=(*index.notes, *contents.notes()))
    clash = _first_repeated(name for _, part in contents.parts for name in part.names)
    placed = [_placed(stem, part, prefix=clash is not None) for stem, part in contents.parts]
    ambiguous = _first_repeated(name for part in placed for name in part.names)
    if ambiguous is not None:
        raise UnsupportedFormatError(path, "two files have a tensor so named", tensor=ambiguous)
    kinds: dict[str, SectionKind] = {}
    for part in placed:
        kinds.update(part.section_kinds)
    notes = [*(note for part in placed for note in part.notes), *contents.notes()]
    if clash is not None:
        notes.append("tensors are prefixed by their file: several files use the same names")
    return Checkpoint(
        path=path,
        format="directory",
        files=tuple(file for part in placed for file in part.files),
        tensors=tuple(spec for part in placed for spec in part.tensors),
        skipped=tuple(item for part in placed for item in part.skipped),
        section_kinds=kinds,
        seals=tuple(seal for part in placed for seal in part.seals),
        notes=tuple(notes),
    )


@dataclass(slots=True)
class _Contents:
    """What a directory holds: catalogues under the stems of their files, and the rest."""

    parts: list[tuple[str, Checkpoint]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """What was left out, in a sentence each."""
        if self.unread:
            yield f"not read: {_some(self.unread)}"
        if self.repeated:
            yield f"the same files under other names, read once: {_some(self.repeated)}"


def _list_directory(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path), key=natural_key)
    except OSError as error:
        raise FileAccessError(path, f"cannot be listed: {error.strerror}") from error


def _open_contents(path: str, names: Sequence[str], open_file: OpenFile) -> _Contents:
    """Each index with its shards, then each file that no index claims."""
    contents = _Contents()
    seen: dict[tuple[int, int], str] = {}
    visible = [name for name in names if not name.startswith(".")]
    for name in filter(is_index_name, visible):
        index = open_index(os.path.join(path, name), open_file)
        for file in index.files:
            seen[file.device, file.inode] = os.path.basename(file.path)
        contents.parts.append((name.split(".", 1)[0], index))
    for name in visible:
        file_path = os.path.join(path, name)
        if os.path.isdir(file_path):
            contents.unread.append(f"{name}/")
        elif not is_index_name(name) and (identity := _identity(file_path)) not in seen:
            seen[identity] = name
            _open_one(file_path, name, open_file, contents)
        elif not is_index_name(name) and seen[identity] != name:
            contents.repeated.append(name)
    return contents


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # a dangling link, say, which opening it will name
        status = os.lstat(path)
    return status.st_dev, status.st_ino


def _open_one(path: str, name: str, open_file: OpenFile, contents: _Contents) -> None:
    holds_tensors = name.lower().endswith(SUFFIXES)
    if not holds_tensors and not os.path.isfile(path):
        return
    try:
        part = open_file(path)
    except UnsupportedFormatError:
        if holds_tensors:
            raise
        contents.unread.append(name)
        return
    if part is not None:
        contents.parts.append((os.path.splitext(name)[0], part))
    elif holds_tensors:
        raise UnknownFormatError(path, "is named like a tensor file, and is none")


def _first_repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _placed(stem: str, part: Checkpoint, *, prefix: bool) -> Checkpoint:
    """A file's catalogue as part of the directory's, under the section that its name means.

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
        section_kinds={section: kind} if section and kind else part.section_kinds,
    )
