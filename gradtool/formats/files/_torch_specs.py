"""From what a pickle claims about a tensor to a `TensorSpec` whose every byte exists.

All numbers of a pickle are claims: each is checked here, with integers that do not wrap,
against what the archive holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gradtool.core.dtypes import DTYPES
from gradtool.core.element_types import ElementType, numpy_type, storage_type, torch_type
from gradtool.core.figures import sparse_notes
from gradtool.core.locations import Extent
from gradtool.core.shapes.strides import (
    is_contiguous,
    overlaps_itself,
    repetitions,
    span,
)
from gradtool.core.tensors import META, SCALAR, Skipped, TensorSpec, has_bits
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files._array_specs import array_entry, integers
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayScalar,
    CoordinatesRef,
    MetaRef,
    Storage,
    TensorRef,
    Unmeasured,
)
from gradtool.formats.pickles.walk import NamedLeaf, Walk

_MAX_DIMENSIONS: Final = 64
_MAX_REPEATED_NUMEL: Final = 1 << 20


@dataclass(slots=True)
class SpecBuilder:
    """Makes the catalogue's entries of one file, in order.

    Attributes:
        path: the file's, for errors.
        pickle: where the pickle lies, with the NumPy arrays inside it.
        record_of: the bytes of the storage with a key; None if there is no such record.
        section_of: the section of each tensor by name.
        big_endian: byte order of the storages that have a type; torch leaves the others alone.
        coalesced, summed: how many sparse tensors of coordinates are listed by the stored values,
            and how many by sums of them.
    """

    path: str
    pickle: Extent
    record_of: Callable[[str], Extent | None]
    section_of: Callable[[str], str]
    big_endian: bool
    tensors: list[TensorSpec] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    coalesced: int = 0
    summed: int = 0
    _names: set[str] = field(default_factory=set)
    _storages: dict[str, tuple[str, object, str, Extent]] = field(default_factory=dict)

    def add(self, found: NamedLeaf) -> None:
        """List one more tensor, as measured or as skipped.

        Raises:
            CorruptFileError: its bytes are not there, or its numbers are none.
            UnsupportedFormatError: its type is unknown, its name or storage is used twice.
        """
        self._refuse_again(found)
        match found.leaf:
            case TensorRef() as tensor:
                self._add_tensor(found, tensor)
            case Storage() as storage:
                whole = TensorRef(storage, 0, (storage.numel,), (1,))
                self._add_tensor(found, whole)
            case ArrayRef() as array:
                self._add(array_entry(found, array, self.pickle, self.section_of(found.name)))
            case CoordinatesRef() as coordinates:
                self._add_coordinates(found, coordinates)
            case ArrayScalar(dtype=dtype):
                element = numpy_type(dtype.description)
                name = element.name if element else dtype.description
                self._skip(found, name, SCALAR)
            case Unmeasured(values=values, reason=reason):
                element, *_, extent = self._place(found, values)
                self._skip(found, element.name, reason, (extent,))
            case MetaRef(dtype=dtype_name):
                # Under the foreign name: a gradient that was lost is no integer.
                self._skip(found, dtype_name, META)

    def notes(self, walked: Walk) -> tuple[str, ...]:
        """Notes on what is measured in place of whole tensors, of which some are in `walked`."""
        return tuple(sparse_notes(walked.sparse + self.coalesced, self.summed))

    def _refuse_again(self, found: NamedLeaf) -> None:
        if found.name in self._names:
            problem = "two tensors come by this name: their keys differ in dots or in type only"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)
        self._names.add(found.name)

    def _add(self, entry: TensorSpec | Skipped) -> None:
        if isinstance(entry, TensorSpec):
            self.tensors.append(entry)
        else:
            self.skipped.append(entry)

    def _add_tensor(self, found: NamedLeaf, tensor: TensorRef) -> None:
        element, spec = self._described(found, tensor)
        if spec is None or element.dtype is None:
            is_compared = spec is not None and has_bits(spec.dtype) and not self.big_endian
            self._skip(found, element.name, element.reason, stored=spec if is_compared else None)
        else:
            self.tensors.append(spec)

    def _described(
        self, found: NamedLeaf, tensor: TensorRef
    ) -> tuple[ElementType, TensorSpec | None]:
        """The type of a tensor's elements, and the tensor if gradtool has a name for that."""
        element, shape, strides, extent = self._place(found, tensor)
        in_order = is_contiguous(shape, strides)
        dtype = element.dtype or DTYPES.get(element.name)
        if dtype is None:
            return element, None
        if not in_order and element.dtype is not None:
            self._refuse_repeats(found, shape, strides, extent.nbytes)
        return element, TensorSpec(
            name=found.name,
            dtype=dtype,
            shape=shape,
            extents=(extent,) if extent.nbytes else (),
            strides=None if in_order else strides,
            big_endian=element.dtype is not None and self._is_swapped(found, tensor, element),
            is_negated=tensor.negated,
            section=self.section_of(found.name),
        )

    def _add_coordinates(self, found: NamedLeaf, sparse: CoordinatesRef) -> None:
        """List a sparse tensor by its values, summed up where several have one index."""
        element, values = self._described(found, sparse.values)
        of_indices = found._replace(name=f"{found.name}.indices")
        self._refuse_again(of_indices)
        if values is None or element.dtype is None:  # of integers nothing is added up
            self._add_tensor(found, sparse.values)
            self._add_tensor(of_indices, sparse.indices)
            return
        _, indices = self._described(of_indices, sparse.indices)
        if type(sparse.sizes) is not tuple or indices is None:
            problem = "a sparse tensor without a shape"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        shape = self._integers(found, sparse.sizes, "shape")
        from gradtool.storage.elements.coordinates import listed  # noqa: PLC0415 - loads NumPy

        entry = listed(self.path, values, replace(indices, section=values.section), shape)
        self.tensors.append(entry.values)
        self.skipped.append(entry.indices)
        self.coalesced += not entry.is_summed
        self.summed += entry.is_summed

    def _place(
        self, found: NamedLeaf, tensor: TensorRef
    ) -> tuple[ElementType, tuple[int, ...], tuple[int, ...], Extent]:
        """Type, shape and strides of a tensor, and the bytes from its first element to its last."""
        element = self._element_type(found, tensor)
        stored = self._stored(found, tensor.storage, element)
        ndim = len(tensor.shape)
        if ndim != len(tensor.strides) or ndim > _MAX_DIMENSIONS:
            problem = f"{ndim} sizes and {len(tensor.strides)} strides"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        claims = (*tensor.shape, *tensor.strides, tensor.storage_offset)
        *_, offset = numbers = self._integers(found, claims, "shape, strides or offset")
        shape, strides = numbers[:ndim], numbers[ndim:-1]
        in_order = is_contiguous(shape, strides)
        nbytes = (math.prod(shape) if in_order else span(shape, strides)) * element.itemsize
        start = offset * element.itemsize
        if nbytes and start + nbytes > stored.nbytes:
            problem = f"reaches byte {start + nbytes} of a storage of {stored.nbytes} bytes"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        return element, shape, strides, Extent(stored.file, stored.offset + start, nbytes)

    def _is_swapped(self, found: NamedLeaf, tensor: TensorRef, element: ElementType) -> bool:
        """Whether the elements are big-endian, once torch has swapped what it swaps.

        It swaps storages, each by the size of its own elements: those of an untyped one are bytes.
        """
        stored_as = storage_type(tensor.storage.class_name)
        if not self.big_endian or stored_as is None or stored_as.itemsize == 1:
            return False
        if stored_as != element:
            problem = f"{element.name} in a big-endian storage of {stored_as.name}"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)
        return True

    def _element_type(self, found: NamedLeaf, tensor: TensorRef) -> ElementType:
        class_name = tensor.storage.class_name
        element = torch_type(tensor.dtype) if tensor.dtype else storage_type(class_name)
        if element is None:
            problem = f"gradtool does not know the type {tensor.dtype or class_name:.80}"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)
        return element

    def _stored(self, found: NamedLeaf, storage: Storage, read_as: ElementType) -> Extent:
        """The record of a storage, which must hold what each mention of it claims."""
        known = self._storages.get(storage.key)
        if known and known[:3] == (storage.class_name, storage.numel, read_as.name):
            return known[3]
        if known:
            problem = f"two tensors disagree on type or size of storage {storage.key!r:.80}"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        element = storage_type(storage.class_name)
        if element is None:
            problem = f"gradtool does not know the storage {storage.class_name:.80}"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)
        (numel,) = self._integers(found, (storage.numel,), "size of its storage")
        record = self.record_of(storage.key)
        if record is None:
            problem = f"the archive holds no record of its storage {storage.key!r:.80}"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        if record.nbytes != numel * element.itemsize:
            problem = (
                f"the pickle says {numel * element.itemsize} bytes of storage {storage.key!r:.80}, "
                f"the archive holds {record.nbytes}"
            )
            raise CorruptFileError(self.path, problem, tensor=found.name)
        self._storages[storage.key] = (storage.class_name, numel, read_as.name, record)
        return record

    def _integers(self, found: NamedLeaf, claims: tuple[object, ...], what: str) -> tuple[int, ...]:
        return integers(claims, what, self.path, found.name)

    def _refuse_repeats(
        self, found: NamedLeaf, shape: Sequence[int], strides: Sequence[int], nbytes: int
    ) -> None:
        numel = math.prod(shape)
        if numel <= _MAX_REPEATED_NUMEL:
            return
        if repetitions(shape, strides) > 1 or overlaps_itself(shape, strides):
            problem = f"repeats {nbytes} bytes of its storage to make {numel} elements"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)

    def _skip(
        self,
        found: NamedLeaf,
        dtype_name: str,
        reason: str,
        extents: tuple[Extent, ...] = (),
        stored: TensorSpec | None = None,
    ) -> None:
        section = self.section_of(found.name)
        self.skipped.append(Skipped(found.name, dtype_name, reason, section, extents, stored))
