"""What `torch.save` writes: a zip archive of one pickle and one record for each storage.

Layout: torch/serialization.py and caffe2/serialize/inline_container.h of torch 1.6 to 2.13.
Records are stored, never deflated. The pickle is read by an inert interpreter: nothing that a
file names is imported or called.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from gradtool.core.tensors import Checkpoint, Extent, Seal, SerializationId
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats._torch_specs import SpecBuilder
from gradtool.formats._unpickle import unpickle
from gradtool.formats._walk import walk
from gradtool.storage.reader import Source
from gradtool.storage.zip import STORED, Entry

MAX_PICKLE_NBYTES: Final = 256 << 20
"""About 2.7 million tensors: each takes some 97 bytes of pickle."""

_ID: Final = ".data/serialization_id"
_ID_DIGITS: Final = 20
"""In each half of it: one is of the records' names, one of their checksums."""

_MARKS: Final = frozenset({"byteorder", "data/", _ID})


@dataclass(frozen=True, slots=True)
class _Archive:
    """The records of a torch file under their names within its one root directory."""

    source: Source
    records: dict[str, Entry]

    def extent(self, name: str) -> Extent | None:
        """The bytes of a record; None if there is none, an error if they are compressed."""
        entry = self.records.get(name)
        if entry is None:
            return None
        if entry.method != STORED:
            problem = "compressed: torch.save never does this"
            raise CorruptFileError(self.source.path, problem, tensor=entry.name)
        return Extent(self.source.file, entry.offset, entry.nbytes)

    def seal(self, name: str) -> Seal | None:
        """The checksum over a record's bytes in the file, where it has some."""
        entry = self.records[name]
        if entry.nbytes == 0 or entry.method != STORED:
            return None
        covers = Extent(self.source.file, entry.offset, entry.nbytes)
        return Seal(entry.name, covers, entry.crc32, entry.crc_places)


def recognises(entries: tuple[Entry, ...]) -> bool:
    """Whether an archive was written by torch, finished or not.

    Other writers have a `version` too: without the pickle it takes another of torch's records.
    """
    by_root: dict[str, set[str]] = {}
    for entry in entries:
        root, _, name = entry.name.partition("/")
        by_root.setdefault(root, set()).add("data/" if name.startswith("data/") else name)
    return any(
        "data.pkl" in names or ("version" in names and not names.isdisjoint(_MARKS))
        for names in by_root.values()
    )


def open_torch_zip(source: Source, entries: tuple[Entry, ...]) -> Checkpoint:
    """The catalogue of a torch file, given its archive's directory.

    A mapping at the root may have sections; a tensor at the root is called what the file is.

    Raises:
        CorruptFileError: unfinished, contradicting itself, or a tensor's bytes are not there.
        UnsupportedFormatError: TorchScript, an unknown type, two tensors of one name, or an
            object that is far larger than the pickle that describes it.
    """
    archive = _open_archive(source, entries)
    pickle = _pickle_of(archive)
    root = unpickle(
        _checked_bytes(archive, pickle),
        source.path,
        record=archive.records["data.pkl"].name,
        offset=pickle.offset,
    )
    walked = walk(root, source.path, pickle.nbytes)
    builder = SpecBuilder(
        path=source.path,
        pickle=pickle,
        record_of=lambda key: archive.extent(f"data/{key}"),
        big_endian=_is_big_endian(archive),
    )
    for found in walked.found:
        builder.add(found)
    return Checkpoint(
        path=source.path,
        format="torch",
        files=(source.file,),
        tensors=tuple(builder.tensors),
        skipped=tuple(builder.skipped),
        section_kinds=walked.section_kinds,
        seals=_seals(archive),
        serialization_ids=_serialization_ids(archive),
        notes=(*walked.notes(), *builder.notes()),
    )


def _open_archive(source: Source, entries: tuple[Entry, ...]) -> _Archive:
    roots = sorted({entry.name.split("/", 1)[0] for entry in entries})
    if len(roots) > 1:
        names = " and ".join(repr(root) for root in roots[:2])
        raise CorruptFileError(source.path, f"ambiguous archive: two root directories, {names}")
    root = roots[0] if roots else ""
    records = {entry.name[len(root) + 1 :]: entry for entry in entries}
    if "constants.pkl" in records:
        raise UnsupportedFormatError(
            source.path, "is TorchScript, a program", hint="save its state_dict() with torch.save"
        )
    return _Archive(source, records)


def _pickle_of(archive: _Archive) -> Extent:
    path = archive.source.path
    pickle = archive.extent("data.pkl")
    if pickle is None:
        raise CorruptFileError(path, "no data.pkl record: the save was interrupted")
    if pickle.nbytes > MAX_PICKLE_NBYTES:
        problem = f"a pickle of {pickle.nbytes} bytes; gradtool reads {MAX_PICKLE_NBYTES}"
        raise UnsupportedFormatError(path, problem, tensor=archive.records["data.pkl"].name)
    return pickle


def _checked_bytes(archive: _Archive, pickle: Extent) -> bytes:
    data = archive.source.read(pickle.offset, pickle.nbytes)
    entry = archive.records["data.pkl"]
    crc32 = zlib.crc32(data)
    if entry.crc32 and crc32 != entry.crc32:
        problem = f"CRC mismatch: {crc32:08x}, the archive says {entry.crc32:08x}"
        raise CorruptFileError(archive.source.path, problem, tensor=entry.name, byte=pickle.offset)
    return data


def _is_big_endian(archive: _Archive) -> bool:
    extent = archive.extent("byteorder")
    if extent is None:
        return False  # written before torch 2.1, which all little-endian machines did
    order = archive.source.read(extent.offset, min(extent.nbytes, 16))
    if order not in (b"little", b"big"):
        name = archive.records["byteorder"].name
        raise CorruptFileError(archive.source.path, f"byte order {order!r}", tensor=name)
    return order == b"big"


def _seals(archive: _Archive) -> tuple[Seal, ...]:
    """The checksums over storages, over the pickle, which may hold NumPy arrays, and the id."""
    names = (
        name for name in archive.records if name in ("data.pkl", _ID) or name.startswith("data/")
    )
    return tuple(seal for name in names if (seal := archive.seal(name)) is not None)


def _serialization_ids(archive: _Archive) -> tuple[SerializationId, ...]:
    """The file's id, where it has one of the usual length."""
    record = archive.records.get(_ID)
    if record is None or record.method != STORED or record.nbytes != 2 * _ID_DIGITS:
        return ()
    digits = Extent(archive.source.file, record.offset + _ID_DIGITS, _ID_DIGITS)
    others = (entry for entry in archive.records.values() if entry.nbytes and entry is not record)
    return (SerializationId(digits, {entry.name: entry.crc32 for entry in others}),)
