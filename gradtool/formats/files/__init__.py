"""Single files: each format is one module and one row of FILES.

A file is recognised by what it holds, never by its name alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DType
from gradtool.core.locations import Source
from gradtool.core.names import NameFilter, every_name
from gradtool.errors import (
    FileAccessError,
    FileChangedError,
    InputError,
    UnsupportedFormatError,
)
from gradtool.formats.about import About
from gradtool.formats.file_kinds import is_called_like_tensors, with_kinds_of_name
from gradtool.formats.files import (
    flax_msgpack,
    gguf,
    npy,
    npz,
    pickle,
    safetensors,
    torch_legacy,
    torch_zip,
    torchscript,
)
from gradtool.formats.foreign import foreign_content
from gradtool.formats.foreign.marks import foreign_format
from gradtool.storage.archives.zip import Entry, read_directory
from gradtool.storage.reader import open_source

HEAD_BYTES: Final = 512
"""What is read of a file to recognise it: a tar archive's mark ends at byte 262."""


class Candidate:
    """An open file that is to be recognised; a zip archive's directory is read once."""

    def __init__(self, source: Source, raw_dtype: DType | None, wanted: NameFilter) -> None:
        self.source = source
        self.raw_dtype = raw_dtype
        self.wanted = wanted
        self.head = source.read(0, min(source.file.size, HEAD_BYTES))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The archive's entries; none where the file is no zip archive."""
        is_archive = self.head.startswith((b"PK\3\4", b"PK\5\6"))  # as loaders tell one
        return read_directory(self.source) if is_archive else ()


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A format of single files: its name, how to tell it, how to read its catalogue.

    Files with its `suffixes`, in any case, hold tensors; others count where their content says so.
    `is_anything` says that most of its files hold none: in a directory those count that are called
    like gradients, weights or moments.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Candidate], bool]
    open: Callable[[Candidate], Checkpoint]
    about: About
    is_anything: bool = False


FILES: Final = (
    FileFormat(
        "safetensors",
        (".safetensors",),
        lambda file: safetensors.recognises(file.head),
        lambda file: safetensors.open_safetensors(file.source, file.wanted),
        About("safetensors: Hugging Face, MLX", ("a header of JSON",)),
    ),
    FileFormat(
        "npy",
        (".npy",),
        lambda file: npy.recognises(file.head),
        lambda file: npy.open_npy(file.source, file.raw_dtype),
        About("numpy.save: one array", (r"\x93NUMPY",)),
    ),
    FileFormat(
        "torchscript",
        (".pt", ".pth"),
        lambda file: torchscript.recognises(file.entries),
        lambda file: torchscript.open_torchscript(file.source, file.entries),
        About("torch.jit.save: a program", ("*/constants.pkl in a zip archive",), clips=False),
    ),
    FileFormat(
        "torch",
        (".pt", ".pth", ".bin", ".ckpt"),
        lambda file: torch_zip.recognises(file.entries),
        lambda file: torch_zip.open_torch_zip(file.source, file.entries),
        About("torch.save; Lightning's .ckpt", ("*/data.pkl in a zip archive",)),
    ),
    FileFormat(
        "torch-legacy",
        (".pt", ".pth", ".bin", ".ckpt"),
        lambda file: torch_legacy.recognises(file.head),
        lambda file: torch_legacy.open_torch_legacy(file.source),
        About("torch.save of before 1.6", ("a pickle of torch's magic number",)),
    ),
    FileFormat(
        "npz",
        (".npz",),
        # numpy.savez of nothing: an archive that is only its end record.
        lambda file: npz.recognises(file.entries) or file.head.startswith(b"PK\5\6"),
        lambda file: npz.open_npz(file.source, file.entries, file.raw_dtype),
        About("numpy.savez: several arrays", ("arrays in a zip archive",)),
    ),
    FileFormat(
        "pickle",
        (".pkl", ".pickle"),
        lambda file: pickle.recognises(file.head),
        lambda file: pickle.open_pickle(file.source),
        About("pickle.dump: NumPy arrays", ("a pickle of protocol 2 to 5",)),
        is_anything=True,
    ),
    FileFormat(
        "gguf",
        (".gguf",),
        lambda file: gguf.recognises(file.head),
        lambda file: gguf.open_gguf(file.source),
        About("GGUF: llama.cpp, MLX", ("GGUF",)),
    ),
    FileFormat(
        "flax-msgpack",
        (".msgpack",),
        # Last: only the whole of a file tells MessagePack from what begins alike.
        lambda file: flax_msgpack.recognises(file.source, file.head),
        lambda file: flax_msgpack.open_flax_msgpack(file.source),
        About("Flax: serialization.to_bytes", ("arrays in MessagePack",)),
    ),
)

SUFFIXES: Final = tuple(suffix for row in FILES if not row.is_anything for suffix in row.suffixes)


def is_tensor_file(name: str) -> bool:
    """Whether a file is called as files with tensors are."""
    of_anything = tuple(suffix for row in FILES if row.is_anything for suffix in row.suffixes)
    is_one = name.lower().endswith(of_anything) and is_called_like_tensors(name)
    return is_one or name.lower().endswith(SUFFIXES)


class LeftAloneError(Exception):
    """A file that need not be known may not be read, or is of a format of others."""


class OpenFile(Protocol):
    """Opens a file; None where its content says nothing to any format."""

    def __call__(
        self, path: str, /, *, must_be_known: bool = True, wanted: NameFilter = every_name
    ) -> Checkpoint | None:
        """`must_be_known` has an InputError for what else is a LeftAloneError.

        What is not `wanted` may be left out of the catalogue, which then has its name.
        """


def format_of(path: str) -> str | None:
    """The name of the format that a file begins like; None for none, or where it cannot be read."""
    with suppress(InputError), open_source(path) as source:
        candidate = Candidate(source, None, every_name)
        return next((row.name for row in FILES if row.recognises(candidate)), None)
    return None


def open_file(
    path: str,
    /,
    *,
    raw_dtype: DType | None,
    must_be_known: bool = True,
    wanted: NameFilter = every_name,
) -> Checkpoint | None:
    """The catalogue of one file; None where its content says nothing to any format.

    Raises LeftAloneError unless it `must_be_known`, for what may be nobody's to read, a log say,
    and for what is of a format of others. A file of a format that is known is read or refused.
    """
    if path.endswith(".distcp"):
        problem = "is a shard of a torch distributed checkpoint (DCP)"
        hint = "give its directory, where `.metadata` says what is in it"
        raise UnsupportedFormatError(path, problem, hint=hint)
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_source(path))
            candidate = Candidate(source, raw_dtype, wanted)
            file_format = next((row for row in FILES if row.recognises(candidate)), None)
        except (FileAccessError, FileChangedError) as error:  # the kernel's own files end early
            if must_be_known:
                raise
            raise LeftAloneError from error
        if file_format is not None:
            if file_format.is_anything and not must_be_known and not is_called_like_tensors(path):
                raise LeftAloneError
            checkpoint = file_format.open(candidate)
            source.check_unchanged()
            return with_kinds_of_name(checkpoint)
        # Last: a mark may be short, and two of its bytes mean little inside another format.
        foreign = foreign_format(candidate.head)
        if foreign is None and must_be_known:
            foreign = foreign_content(source, candidate.head, candidate.entries)
        if foreign is not None:
            if must_be_known:
                raise UnsupportedFormatError(path, foreign)
            raise LeftAloneError
    return None
