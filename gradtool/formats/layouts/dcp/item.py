"""Items of torch's distributed checkpoints: each is what `torch.save` makes of one bare tensor.

A file may hold tens of thousands, and most are alike but for the elements and what is computed of
them: the bytes before the elements are the same for all tensors of a type and shape, and those
after them too, except for checksums. An item is read in full like any file of torch's; one whose
bytes around the elements are those of an item before it is the same but for these fields.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradtool.core.dtypes import DType
from gradtool.core.locations import Extent, Location, Source
from gradtool.core.tensors import SerializationId, StoredChecksum, TensorSpec, Unpacked
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files import torch_zip
from gradtool.formats.pickles.stand_ins import TensorRef
from gradtool.storage.archives.within import OpenRange, Range, reading_item
from gradtool.storage.archives.zip import read_directory

_MOST_AROUND: Final = 1 << 12
"""Bytes before the elements, and after them, up to which items are compared with others."""

_MOST_KNOWN: Final = 512
_LOCAL_SIZES: Final = struct.Struct("<2H").unpack_from
_LOCAL_SIZES_AT: Final = 26
_LOCAL_NBYTES: Final = 30
_DATA: Final = b"/data/0"


@dataclass(frozen=True, slots=True)
class TorchItem:
    """An item: `nbytes` bytes of `file` from byte `offset` on."""

    file: Location
    offset: int
    nbytes: int

    def unpacked(self, spec: TensorSpec, source: Source, *, checksums: bool) -> Unpacked:
        """See `Packed`: the tensor's extent and strides.

        Raises:
            CorruptFileError: it is no torch file of one tensor, of that type and shape.
            UnsupportedFormatError: a tensor as torch's writer stores none.
        """
        form, tail = self._form(spec, source)
        if form.dtype is not spec.dtype or form.shape != spec.shape:
            problem = (
                f"its item holds {form.dtype.name} of shape {list(form.shape)}, .metadata says "
                f"{spec.dtype.name} of shape {list(spec.shape)}"
            )
            raise CorruptFileError(self.file.path, problem, tensor=spec.name, byte=self.offset)
        found = TensorSpec(
            spec.name,
            spec.dtype,
            spec.shape,
            extents=(Extent(self.file, self.offset + form.data, spec.nbytes),),
            strides=form.strides,
            big_endian=form.big_endian,
            section=spec.section,
        )
        if not checksums:
            return Unpacked(found)
        return Unpacked(found, *self._checksums(spec.name, form, tail))

    def _form(self, spec: TensorSpec, source: Source) -> tuple[_Form, bytes]:
        """What the item's bytes around its elements say, and those after them."""
        start = _data_start(source.read(self.offset, min(self.nbytes, _MOST_AROUND)))
        end = 0 if start is None else start + spec.nbytes
        if start is None or not 0 <= self.nbytes - end <= _MOST_AROUND:
            form = self._read(spec, source)
            return form, self._after(form, source)
        head = source.read(self.offset, start)
        tail = source.read(self.offset + end, self.nbytes - end)
        key = (head, spec.nbytes, len(tail))
        known = _KNOWN.get(key)
        if known is None or not known.fits(tail):
            known = self._read(spec, source)
            if known.data != start:
                return known, self._after(known, source)
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            _KNOWN[key] = known
        return known, tail

    def _after(self, form: _Form, source: Source) -> bytes:
        """The bytes after the elements."""
        end = form.data + form.nbytes
        return source.read(self.offset + end, self.nbytes - end)

    def _read(self, spec: TensorSpec, source: Source) -> _Form:
        """What the item says, read like any torch file."""
        view = OpenRange(Range(self.file, self.offset, self.nbytes), source)
        with reading_item(self.file.path, self.offset, spec.name):
            return _form_of(view)

    def _checksums(
        self, name: str, form: _Form, tail: bytes
    ) -> tuple[tuple[StoredChecksum, ...], tuple[SerializationId, ...]]:
        """The checksums over the item's records, by names of their own among those of the file."""
        start = f"{name} at byte {self.offset}: "
        tail_at = form.data + form.nbytes
        checksums = []
        for stored in form.checksums:
            crc32 = stored.crc32
            if _varies(stored, tail_at):
                place = stored.places[0] - tail_at
                crc32 = int.from_bytes(tail[place : place + 4], "little")
            places = tuple(self.offset + place for place in stored.places)
            covers = self._moved(stored.covers)
            checksums.append(StoredChecksum(start + stored.record, covers, crc32, places))
        crc32_of = {checksum.record: checksum.crc32 for checksum in checksums}
        ids = []
        for one in form.ids:
            records = {start + record: crc32 for record, crc32 in one.crc32_of.items()}
            current = {record: crc32_of.get(record, crc32) for record, crc32 in records.items()}
            ids.append(SerializationId(self._moved(one.digits), current))
        return tuple(checksums), tuple(ids)

    def _moved(self, extent: Extent) -> Extent:
        """An extent of the item as one of the file."""
        return Extent(self.file, self.offset + extent.offset, extent.nbytes)


@dataclass(frozen=True, slots=True)
class _Form:
    """What is the same for all items that are alike; offsets count from the item's first byte.

    Attributes:
        dtype, shape, strides, big_endian: of the tensor.
        data, nbytes: where its elements are, and their bytes.
        checksums, ids: of the item that was read; no checksum is over the pickle.
        alike: the places, after the elements, of fields that differ from item to item: those in
            one tuple hold the same four bytes.
        digits: where the digits are that differ, after the elements.
        tail: the bytes after the elements, with zeros for such fields.
    """

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    big_endian: bool
    data: int
    nbytes: int
    checksums: tuple[StoredChecksum, ...]
    ids: tuple[SerializationId, ...]
    alike: tuple[tuple[int, ...], ...]
    digits: tuple[slice, ...]
    tail: bytes

    def fits(self, tail: bytes) -> bool:
        """Whether an item with the same bytes before its elements, and `tail` after, is alike."""
        for places in self.alike:
            first = tail[places[0] : places[0] + 4]
            if any(tail[place : place + 4] != first for place in places[1:]):
                return False
        return _without_fields(tail, self.alike, self.digits) == self.tail


_KNOWN: Final[dict[tuple[bytes, int, int], _Form]] = {}
"""Forms by the bytes before the elements, the elements' bytes, and the number of those after."""


def _without_fields(tail: bytes, alike: Sequence[Sequence[int]], digits: Sequence[slice]) -> bytes:
    masked = bytearray(tail)
    for places in alike:
        for place in places:
            masked[place : place + 4] = b"0000"
    for part in digits:
        masked[part] = b"0" * (part.stop - part.start)
    return bytes(masked)


def _varies(checksum: StoredChecksum, tail_at: int) -> bool:
    """Whether a checksum is stored after the elements only, so that alike items differ in it."""
    return min(checksum.places) >= tail_at


def _data_start(head: bytes) -> int | None:
    """Where the elements begin if the item is as torch writes it, given its first bytes."""
    header = head.rfind(b"PK\3\4", 0, head.find(_DATA))
    if header < 0 or header + _LOCAL_NBYTES > len(head):
        return None
    name_nbytes, extra_nbytes = _LOCAL_SIZES(head, header + _LOCAL_SIZES_AT)
    start: int = header + _LOCAL_NBYTES + name_nbytes + extra_nbytes
    return start if start <= len(head) else None


def _form_of(source: Source) -> _Form:
    """What an item says, given as a source of its own."""
    entries = read_directory(source)
    if not torch_zip.recognises(entries):
        raise CorruptFileError(source.path, "no torch file of one tensor")
    tree = torch_zip.open_tree(source, entries)
    catalogue = torch_zip.catalogue_of(tree)
    skipped = (item.stored for item in catalogue.skipped)
    specs = [*catalogue.tensors, *(stored for stored in skipped if stored is not None)]
    if not isinstance(tree.unpickled.root, TensorRef) or len(specs) != 1:
        raise CorruptFileError(source.path, "no torch file of one tensor")
    (spec,) = specs
    is_dense = spec.is_gapless and spec.nbytes == spec.numel * spec.dtype.itemsize
    records = {(checksum.covers.offset, checksum.covers.nbytes) for checksum in catalogue.checksums}
    (extent,) = spec.extents or (Extent(source.file, 0, 0),)
    if spec.is_negated or not is_dense or (extent.offset, extent.nbytes) not in records:
        raise UnsupportedFormatError(source.path, "a view, of which torch's writer stores none")
    data, tail_at = extent.offset, extent.end
    checksums = tuple(c for c in catalogue.checksums if c.record != tree.record.name)
    alike = tuple(
        tuple(place - tail_at for place in checksum.places)
        for checksum in checksums
        if _varies(checksum, tail_at)
    )
    digits = tuple(
        slice(one.digits.offset - tail_at, one.digits.end - tail_at)
        for one in catalogue.serialization_ids
    )
    tail = source.read(tail_at, source.file.size - tail_at)
    return _Form(
        dtype=spec.dtype,
        shape=spec.shape,
        strides=spec.strides,
        big_endian=spec.big_endian,
        data=data,
        nbytes=spec.nbytes,
        checksums=checksums,
        ids=catalogue.serialization_ids,
        alike=alike,
        digits=digits,
        tail=_without_fields(tail, alike, digits),
    )
