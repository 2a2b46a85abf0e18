"""From a path to a `Checkpoint`: each layout is one module, each row of FORMATS one layout.

Files are recognised by what they hold, never by their names alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gradtool.core.dtypes import DType
from gradtool.core.tensors import Checkpoint
from gradtool.errors import (
    FileAccessError,
    FileChangedError,
    UnknownFormatError,
    UnsupportedFormatError,
)
from gradtool.formats import directory, npy, npz, safetensors, sharded_index, torch_zip
from gradtool.formats._foreign import OLD_TORCH, foreign_layout
from gradtool.formats.sharded_index import LeftAloneError
from gradtool.storage.reader import Source, open_source
from gradtool.storage.zip import Entry, read_directory

HEAD_BYTES: Final = 512
"""What is read of a file to recognise it: a tar archive's mark ends at byte 262."""


class Candidate:
    """An open file that is to be recognised; a zip archive's directory is read once."""

    def __init__(self, source: Source, raw_dtype: DType | None) -> None:
        self.source = source
        self.raw_dtype = raw_dtype
        self.head = source.read(0, min(source.file.size, HEAD_BYTES))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The archive's entries; none where the file is no zip archive."""
        is_archive = self.head.startswith((b"PK\3\4", b"PK\5\6"))  # as loaders tell one
        return read_directory(self.source) if is_archive else ()


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of a single file: its name, how to tell it, how to read its catalogue."""

    name: str
    recognises: Callable[[Candidate], bool]
    open: Callable[[Candidate], Checkpoint]


FORMATS: Final = (
    Format(
        "safetensors",
        lambda file: safetensors.recognises(file.head),
        lambda file: safetensors.open_safetensors(file.source),
    ),
    Format(
        "npy",
        lambda file: npy.recognises(file.head),
        lambda file: npy.open_npy(file.source, file.raw_dtype),
    ),
    Format(
        "torch",
        lambda file: torch_zip.recognises(file.entries),
        lambda file: torch_zip.open_torch_zip(file.source, file.entries),
    ),
    Format(
        "npz",
        # numpy.savez of nothing: an archive that is only its end record.
        lambda file: npz.recognises(file.entries) or file.head.startswith(b"PK\5\6"),
        lambda file: npz.open_npz(file.source, file.entries, file.raw_dtype),
    ),
)


def open_checkpoint(path: str, raw_dtype: DType | None = None) -> Checkpoint:
    """The catalogue of whatever lies at `path`: a file, a directory or an index file.

    `raw_dtype` says what NumPy's nameless `V2` elements are. Headers are read, tensor data is
    not, and nothing found there is run. Raises InputError.
    """

    def open_file(name: str, *, must_be_known: bool = True) -> Checkpoint | None:
        return _open_file(name, raw_dtype, must_be_known)

    if os.path.isdir(path):
        return directory.open_directory(path, open_file)
    if sharded_index.is_index_name(path):
        return sharded_index.open_index(path, open_file)
    checkpoint = open_file(path)
    if checkpoint is None:
        raise UnknownFormatError(
            path,
            "is in no format that gradtool knows",
            hint="it reads safetensors, torch (zip), npz and npy files, and directories of them",
        )
    return checkpoint


def _open_file(path: str, raw_dtype: DType | None, must_be_known: bool) -> Checkpoint | None:
    """The catalogue of one file; None where its content says nothing to any format.

    Raises LeftAloneError unless it `must_be_known`, for what may be nobody's to read, a log say,
    and for what is of a format of others. A file of a format that is known is read or refused.
    """
    if path.endswith(".distcp"):
        raise UnsupportedFormatError(
            path, "is a shard of a torch distributed checkpoint (DCP), which gradtool does not read"
        )
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_source(path))
            candidate = Candidate(source, raw_dtype)
            layout = next((row for row in FORMATS if row.recognises(candidate)), None)
        except (FileAccessError, FileChangedError) as error:  # the kernel's own files end early
            if must_be_known:
                raise
            raise LeftAloneError from error
        if layout is not None:
            checkpoint = layout.open(candidate)
            source.check_unchanged()
            return checkpoint
        # Last: a mark may be short, and two of its bytes mean little inside another format.
        foreign = foreign_layout(candidate.head)
        if foreign is not None:
            if must_be_known or foreign == OLD_TORCH:  # which torch.load reads
                raise UnsupportedFormatError(path, foreign)
            raise LeftAloneError
    return None
