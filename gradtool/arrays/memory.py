"""Where in memory the elements of an array lie, whichever library it belongs to."""

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

from gradtool.core.element_types import array_type
from gradtool.core.locations import Extent
from gradtool.core.strides import is_contiguous, overlaps_itself, span
from gradtool.core.tensors import META, TEXT, Skipped, TensorSpec
from gradtool.errors import UnsupportedFormatError
from gradtool.storage.memory import MEMORY_PATH, memory

Array = NDArray[Any]

NOWHERE: Final = -1
"""The address of a tensor that has no elements but a shape."""

_NOT_SHARED: Final = (BufferError, RuntimeError, TypeError, ValueError, AttributeError)
_TEXT_TYPES: Final = ("str", "bytes", "datetime64", "timedelta64")
_MAX_REPEATED_NUMEL: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Located:
    """An array's elements in memory.

    `owner` keeps them there. `dtype` is the library's name for their type, and `strides` are in
    elements, none of them negative. Of a DTensor they are this rank's part, of a sparse tensor
    the values, and `indices` are the types of its parts that say where those belong.
    """

    owner: object
    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    big_endian: bool = False
    is_shard: bool = False
    indices: Mapping[str, str] = field(default_factory=dict)

    def listed(self, name: str, section: str) -> TensorSpec | Skipped:
        """The array as a tensor of a catalogue.

        Raises UnsupportedFormatError for a type that may be of gradients and is not known, or a
        view that makes many elements of few.
        """
        if self.address == NOWHERE:
            return Skipped(name, f"torch.{self.dtype}", META, section)
        found = array_type(self.dtype)
        if found is None and not self.dtype.startswith(_TEXT_TYPES):
            problem = f"gradtool does not know the type {self.dtype}"
            raise UnsupportedFormatError(MEMORY_PATH, problem, tensor=name)
        if found is None or found.dtype is None:
            reason = found.reason if found else TEXT
            return Skipped(name, found.name if found else self.dtype, reason, section)
        stored = span(self.shape, self.strides)
        contiguous = is_contiguous(self.shape, self.strides)
        nbytes = stored * found.itemsize
        # Expansion costs nothing; where indices meet otherwise, each of them is held.
        is_large = not contiguous and math.prod(self.shape) > _MAX_REPEATED_NUMEL
        if is_large and overlaps_itself(self.shape, self.strides):
            problem = f"repeats {stored} stored elements to make {math.prod(self.shape)}"
            raise UnsupportedFormatError(MEMORY_PATH, problem, tensor=name)
        return TensorSpec(
            name,
            found.dtype,
            self.shape,
            (Extent(memory(), self.address, nbytes),) if nbytes else (),
            None if contiguous else self.strides,
            big_endian=self.big_endian,
            section=section,
        )


def is_torch(leaf: object) -> bool:
    """Whether it is a torch tensor; where nobody has imported torch there is none."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(leaf, torch.Tensor)


def is_plain_tensor(tensor: Any) -> bool:
    """Whether a torch tensor's elements are all in memory, and at strides."""
    is_strided = str(tensor.layout) == "torch.strided"
    return is_strided and tensor.device.type == "cpu" and not hasattr(tensor, "to_local")


def holds_its_elements(tensor: Any) -> bool:
    """Whether a strided tensor's storage is there, and reaches as far as it does."""
    end = tensor.storage_offset() + span(tensor.shape, tensor.stride())
    is_there = tensor.data_ptr() != 0 or tensor.numel() == 0
    return is_there and bool(end * tensor.itemsize <= tensor.untyped_storage().nbytes())


def is_mlx(leaf: object) -> bool:
    """Whether it is an MLX array."""
    core: Any = sys.modules.get("mlx.core")
    return core is not None and isinstance(leaf, core.array)


def located(leaf: Any) -> Located | None:
    """Where the elements of an array are; None for what is no array of numbers.

    What lies on a device, or cannot be described by strides, is copied to memory first.
    """
    if is_torch(leaf):
        return _located_tensor(leaf)
    array = as_numpy(leaf)
    return None if array is None else _located_array(array)


def as_numpy(leaf: Any) -> Array | None:
    """The array as one of NumPy's, of the same memory if that is possible; None for no array."""
    if isinstance(leaf, np.ndarray | np.generic):
        found: Array = np.asarray(leaf)
    elif is_mlx(leaf):
        found = _mlx_as_numpy(leaf)
    elif hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array__"):
        found = _exchanged(leaf)
    else:
        return None
    return None if found.dtype.hasobject else found


def _mlx_as_numpy(leaf: Any) -> Array:
    core: Any = sys.modules["mlx.core"]
    if leaf.dtype == core.bfloat16:  # which Python's buffers have no letter for
        words: Array = np.asarray(leaf.view(core.uint16))
        return words.view(ml_dtypes.bfloat16)
    return np.asarray(leaf)


def _exchanged(leaf: Any) -> Array:
    """DLPack shares memory; where NumPy cannot take that (bfloat16, a device), `__array__` may."""
    with contextlib.suppress(*_NOT_SHARED):
        return np.from_dlpack(leaf)
    with contextlib.suppress(*_NOT_SHARED):
        return np.from_dlpack(leaf, device="cpu")
    return np.asarray(leaf)


def _located_array(array: Array) -> Located:
    itemsize = max(array.itemsize, 1)
    if any(stride < 0 or stride % itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    return Located(
        array,
        array.__array_interface__["data"][0],
        dtype_name(array.dtype),
        array.shape,
        tuple(stride // itemsize for stride in array.strides),
        is_big_endian(array.dtype),
    )


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """The dtype's name, which NumPy takes microseconds to find."""
    return dtype.name


def is_big_endian(dtype: np.dtype[Any]) -> bool:
    """Whether elements of that type have their highest byte first."""
    order = dtype.byteorder
    return order == ">" or (order == "=" and sys.byteorder == "big")


def _located_tensor(tensor: Any) -> Located:
    is_shard = hasattr(tensor, "to_local")
    local = tensor.detach()
    if is_shard:
        local = local.to_local()
    local, indices = _values_and_indices(local)
    local = local if local.is_meta else local.resolve_neg().cpu()
    if not local.is_meta and not holds_its_elements(local):
        raise RuntimeError("its memory was freed")
    return Located(
        local,
        NOWHERE if local.is_meta else local.data_ptr(),
        torch_dtype_name(local.dtype),
        tuple(local.shape),
        local.stride(),
        sys.byteorder == "big",
        is_shard,
        indices,
    )


def _values_and_indices(tensor: Any) -> tuple[Any, dict[str, str]]:
    """The stored elements of a tensor, and the types of what says where in it they belong."""
    layout = str(tensor.layout)
    if layout == "torch.sparse_coo":
        return tensor.coalesce().values(), {"indices": "I64"}
    if not layout.startswith("torch.sparse_"):
        return tensor, {}
    by_row = layout in ("torch.sparse_csr", "torch.sparse_bsr")
    index_type = (tensor.crow_indices() if by_row else tensor.ccol_indices()).dtype
    known = array_type(torch_dtype_name(index_type))
    return tensor.values(), dict.fromkeys(
        ("compressed_indices", "plain_indices"), known.name if known else "I64"
    )


def torch_dtype_name(dtype: Any) -> str:
    """The name of a dtype of torch, without `torch.`."""
    return str(dtype).removeprefix("torch.")
