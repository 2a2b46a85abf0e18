"""A directory: its sharded checkpoints, and every other tensor file that lies in it.

Only the directory itself is read, not those inside it. Hidden files are left alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
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
"""Files so named hold tensors; others count where their content says so."""

_FOREIGN: Final = (
    (".metadata", "a torch distributed checkpoint (DCP)"),
    ("_CHECKPOINT_METADATA", "an Orbax checkpoint"),
    ("manifest.ocdbt", "an Orbax checkpoint"),
)


_Item = TypeVar("_Item", TensorSpec, Skipped)


def open_directory(path: str, open_file: OpenFile) -> Checkpoint:
    """The catalogue of all tensor files of a directory.

    A tensor keeps its name where no other file has it; else all are prefixed by their file's.
    Raises EmptyDumpError where no file holds tensors, InputError for one that is broken.
    """
    try:
        names = sorted(
            (name for name in os.listdir(path) if _is_visible_file(path, name)), key=natural_key
        )
    except OSError as error:
        raise FileAccessError(path, f"cannot be listed: {error.strerror}") from error
    parts = _open_parts(path, names, open_file)
    if not parts:
        raise _nothing_found(path)
    if len(parts) == 1 and is_index_name(parts[0][1].path):
        return replace(parts[0][1], path=path)
    counts = Counter(name for _, part in parts for name in part.names)
    clash = any(count > 1 for count in counts.values())
    placed = [_placed(name, part, prefix=clash) for name, part in parts]
    kinds: dict[str, SectionKind] = {}
    for part in placed:
        kinds.update(part.section_kinds)
    notes = [note for part in placed for note in part.notes]
    if clash:
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


def _is_visible_file(path: str, name: str) -> bool:
    return not name.startswith(".") and os.path.isfile(os.path.join(path, name))


def _open_parts(
    path: str, names: Sequence[str], open_file: OpenFile
) -> list[tuple[str, Checkpoint]]:
    """(stem, catalogue) of each index, then of each file that no index claims."""
    parts = []
    claimed: set[str] = set()
    for name in filter(is_index_name, names):
        index = open_index(os.path.join(path, name), open_file)
        claimed.update(os.path.basename(file.path) for file in index.files)
        parts.append((name.split(".", 1)[0], index))
    for name in names:
        if name in claimed:
            continue
        tensor_file = name.endswith(SUFFIXES)
        try:
            part = open_file(os.path.join(path, name))
        except UnsupportedFormatError:
            if tensor_file:
                raise
            continue
        if part is not None:
            parts.append((os.path.splitext(name)[0], part))
        elif tensor_file:
            raise UnknownFormatError(
                os.path.join(path, name), "is named like a tensor file, and is none"
            )
    return parts


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


def _nothing_found(path: str) -> EmptyDumpError | UnsupportedFormatError:
    for name, words in _FOREIGN:
        if os.path.exists(os.path.join(path, name)):
            return UnsupportedFormatError(path, f"is {words}, which gradtool does not read")
    return EmptyDumpError(
        path,
        "holds no tensor file",
        hint="gradtool reads the files of one directory, not of those in it",
    )
