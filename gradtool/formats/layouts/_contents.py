"""What a directory holds: its indices, tensor files, other files and folders, and what is in them.

Hidden files are left alone. A file with several names is read once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import first_of
from gradtool.core.file_names import is_unfinished
from gradtool.core.names import NameFilter
from gradtool.errors import UnknownFormatError
from gradtool.formats.file_kinds import told_by
from gradtool.formats.files import LeftAloneError, is_tensor_file
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.names.further import told_apart
from gradtool.formats.layouts.sharded_index import is_index_name, open_index
from gradtool.storage.listing import Listing

_PART_FOLDER: Final = re.compile(r"(pytorch_model_fsdp|optimizer)_\d+", re.ASCII)
"""What Accelerate and Transformers call the folders in which FSDP saves model and optimizer.

Source: `save_fsdp_model` and `save_fsdp_optimizer` of accelerate/utils/fsdp_utils.py.
"""


_TRAINER_STATE: Final = "trainer_state.json"
_GLOBAL_STEP: Final = re.compile(rb'^  "global_step": (\d{1,18}),?$', re.MULTILINE)
_STATE_NBYTES: Final = 1 << 16
"""Of its beginning, in which the step stands before the history."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something in a directory: the name of a file, or a glob for several, and what is in them."""

    name: str
    checkpoint: Checkpoint


@dataclass(slots=True)
class Contents:
    """The entries of a directory, told apart by their names, in natural order.

    Attributes:
        files: those named like tensor files.
        others: files that may hold tensors, if their content says so.
        folders: directories in it that are not its own parts, without links to such and saves that
            were not finished.
        part_folders: directories that are parts of its checkpoint.
        parts: its indices, opened.
        unread: entries that are not read.
        repeated: further names of files that are read.
    """

    files: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    part_folders: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """What was left out, in a sentence each."""
        if self.unread:
            yield f"not read: {first_of(self.unread)}"
        if self.repeated:
            yield f"the same files under other names, read once: {first_of(self.repeated)}"


def contents_of(listing: Listing, asked: Asked) -> Contents:
    """What a directory holds, its indices opened: these claim the files that they name."""
    contents = Contents()
    visible = [name for name in listing.names if not name.startswith(".")]
    claimed: dict[str, None] = {}
    for name in filter(is_index_name, visible):
        index = open_index(listing, name, partial(asked.open_file, wanted=filter_in(name, asked)))
        claimed |= dict.fromkeys(os.path.basename(file.path) for file in index.files)
        contents.parts.append(Part(name, index))
    files = []
    for name in visible:
        if listing.is_directory(name):
            is_part = _PART_FOLDER.fullmatch(name)
            folders = contents.part_folders if is_part else contents.folders
            is_left = listing.is_link(name) or is_unfinished(name)
            (contents.unread if is_left else folders).append(name)
        elif not is_index_name(name):
            files.append(name)
    kept, contents.repeated = told_apart(listing, files, claimed)
    for name in kept:
        if is_tensor_file(name):
            contents.files.append(name)
        elif listing.is_file(name):
            contents.others.append(name)
    return contents


def noted_step(listing: Listing) -> int | None:
    """The step that the Trainer of Transformers notes beside a model; None where there is none.

    Source: `TrainerState.save_to_json` of transformers/trainer_callback.py: JSON with sorted keys,
    in which losses may be NaN, which is no JSON.
    """
    if _TRAINER_STATE not in listing.names or not listing.is_file(_TRAINER_STATE):
        return None
    with listing.open(_TRAINER_STATE) as source:
        found = _GLOBAL_STEP.search(source.read(0, min(source.file.size, _STATE_NBYTES)))
    return None if found is None else int(found[1])


def open_entry(listing: Listing, name: str, asked: Asked) -> Checkpoint:
    """The catalogue of a file that is named like a tensor file, or of a folder."""
    if listing.is_directory(name):
        return asked.open_folder(listing.folder(name), asked.below())
    part = asked.open_file(listing.at(name), wanted=filter_in(name, asked))
    if part is None:
        raise UnknownFormatError(listing.at(name), "is named like a tensor file, and is none")
    return part


def open_others(listing: Listing, contents: Contents, asked: Asked) -> Iterator[Part]:
    """What the other files hold, where their content says that they are tensor files."""
    for name in contents.others:
        wanted = filter_in(name, asked)
        try:
            part = asked.open_file(listing.at(name), must_be_known=False, wanted=wanted)
        except LeftAloneError:
            contents.unread.append(name)
            continue
        if part is not None:
            yield Part(name, part)


def filter_in(file: str, asked: Asked) -> NameFilter:
    """A filter of the names in a file, each of which may get a prefix yet."""
    stem = stem_of(file)
    told = told_by(stem)
    starts = ("", f"{stem}.", f"{file}.", *([] if told is None else [f"{told.section}."]))
    return lambda name: any(asked.wanted(start + name) for start in starts)


def stem_of(name: str) -> str:
    """A file's name without its suffix, an index's without all that follows its first dot."""
    return name.split(".", 1)[0] if is_index_name(name) else os.path.splitext(name)[0]
