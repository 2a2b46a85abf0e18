"""Tensors as byte ranges of files, as headers tell of them.

A `TensorSpec` is in normal form: its extents hold exactly the elements from the first one
it touches to the last, so that a view's storage offset is part of the extent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, Protocol

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.locations import Extent, Location, Source, Stream
from gradtool.core.shapes.boxes import Box, Held
from gradtool.core.shapes.grids import Grid
from gradtool.core.shapes.placements import Placement, fits_mesh, held_boxes
from gradtool.core.shapes.strides import distinct_axes, is_dense

SectionKind = Literal["gradients", "weights", "optimizer"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, type and shape, and where its elements are.

    Attributes:
        name: unique in its checkpoint; nested keys joined by dots.
        section: what it belongs to, as `core.sections` calls that, or "".
        shape: sizes; () for a scalar.
        extents: the bytes from the first element touched to the last, in order, each extent
            a whole number of elements. Empty for a streamed tensor.
        strides: in elements; None for C order without gaps.
        stream: the source of a tensor that is no byte range; always in C or Fortran order.
        packed: what a tensor is wrapped in that is found when it is read; it has no extents,
            strides or byte order until then, and is gapless.
        big_endian: byte order of the stored elements.
        is_negated: whether the elements are the negative of what is stored.
        chunks: the boxes that a tensor is cut into, which hold each of its elements once. It has
            no extents, strides or stream of its own then.
        scale: what its elements are to be multiplied by before anything is made of them.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    extents: tuple[Extent, ...] = ()
    strides: tuple[int, ...] | None = None
    stream: Stream | None = None
    packed: Packed | None = None
    big_endian: bool = False
    is_negated: bool = False
    section: str = ""
    chunks: tuple[Chunk, ...] = ()
    scale: Scale | None = None

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """What is stored of it in one piece each: itself, or its chunks, under its name."""
        return tuple(chunk.stored for chunk in self.chunks) if self.chunks else (self,)

    def under(self, name: str, section: str) -> TensorSpec:
        """The same tensor, with its chunks, under another name or in another section."""
        chunks = tuple(Chunk(chunk.box, chunk.stored.under(name, section)) for chunk in self.chunks)
        return replace(self, name=name, section=section, chunks=chunks)

    def in_section(self, section: str) -> TensorSpec:
        """The same tensor in another section."""
        return self.under(self.name, section)

    @property
    def numel(self) -> int:
        """Number of elements that the shape names."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes to read for it."""
        if self.chunks:
            return sum(chunk.stored.nbytes for chunk in self.chunks)
        if self.stream is not None:
            return self.stream.nbytes
        if self.packed is not None:
            return self.numel * self.dtype.itemsize
        return sum(extent.nbytes for extent in self.extents)

    @property
    def is_gapless(self) -> bool:
        """Whether it names every element among its bytes."""
        return self.strides is None or not self.extents or is_dense(self.shape, self.strides)

    @property
    def elements(self) -> object:
        """A key that is equal for tensors of the very same stored elements."""
        if self.strides is None or is_dense(self.shape, self.strides):
            return self.extents or self.stream
        return self.extents, tuple(distinct_axes(self.shape, self.strides))

    @property
    def named_elements(self) -> int:
        """How many elements a walk over it comes by: an expanded one once."""
        if self.strides is None:
            return self.numel
        return math.prod(size for _, size in distinct_axes(self.shape, self.strides))

    @property
    def stored_type(self) -> str:
        """Its dtype with the byte order, where that is not the usual one."""
        return f"big-endian {self.dtype.name}" if self.big_endian else self.dtype.name


class Packed(Protocol):
    """A range of a file in which a tensor is wrapped, opened only where the tensor is read.

    A plain value, as a `Stream` is: opening each of a hundred thousand takes longer than all else
    that a catalogue is made of.
    """

    @property
    def file(self) -> Location:
        """The file."""

    @property
    def offset(self) -> int:
        """The byte of the file at which the range begins."""

    def unpacked(self, spec: TensorSpec, source: Source, *, checksums: bool) -> Unpacked:
        """`spec`, which is packed in this, once the range is opened; `source` is the open file.

        Raises InputError where the range does not hold such a tensor.
        """


class Unpacked(NamedTuple):
    """A tensor with extents, and the checksums over it where they were asked for."""

    spec: TensorSpec
    checksums: tuple[StoredChecksum, ...] = ()
    serialization_ids: tuple[SerializationId, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers for the blocks of a tensor: one range of a file, or packed, in C order."""

    stored: TensorSpec
    grid: Grid


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, and the tensor of that shape in which its elements are stored."""

    box: Box
    stored: TensorSpec


@dataclass(frozen=True, slots=True)
class Placed:
    """Where in a larger tensor that belongs which a file holds under the tensor's name.

    Attributes:
        held: the boxes of the larger tensor that the file holds: one, mostly.
        whole: the shape of the larger tensor; None where the file does not say it.
        is_partial: whether it is a summand of the boxes rather than their elements.
    """

    held: tuple[Held, ...]
    whole: tuple[int, ...] | None = None
    is_partial: bool = False

    @classmethod
    def on_mesh(
        cls,
        whole: tuple[int, ...],
        mesh: Sequence[int],
        coordinate: Sequence[int],
        placements: Sequence[Placement],
    ) -> Placed | None:
        """What the rank at `coordinate` of a mesh holds; None for numbers that cannot be."""
        if not fits_mesh(whole, mesh, coordinate, placements):
            return None
        held = tuple(held_boxes(whole, mesh, coordinate, placements))
        return cls(held, whole, is_partial=any(one.is_partial for one in placements))


@dataclass(frozen=True, slots=True)
class Replica:
    """A further stored copy of a tensor, or of a box of it, to be compared with that.

    Attributes:
        rank: who holds it, as users call that: "rank 1".
        stored: the copy, under the tensor's name; chunks of it are stored under that name too.
        box: what it is a copy of, of the shape of `stored`; None for the whole tensor.
        is_assumed: whether nothing but names and shapes says that it is a copy.
        may_differ: whether it is a tensor of its own where its bytes differ: a rank's own loss.
    """

    rank: str
    stored: TensorSpec
    box: Box | None = None
    is_assumed: bool = False
    may_differ: bool = False

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.stored.name

    @property
    def section(self) -> str:
        """The tensor's section."""
        return self.stored.section

    @property
    def as_tensor(self) -> TensorSpec:
        """What the rank holds as a tensor of its own, with the rank in its name."""
        return self.stored.under(f"{self.name} ({self.rank})", self.section)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A stored tensor that is not measured, and why.

    `dtype` may be a foreign name. `extents` is where its elements are, if others may share them.
    `stored` is what is stored, where that can be compared or multiplied by.
    """

    name: str
    dtype: str
    reason: str
    section: str = ""
    extents: tuple[Extent, ...] = ()
    stored: TensorSpec | None = None


@dataclass(frozen=True, slots=True)
class StoredChecksum:
    """A stored CRC-32: `crc32` over `covers`, written at each file offset in `places`.

    `record` is the archive's name for what is covered. `is_required` says that the format's own
    reader compares it. Where it does not, a stored CRC of 0 that does not fit is no checksum:
    torch writes it where those are switched off.
    """

    record: str
    covers: Extent
    crc32: int
    places: tuple[int, ...]
    is_required: bool = False

    def fits(self, crc32: int) -> bool:
        """Whether bytes of that CRC-32 may be those that are meant."""
        return crc32 == self.crc32 or (self.crc32 == 0 and not self.is_required)


@dataclass(frozen=True, slots=True)
class SerializationId:
    """The second half of torch's serialization id: 20 digits made of the CRCs of all records.

    `digits` is where they are, and `crc32_of` the CRC-32 of every record that they are made of,
    by name and in the order in which records were written. Source: `writeSerializationId` of
    caffe2/serialize/inline_container.cc.
    """

    digits: Extent
    crc32_of: dict[str, int]


TEXT: Final = "text or dates"
SCALAR: Final = "NumPy scalar"
META: Final = "meta tensor, no data"
ABSENT: Final = "no gradient"
"""Why a name is listed and not measured: no numbers, a plain number, a shape without elements, a
parameter without any gradient.
"""


def skip_reason(dtype: DType) -> str | None:
    """Why a tensor of that type is listed but not measured; None for one that is measured."""
    if dtype.is_measured:
        return None
    if dtype.kind == "text":
        return TEXT
    return f"{dtype.kind} dtype" if dtype.kind in ("scale", "sub-byte") else dtype.kind


def has_bits(dtype: DType) -> bool:
    """Whether elements of a type that is not measured are whole bytes, which may be compared."""
    return dtype.kind in ("integer", "bool", "scale")


def hides_magnitude(skipped: Skipped) -> bool:
    """Whether a skipped tensor may belong to a gradient, so that totals are lower bounds."""
    if skipped.reason in (TEXT, SCALAR, ABSENT):
        return False
    dtype = DTYPES.get(skipped.dtype)
    return dtype is None or dtype.kind not in ("integer", "bool")
