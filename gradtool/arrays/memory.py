"""Where in memory the elements of an array lie, whichever library it belongs to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.core.element_types import array_type
from gradtool.core.strides import is_contiguous, span
from gradtool.core.tensors import MEMORY, TEXT, Extent, Skipped, TensorSpec

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Located:
    """An array's elements in memory.

    `owner` keeps them there. `dtype` is the library's name for their type, and `strides` are in
    elements, none of them negative. Of a DTensor they are this rank's part, of a sparse tensor
    the values at its indices.
    """

    owner: object
    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    big_endian: bool = False
    is_shard: bool = False
    has_indices: bool = False

    def listed(self, name: str, section: str) -> TensorSpec | Skipped:
        """The array as a tensor of a catalogue."""
        found = array_type(self.dtype)
        if found is None or found.dtype is None:
            reason = found.reason if found else TEXT
            return Skipped(name, found.name if found else self.dtype, reason, section)
        nbytes = span(self.shape, self.strides) * found.itemsize
        contiguous = is_contiguous(self.shape, self.strides)
        return TensorSpec(
            name,
            found.dtype,
            self.shape,
            (Extent(MEMORY, self.address, nbytes),) if nbytes else (),
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
    try:
        return np.from_dlpack(leaf)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError):
        return np.asarray(leaf)


def _located_array(array: Array) -> Located:
    itemsize = array.itemsize
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
    is_shard, has_indices = hasattr(tensor, "to_local"), False
    local = tensor.detach()
    if is_shard:
        local = local.to_local()
    if local.is_sparse:
        has_indices = True
        local = local.coalesce()._values()
    local = local.cpu()
    return Located(
        local,
        local.data_ptr(),
        str(local.dtype).removeprefix("torch."),
        tuple(local.shape),
        local.stride(),
        sys.byteorder == "big",
        is_shard,
        has_indices,
    )
