"""Finding where in memory the elements of an array lie, whichever library it belongs to."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES
from gradtool.core.element_types import array_type
from gradtool.core.locations import Extent
from gradtool.core.shapes.strides import is_contiguous, overlaps_itself, span
from gradtool.core.tensors import META, TEXT, Skipped, TensorSpec, has_bits
from gradtool.errors import UnsupportedFormatError
from gradtool.storage.memory import MEMORY_PATH, memory

Array = NDArray[Any]

NO_ADDRESS: Final = -1
"""The address of a tensor on the meta device, which has a shape and no elements."""

_NOT_SHARED: Final = (BufferError, RuntimeError, TypeError, ValueError, AttributeError)
_TEXT_TYPES: Final = ("str", "bytes", "datetime64", "timedelta64")
_MAX_REPEATED_NUMEL: Final = 1 << 20
"""The most elements that a view may have which names some of them several times."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Where the elements of an array lie in memory: of a DTensor those of this rank's part.

    Attributes:
        owner: the object that keeps the memory alive.
        address: of the first element, or NO_ADDRESS.
        dtype: the library's name of their type.
        shape: sizes; of a sparse tensor those of its values.
        strides: in elements, none of them negative.
        big_endian: whether the highest byte of an element comes first.
        is_shard: whether the array is a DTensor.
        indices: of a sparse tensor, its index tensors by their names.
        whole: of a sparse tensor of coordinates, its own shape.
    """

    owner: object
    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    big_endian: bool = False
    is_shard: bool = False
    indices: Mapping[str, Any] = field(default_factory=dict)
    whole: tuple[int, ...] | None = None

    def entry(self, name: str, section: str) -> TensorSpec | Skipped:
        """The array as a tensor of a catalogue.

        Raises UnsupportedFormatError for an unknown type that may be of gradients, or a view that
        makes many elements of few.
        """
        if self.address == NO_ADDRESS:
            return Skipped(name, f"torch.{self.dtype}", META, section)
        known_type = array_type(self.dtype)
        if known_type is None and not self.dtype.startswith(_TEXT_TYPES):
            problem = f"gradtool does not know the type {self.dtype}"
            raise UnsupportedFormatError(MEMORY_PATH, problem, tensor=name)
        if known_type is None:
            return Skipped(name, self.dtype, TEXT, section)
        stored = span(self.shape, self.strides)
        contiguous = is_contiguous(self.shape, self.strides)
        nbytes = stored * known_type.itemsize
        extents = (Extent(memory(), self.address, nbytes),) if nbytes else ()
        if known_type.dtype is None:
            dtype = DTYPES.get(known_type.name)
            stored_as = None
            if dtype is not None and has_bits(dtype) and contiguous:
                stored_as = TensorSpec(name, dtype, self.shape, extents, section=section)
            reason = known_type.reason
            return Skipped(name, known_type.name, reason, section, stored=stored_as)
        # Expanded axes cost nothing; other views that repeat elements take memory for each index.
        is_large = not contiguous and math.prod(self.shape) > _MAX_REPEATED_NUMEL
        if is_large and overlaps_itself(self.shape, self.strides):
            problem = f"repeats {stored} stored elements to make {math.prod(self.shape)}"
            raise UnsupportedFormatError(MEMORY_PATH, problem, tensor=name)
        return TensorSpec(
            name,
            known_type.dtype,
            self.shape,
            extents,
            None if contiguous else self.strides,
            big_endian=self.big_endian,
            section=section,
        )


def is_torch(leaf: object) -> bool:
    """Whether `leaf` is a torch tensor; torch is never imported for it."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(leaf, torch.Tensor)


def is_plain_tensor(tensor: Any) -> bool:
    """Whether a torch tensor is strided, in the CPU's memory, and no DTensor."""
    is_strided = str(tensor.layout) == "torch.strided"
    return is_strided and tensor.device.type == "cpu" and not hasattr(tensor, "to_local")


def holds_its_elements(tensor: Any) -> bool:
    """Whether a strided tensor's storage exists and covers all its elements."""
    end = tensor.storage_offset() + span(tensor.shape, tensor.stride())
    is_there = tensor.data_ptr() != 0 or tensor.numel() == 0
    return is_there and bool(end * tensor.itemsize <= tensor.untyped_storage().nbytes())


def is_mlx(leaf: object) -> bool:
    """Whether `leaf` is an MLX array; MLX is never imported for it."""
    core: Any = sys.modules.get("mlx.core")
    return core is not None and isinstance(leaf, core.array)


def elements_of(leaf: Any) -> Elements | None:
    """Where the elements of an array lie; None for what is no array of numbers.

    An array on a device, or without such strides, is copied to memory first.
    """
    if is_torch(leaf):
        return _elements_of_tensor(leaf)
    array = as_numpy(leaf)
    return None if array is None else _elements_of_array(array)


def as_numpy(leaf: Any) -> Array | None:
    """The array as one of NumPy's, in the same memory if possible; None for no array of numbers."""
    if isinstance(leaf, np.ndarray | np.generic):
        array: Array = np.asarray(leaf)
    elif is_mlx(leaf):
        array = _mlx_as_numpy(leaf)
    elif hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array__"):
        array = _imported(leaf)
    else:
        return None
    return None if array.dtype.hasobject else array


def _mlx_as_numpy(leaf: Any) -> Array:
    core: Any = sys.modules["mlx.core"]
    if leaf.dtype == core.bfloat16:  # Python's buffer protocol has no code for it
        words: Array = np.asarray(leaf.view(core.uint16))
        return words.view(ml_dtypes.bfloat16)
    return np.asarray(leaf)


def _imported(leaf: Any) -> Array:
    """An array of another library, shared by DLPack, or by `__array__` where that cannot be.

    DLPack of NumPy cannot take bfloat16, for example, or memory of a device.
    """
    with contextlib.suppress(*_NOT_SHARED):
        return np.from_dlpack(leaf)
    with contextlib.suppress(*_NOT_SHARED):
        return np.from_dlpack(leaf, device="cpu")
    return np.asarray(leaf)


def _elements_of_array(array: Array) -> Elements:
    itemsize = max(array.itemsize, 1)
    if any(stride < 0 or stride % itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    return Elements(
        array,
        array.__array_interface__["data"][0],
        dtype_name(array.dtype),
        array.shape,
        tuple(stride // itemsize for stride in array.strides),
        is_big_endian(array.dtype),
    )


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """The dtype's name, cached: NumPy takes microseconds to make it."""
    return dtype.name


def is_big_endian(dtype: np.dtype[Any]) -> bool:
    """Whether elements of that type have their highest byte first."""
    order = dtype.byteorder
    return order == ">" or (order == "=" and sys.byteorder == "big")


def _elements_of_tensor(tensor: Any) -> Elements:
    is_shard = hasattr(tensor, "to_local")
    local = tensor.detach()
    if is_shard:
        local = local.to_local()
    whole = tuple(local.shape) if str(local.layout) == "torch.sparse_coo" else None
    local, indices = _values_and_indices(local)
    local = local if local.is_meta else local.resolve_neg().cpu()
    if not local.is_meta and not holds_its_elements(local):
        raise RuntimeError("its memory was freed")
    return Elements(
        local,
        NO_ADDRESS if local.is_meta else local.data_ptr(),
        torch_dtype_name(local.dtype),
        tuple(local.shape),
        local.stride(),
        sys.byteorder == "big",
        is_shard,
        indices,
        whole,
    )


def _values_and_indices(tensor: Any) -> tuple[Any, dict[str, Any]]:
    """A tensor's stored values, and its index tensors by name if it is sparse."""
    layout = str(tensor.layout)
    if layout == "torch.sparse_coo":
        return tensor._values(), {"indices": tensor._indices().contiguous()}
    if not layout.startswith("torch.sparse_"):
        return tensor, {}
    if layout in ("torch.sparse_csr", "torch.sparse_bsr"):
        compressed, plain = tensor.crow_indices(), tensor.col_indices()
    else:
        compressed, plain = tensor.ccol_indices(), tensor.row_indices()
    return tensor.values(), {"compressed_indices": compressed, "plain_indices": plain}


def torch_dtype_name(dtype: Any) -> str:
    """The name of a torch dtype, without `torch.`."""
    return str(dtype).removeprefix("torch.")
