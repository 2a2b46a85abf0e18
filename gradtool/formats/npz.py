"""NumPy's `.npz`: a zip archive of `.npy` members, stored or deflated, as `numpy.savez` writes.

A stored member is a byte range. A deflated one is a stream: only its header is inflated here.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gradtool.core.dtypes import DType
from gradtool.core.sections import sections_of_flat_names
from gradtool.core.tensors import Checkpoint, Extent, Seal, Skipped, Stream, TensorSpec
from gradtool.formats.npy import Where, catalogued, read_header
from gradtool.storage.inflate import inflate_start
from gradtool.storage.reader import Source
from gradtool.storage.zip import STORED, Entry

_SUFFIX: Final = ".npy"


def recognises(entries: tuple[Entry, ...]) -> bool:
    """Whether an archive holds arrays."""
    return any(entry.name.endswith(_SUFFIX) for entry in entries)


def open_npz(source: Source, entries: tuple[Entry, ...], raw_dtype: DType | None) -> Checkpoint:
    """The catalogue of an archive of arrays, each called as its member is, without `.npy`.

    Raises:
        CorruptFileError, UnsupportedFormatError: as `npy.read_header`, naming the member.
    """
    members = [entry for entry in entries if entry.name.endswith(_SUFFIX)]
    sections = sections_of_flat_names(entry.name.removesuffix(_SUFFIX) for entry in members)
    tensors, skipped, seals = [], [], []
    for entry in members:
        head = entry.name.removesuffix(_SUFFIX).split(".", 1)[0]
        found = _read_member(source, entry, raw_dtype, head if head in sections else "")
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        tensors.append(found)
        if entry.method == STORED:
            covers = Extent(source.file, entry.offset, entry.nbytes)
            seals.append(Seal(entry.name, covers, entry.crc32, entry.crc_places))
    return Checkpoint(
        source.path,
        "npz",
        (source.file,),
        tuple(tensors),
        tuple(skipped),
        section_kinds=sections,
        seals=tuple(seals),
        notes=_notes(entries),
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
    stream = Stream("inflate", (source.file, entry, header.data_start), nbytes)
    return catalogued(name, header, stream=stream, section=section)


def _notes(entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """What is left out: members that are no arrays; a directory holds nothing to leave out."""
    others = [entry.name for entry in entries if not entry.name.endswith((_SUFFIX, "/"))]
    if not others:
        return ()
    shown = ", ".join(map(repr, others[:3])) + (", ..." if len(others) > 3 else "")
    return (f"Ignored what is no .npy member: {shown} ({len(others)} in all).",)
