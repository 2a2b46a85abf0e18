"""From what a pickle claims about a tensor to a `TensorSpec` whose every byte exists.

All numbers of a pickle are claims: each is checked here, with integers that do not wrap,
against what the archive holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gradtool.core.dtypes import DTYPES
from gradtool.core.element_types import ElementType, numpy_type, storage_type, torch_type
from gradtool.core.locations import Extent, Inline
from gradtool.core.shapes.strides import (
    contiguous_strides,
    is_contiguous,
    overlaps_itself,
    repetitions,
    span,
)
from gradtool.core.tensors import META, SCALAR, TEXT, Skipped, TensorSpec, has_bits
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayScalar,
    ArrayType,
    Bytes,
    MetaRef,
    Storage,
    TensorRef,
    TextBytes,
    Unmeasured,
)
from gradtool.formats.pickles.walk import NamedLeaf

_MAX_DIMENSIONS: Final = 64
_MAX_REPEATED_NUMEL: Final = 1 << 20
_LIMIT: Final = 1 << 63
_TEXT_KINDS: Final = frozenset("USMm")  # NumPy's letters for text, bytes, dates and spans


@dataclass(slots=True)
class SpecBuilder:
    """Makes the catalogue's entries of one file, in order.

    Attributes:
        path: the file's, for errors.
        pickle: where the pickle lies, with the NumPy arrays inside it.
        record_of: the bytes of the storage with a key; None if there is no such record.
        section_of: the section of each tensor by name.
        big_endian: byte order of the storages that have a type; torch leaves the others alone.
    """

    path: str
    pickle: Extent
    record_of: Callable[[str], Extent | None]
    section_of: Callable[[str], str]
    big_endian: bool
    tensors: list[TensorSpec] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _storages: dict[str, tuple[str, object, str, Extent]] = field(default_factory=dict)

    def add(self, found: NamedLeaf) -> None:
        """List one more tensor, as measured or as skipped.

        Raises:
            CorruptFileError: its bytes are not there, or its numbers are none.
            UnsupportedFormatError: its type is unknown, its name or storage is used twice.
        """
        if found.name in self._names:
            problem = "two tensors come by this name: their keys differ in dots or in type only"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)
        self._names.add(found.name)
        match found.leaf:
            case TensorRef() as tensor:
                self._add_tensor(found, tensor)
            case Storage() as storage:
                whole = TensorRef(storage, 0, (storage.numel,), (1,))
                self._add_tensor(found, whole)
            case ArrayRef() as array:
                self._add_array(found, array)
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

    def _add_tensor(self, found: NamedLeaf, tensor: TensorRef) -> None:
        element, shape, strides, extent = self._place(found, tensor)
        in_order = is_contiguous(shape, strides)
        dtype = element.dtype or DTYPES.get(element.name)
        spec = None
        is_compared = dtype is not None and has_bits(dtype) and not self.big_endian
        if dtype is not None and (element.dtype is not None or is_compared):
            spec = TensorSpec(
                name=found.name,
                dtype=dtype,
                shape=shape,
                extents=(extent,) if extent.nbytes else (),
                strides=None if in_order else strides,
                big_endian=self._is_swapped(found, tensor, element),
                is_negated=tensor.negated,
                section=self.section_of(found.name),
            )
        if spec is None or element.dtype is None:
            self._skip(found, element.name, element.reason, stored=spec)
            return
        if not in_order:
            self._refuse_repeats(found, shape, strides, extent.nbytes)
        self.tensors.append(spec)

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
        numbers = [claim for claim in claims if type(claim) is int and 0 <= claim < _LIMIT]
        if len(numbers) != len(claims):
            problem = f"{what}: a number is negative, beyond 2^63 or no integer"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        return tuple(numbers)

    def _refuse_repeats(
        self, found: NamedLeaf, shape: Sequence[int], strides: Sequence[int], nbytes: int
    ) -> None:
        numel = math.prod(shape)
        if numel <= _MAX_REPEATED_NUMEL:
            return
        if repetitions(shape, strides) > 1 or overlaps_itself(shape, strides):
            problem = f"repeats {nbytes} bytes of its storage to make {numel} elements"
            raise UnsupportedFormatError(self.path, problem, tensor=found.name)

    def _add_array(self, found: NamedLeaf, array: ArrayRef) -> None:
        match array.state:
            case (int(), tuple() as shape, ArrayType() as dtype, fortran, data) if (
                len(shape) <= _MAX_DIMENSIONS
            ):
                pass
            case _:
                problem = "a NumPy array without a shape, a type or data"
                raise CorruptFileError(self.path, problem, tensor=found.name)
        sizes = self._integers(found, shape, "shape")
        element = numpy_type(dtype.description)
        if element is None or element.dtype is None:
            name, reason = (element.name, element.reason) if element else (dtype.description, "")
            is_text = dtype.description[:1] in _TEXT_KINDS
            self._skip(
                found, name, TEXT if is_text else reason or "NumPy type that holds no gradients"
            )
            return
        place = self._array_data(found, data, math.prod(sizes) * element.itemsize)
        strides = contiguous_strides(sizes[::-1])[::-1] if fortran else contiguous_strides(sizes)
        self.tensors.append(
            TensorSpec(
                name=found.name,
                dtype=element.dtype,
                shape=sizes,
                extents=(place,) if isinstance(place, Extent) and place.nbytes else (),
                strides=None if is_contiguous(sizes, strides) else strides,
                stream=place if isinstance(place, Inline) else None,
                big_endian=self._is_big_endian(found, dtype),
                section=self.section_of(found.name),
            )
        )

    def _is_big_endian(self, found: NamedLeaf, dtype: ArrayType) -> bool:
        """The byte order that a type's state says: (version, order, subarray, names, fields, …)."""
        match dtype.state:
            case None:
                return False
            case (3 | 4, "<" | "|" | "=", None, None, None, _, _, _, *_):
                return False
            case (3 | 4, ">", None, None, None, _, _, _, *_) if dtype.copied:
                return True
        problem = f"NumPy type {dtype.description!r:.80} with a state that is not its own"
        raise UnsupportedFormatError(self.path, problem, tensor=found.name)

    def _array_data(self, found: NamedLeaf, data: object, needs: int) -> Extent | Inline:
        """Where an array's bytes are: in the pickle as they are, or only as encoded text."""
        if isinstance(data, Bytes):
            place: Extent | Inline = Extent(
                self.pickle.file, self.pickle.offset + data.start, data.nbytes
            )
        elif isinstance(data, TextBytes):
            try:
                decoded = data.text.encode(data.encoding)
            except UnicodeEncodeError as error:
                problem = "a NumPy array whose text is no bytes"
                raise CorruptFileError(self.path, problem, tensor=found.name) from error
            place = Inline(decoded)
        else:
            problem = "a NumPy array without bytes"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        if place.nbytes != needs:
            problem = f"a NumPy array that promises {needs} bytes and holds {place.nbytes}"
            raise CorruptFileError(self.path, problem, tensor=found.name)
        return place if needs else Extent(self.pickle.file, self.pickle.offset, 0)

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
