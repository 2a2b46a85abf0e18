"""NumPy's `.npz`: a zip archive of `.npy` members, stored or deflated, as `numpy.savez` writes.

A stored member is a byte range. A deflated one is a stream: only its header is inflated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DType
from gradtool.core.figures import some
from gradtool.core.locations import Extent, Source
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.core.sections import sections_of_flat_names
from gradtool.core.tensors import Skipped, StoredChecksum, TensorSpec
from gradtool.errors import CorruptFileError
from gradtool.formats.files.npy import MAGIC, Where, catalogued, read_header
from gradtool.storage.archives.inflate import Inflated, inflate_start
from gradtool.storage.archives.zip import STORED, Entry

_SUFFIX: Final = ".npy"


def recognises(entries: Sequence[Entry]) -> bool:
    """Whether an archive holds arrays, or members so named."""
    return any(entry.name.endswith(_SUFFIX) or entry.start == MAGIC for entry in entries)


def open_npz(source: Source, entries: Sequence[Entry], raw_dtype: DType | None) -> Checkpoint:
    """The catalogue of an archive of arrays, each called as its member is, without `.npy`.

    `numpy.load` takes a member for an array by how it begins, whatever it is called.

    Raises:
        CorruptFileError: two members go by one key; or as `npy.read_header`, naming the member.
        UnsupportedFormatError: as `npy.read_header`, naming the member.
    """
    _refuse_shared_keys(source, entries)
    members: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        (members if _is_array(source, entry) else others).append(entry)
    section_of = sections_of_flat_names([entry.name.removesuffix(_SUFFIX) for entry in members])
    tensors, skipped, checksums = [], [], []
    for entry in members:
        section = section_of(entry.name.removesuffix(_SUFFIX))
        found = _read_member(source, entry, raw_dtype, section)
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        tensors.append(found)
        if entry.method == STORED:
            covers = Extent(source.file, entry.offset, entry.nbytes)
            checksums.append(
                StoredChecksum(entry.name, covers, entry.crc32, entry.crc_places, is_required=True)
            )
    return Checkpoint(
        source.path,
        "npz",
        (source.file,),
        tuple(tensors),
        tuple(skipped),
        section_kinds=section_of.kinds,
        checksums=tuple(checksums),
        notes=_notes([entry.name for entry in others if entry.nbytes]),
        in_model_order=may_be_the_model_s(tensors),
    )


def _read_member(
    source: Source, entry: Entry, raw_dtype: DType | None, section: str
) -> TensorSpec | Skipped:
    """The catalogue's line for one member, from its header alone."""
    where = Where(source.path, entry.name, entry.offset)
    header = read_header(partial(inflate_start, source, entry), entry.nbytes, raw_dtype, where)
    name = entry.name.removesuffix(_SUFFIX)
    nbytes = entry.nbytes - header.data_start
    if nbytes == 0:
        return catalogued(name, header, section=section)
    if entry.method == STORED:
        extent = Extent(source.file, entry.offset + header.data_start, nbytes)
        return catalogued(name, header, (extent,), section=section)
    stream = Inflated(source.file, entry, header.data_start)
    return catalogued(name, header, stream=stream, section=section)


def _is_array(source: Source, entry: Entry) -> bool:
    if entry.name.endswith(_SUFFIX):
        return True
    stored = entry.method == STORED
    return (entry.start if stored else inflate_start(source, entry, len(MAGIC))) == MAGIC


def _refuse_shared_keys(source: Source, entries: Sequence[Entry]) -> None:
    """Refuse two members that `numpy.load` gives for one key, with or without `.npy`."""
    by_key: dict[str, Entry] = {}
    for entry in entries:
        for key in {entry.name, entry.name.removesuffix(_SUFFIX)}:
            other = by_key.setdefault(key, entry)
            if other is not entry:
                problem = f"ambiguous archive: so is {other.name!r:.80} called by numpy.load"
                raise CorruptFileError(
                    source.path, problem, tensor=entry.name, byte=entry.header_offset
                )


def _notes(others: Sequence[str]) -> tuple[str, ...]:
    """What is left out: members that are no arrays, which `numpy.load` gives as bytes."""
    return (f"not read, because no arrays: {some(others)}",) if others else ()
