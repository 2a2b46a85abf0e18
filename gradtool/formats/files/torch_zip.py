"""What `torch.save` writes: a zip archive of one pickle and one record for each storage.

Layout: torch/serialization.py and caffe2/serialize/inline_container.h of torch 1.6 to 2.13.
Records are stored, never deflated. The pickle is read by an inert interpreter: nothing that a
file names is imported or called.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import some
from gradtool.core.locations import Extent, Source
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.core.tensors import SerializationId, StoredChecksum
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files import npy
from gradtool.formats.files._torch_specs import SpecBuilder
from gradtool.formats.pickles.cutting import MAX_PICKLE_NBYTES
from gradtool.formats.pickles.distributed import placed_parts
from gradtool.formats.pickles.hidden import refuse_hidden
from gradtool.formats.pickles.unpickle import Unpickled, unpickle
from gradtool.formats.pickles.walk import Walk, walk
from gradtool.storage.archives.zip import STORED, Entry

PROGRAM_MARK: Final = b"/constants.pkl"
"""What the name of a record ends with that makes an archive a program to torch.load."""

_ID: Final = ".data/serialization_id"
_ID_DIGITS: Final = 20
"""In each half of it: one is of the records' names, one of their checksums."""

_MARKS: Final = frozenset({b"byteorder", b"data/", _ID.encode()})
_KNOWN: Final = (
    *("data.pkl", "version", "byteorder", _ID, ".data/version"),
    *(".format_version", ".storage_alignment"),
)
"""What an archive holds besides storages."""


@dataclass(frozen=True, slots=True)
class Archive:
    """The records of a torch file, as its own reader finds them: by bytes, in either case.

    `records` has them by their raw names in small letters, within the one root directory.
    """

    source: Source
    records: dict[bytes, Entry]

    def find(self, name: str) -> Entry | None:
        """The record that torch's reader takes for `name`."""
        try:
            return self.records.get(name.encode().lower())
        except UnicodeEncodeError:  # a lone surrogate, which no record's name has
            return None

    def extent(self, name: str) -> Extent | None:
        """The bytes of a record; None if there is none."""
        entry = self.find(name)
        return None if entry is None else self.bytes_of(entry)

    def bytes_of(self, entry: Entry) -> Extent:
        """Where the bytes of `entry` are."""
        return Extent(self.source.file, entry.offset, entry.nbytes)

    def others(self, names: Iterable[str]) -> Iterator[Entry]:
        """The records that hold something and are neither torch's own nor have one of `names`."""
        known = {entry.header_offset for name in (*_KNOWN, *names) if (entry := self.find(name))}
        for entry in self.records.values():
            if entry.nbytes and entry.header_offset not in known:
                yield entry


class Tree(NamedTuple):
    """Objects of a torch file, the record that they are pickled in, and the archive around it."""

    archive: Archive
    record: Entry
    unpickled: Unpickled


def recognises(entries: Sequence[Entry]) -> bool:
    """Whether an archive was written by torch, finished or not, or is read by it.

    Other writers have a `version` too: without the pickle it takes another of torch's records.
    """
    by_root: dict[bytes, set[bytes]] = {}
    for entry in entries:
        root, _, name = entry.raw_name.lower().partition(b"/")
        by_root.setdefault(root, set()).add(b"data/" if name.startswith(b"data/") else name)
    return any(
        b"data.pkl" in names or (b"version" in names and not names.isdisjoint(_MARKS))
        for names in by_root.values()
    )


def open_torch_zip(source: Source, entries: Sequence[Entry]) -> Checkpoint:
    """The catalogue of a torch file, given its archive's directory.

    A mapping at the root may have sections; a tensor at the root is called what the file is.

    Raises:
        CorruptFileError: unfinished, contradicting itself, or a tensor's bytes are not there.
        UnsupportedFormatError: TorchScript, an unknown type, two tensors of one name, a tensor
            that no name leads to, or an object that is far larger than the pickle that
            describes it.
    """
    return catalogue_of(open_tree(source, entries))


def catalogue_of(tree: Tree) -> Checkpoint:
    """The tensors that a torch file describes; raises as `open_torch_zip`."""
    archive = tree.archive
    builder, walked = listed(tree, "data", big_endian=is_big_endian(archive))
    storages = (f"data/{key}" for key in tree.unpickled.storages)
    return Checkpoint(
        path=archive.source.path,
        format="torch",
        files=(archive.source.file,),
        tensors=tuple(builder.tensors),
        skipped=tuple(builder.skipped),
        section_kinds=walked.sections.kinds,
        placed=placed_parts(walked.distributed),
        part_notes=walked.part_notes(),
        checksums=checksums(archive, "data.pkl", "data/"),
        serialization_ids=_serialization_ids(archive),
        notes=(*builder.notes(walked), *unnamed(archive.others(storages))),
        in_model_order=may_be_the_model_s(builder.tensors),
    ).with_scales_apart()


def open_tree(source: Source, entries: Sequence[Entry]) -> Tree:
    """What a torch file describes, given its archive's directory; raises as `open_torch_zip`.

    For those who know more of it than names: which part of a tensor it holds, which step it is of.
    """
    if any(entry.raw_name.endswith(PROGRAM_MARK) for entry in entries):
        hint = "save its state_dict() with torch.save"
        raise UnsupportedFormatError(source.path, "is TorchScript, a program", hint=hint)
    return read_tree(open_archive(source, entries), "data.pkl")


def read_tree(archive: Archive, name: str) -> Tree:
    """The objects pickled in the record `name`."""
    source, record = archive.source, archive.find(name)
    if record is None:
        raise CorruptFileError(source.path, f"no {name} record: the save was interrupted")
    data = _checked_pickle(source, record)
    unpickled = unpickle(data, source.path, record=record.name, offset=record.offset)
    return Tree(archive, record, unpickled)


def listed(tree: Tree, folder: str, *, big_endian: bool) -> tuple[SpecBuilder, Walk]:
    """The tensors of a pickle whose storages are the records in `folder`, and how they are named.

    Raises as `open_torch_zip`.
    """
    archive, made = tree.archive, tree.unpickled.made
    path, pickle = archive.source.path, archive.bytes_of(tree.record)
    walked = walk(tree.unpickled.root, path, pickle.nbytes)
    builder = SpecBuilder(
        path, pickle, lambda key: archive.extent(f"{folder}/{key}"), walked.sections, big_endian
    )
    for found in walked.leaves:
        builder.add(found)
    refuse_hidden(made, walked.reached, path, tree.record.name, pickle.offset)
    return builder, walked


def open_archive(
    source: Source, entries: Sequence[Entry], may_be_deflated: tuple[bytes, ...] = ()
) -> Archive:
    """The records of a torch file, given its archive's directory.

    `may_be_deflated` are beginnings of the names of those that its reader inflates.
    """
    roots = sorted({entry.name.split("/", 1)[0] for entry in entries})
    if len(roots) > 1:
        names = " and ".join(f"{root!r:.80}" for root in roots[:2])
        raise CorruptFileError(source.path, f"ambiguous archive: two root directories, {names}")
    records: dict[bytes, Entry] = {}
    for entry in entries:
        name = entry.raw_name.partition(b"/")[2]
        # torch's reader tells no case apart, of ASCII letters that is: as `bytes.lower`.
        same = records.setdefault(name.lower(), entry)
        if same is not entry:
            problem = f"ambiguous archive: duplicate of entry {same.name!r:.80} to torch"
            raise CorruptFileError(
                source.path, problem, tensor=entry.name, byte=entry.header_offset
            )
        if entry.method != STORED and not name.startswith(may_be_deflated):
            problem = "compressed: torch.save never does this"
            raise CorruptFileError(source.path, problem, tensor=entry.name, byte=entry.offset)
        if entry.start == npy.MAGIC:
            problem = "an array for NumPy within a file for torch: two formats at once"
            raise CorruptFileError(source.path, problem, tensor=entry.name, byte=entry.offset)
    return Archive(source, records)


def _checked_pickle(source: Source, record: Entry) -> bytes:
    if record.nbytes > MAX_PICKLE_NBYTES:
        problem = f"a pickle of {record.nbytes} bytes; gradtool reads {MAX_PICKLE_NBYTES}"
        raise UnsupportedFormatError(source.path, problem, tensor=record.name)
    data = source.read(record.offset, record.nbytes)
    crc32 = zlib.crc32(data)
    if record.crc32 and crc32 != record.crc32:
        problem = f"CRC mismatch: {crc32:08x}, the archive says {record.crc32:08x}"
        raise CorruptFileError(source.path, problem, tensor=record.name, byte=record.offset)
    return data


def is_big_endian(archive: Archive) -> bool:
    """Whether the archive says that elements are big-endian."""
    record = archive.find("byteorder")
    if record is None:
        return False  # written before torch 2.1, which all little-endian machines did
    order = archive.source.read(record.offset, min(record.nbytes, 16))
    if order not in (b"little", b"big"):
        raise CorruptFileError(archive.source.path, f"byte order {order!r}", tensor=record.name)
    return order == b"big"


def checksums(archive: Archive, *names: str) -> tuple[StoredChecksum, ...]:
    """The checksums over the records whose names begin so, and over the file's id."""
    beginnings = tuple(name.encode() for name in (*names, _ID))
    return tuple(
        StoredChecksum(entry.name, archive.bytes_of(entry), entry.crc32, entry.crc_places)
        for name, entry in archive.records.items()
        if entry.nbytes and name.startswith(beginnings)
    )


def _serialization_ids(archive: Archive) -> tuple[SerializationId, ...]:
    """The file's id, where it has one of the usual length."""
    record = archive.find(_ID)
    if record is None or record.nbytes != 2 * _ID_DIGITS:
        return ()
    digits = Extent(archive.source.file, record.offset + _ID_DIGITS, _ID_DIGITS)
    others = (entry for entry in archive.records.values() if entry.nbytes and entry is not record)
    return (SerializationId(digits, {entry.name: entry.crc32 for entry in others}),)


def unnamed(others: Iterable[Entry]) -> tuple[str, ...]:
    """A note on what the archive holds and no pickle names, so that no loader sees it either."""
    names = [entry.name for entry in others]
    return (f"the pickle does not name {some(names)}",) if names else ()
