"""MLX's function for clipping gradients, for arrays of NumPy and of libraries that share with it.

>>> from gradtool.numpy import clip_grad_norm
>>> grads, total_norm = clip_grad_norm(grads, max_norm=1.0)
"""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.arrays.catalogue import catalogue_of
from gradtool.arrays.memory import (
    as_numpy,
    dtype_name,
    holds_its_elements,
    is_big_endian,
    is_mlx,
    is_plain_tensor,
    is_torch,
    torch_dtype_name,
)
from gradtool.arrays.parameters import NamedArray
from gradtool.arrays.tree import LONE_NAME, Tree, all_leaves, mapped
from gradtool.core.clipping import TORCH_EPS, Transform, clip_coef
from gradtool.core.element_types import array_type
from gradtool.core.sections import Sections
from gradtool.core.stats import merge
from gradtool.engine.backend import TASK_BYTES
from gradtool.engine.numpy_backend.transforms import apply
from gradtool.engine.progress import whole_progress
from gradtool.engine.schedule import batches
from gradtool.errors import UsageError
from gradtool.request import MeasureRequest, measured, working

__all__ = ["clip_grad_norm"]

_INTEGERS: Final = ("integer", "bool")
"""Reasons why a type is not measured in place though it has a norm: it is turned into floats."""


def clip_grad_norm(
    grads: Tree, max_norm: float, norm_type: float = 2.0, eps: float = TORCH_EPS
) -> tuple[Tree, float]:
    """The tree of gradients clipped by the norm of all of them together, and that norm.

        clip_coef = min(1, max_norm / (total_norm + eps));  g <- g * clip_coef

    Args:
        grads: nested dicts, lists and tuples of arrays: NumPy's, torch's on the CPU, MLX's, and
            those of libraries of the array API standard that share theirs by DLPack or
            `__array__` (JAX, CuPy). What is in them stays as it is.
        max_norm: bound on the norm, at least 0.
        norm_type: p, any float but NaN; only p > 0 can be clipped by, with a finite bound.
        eps: added to the norm: 1e-6 is MLX's, 0 optax's.

    Returns:
        A tree of the same shape with new arrays, of the library and dtype that they were, each
        element rounded to float64 and then to the dtype; and the norm before clipping. As in
        MLX, integers and bools come back as float32, a NaN among the gradients makes all of them
        NaN, and an infinity all others 0.

    Raises:
        ValueError: a bound, an order or an eps out of its range.
        TypeError: an array of a type that is no number's, or one whose library takes none back.
        AttributeError: a leaf that is no array, in MLX's words.
        UsageError: a tree that holds itself.
        InputError: arrays of different types over the same memory.

    Source: mlx/python/mlx/optimizers/optimizers.py, `clip_grad_norm`. Unlike there, sums neither
    drift nor overflow, those of integers included.
    """
    bound = _bound(max_norm)
    request = MeasureRequest(norm_type=_norm_type(norm_type, bound), backend="numpy")
    epsilon = _eps(eps)
    named = [NamedArray(name or LONE_NAME, leaf) for name, leaf in all_leaves(grads)]
    arrays = [_array(name, leaf) for name, leaf, _ in named]
    with working(request) as executor:
        norm = _norm(list(map(_measurable, named, arrays)), request, executor)
        scale = partial(_scaled, coef=clip_coef(norm, bound, epsilon))
        scaled = executor.map(scale, batches(arrays, _nbytes, TASK_BYTES))
        new = (array for batch in scaled for array in batch)
        return mapped(lambda leaf: _as_library_of(leaf, next(new)), grads), norm


def _norm(named: list[NamedArray], request: MeasureRequest, executor: Executor) -> float:
    if not named:
        return 0.0
    checkpoint, owners = catalogue_of(named, Sections())
    measurement = measured(checkpoint, request, executor, whole_progress(None), time.perf_counter())
    del owners  # they kept the memory alive that was read
    # Shared elements count for each array that names them, as if each had its own memory.
    return merge([tensor.stats for tensor in measurement.tensors], request.norm_type).norm


def _array(name: str, leaf: Any) -> Any:
    """The leaf as an array of NumPy, or as it is if it is a tensor of torch.

    Raises TypeError or AttributeError for a leaf that cannot be clipped.
    """
    array = leaf if is_torch(leaf) else as_numpy(leaf)
    if array is None and hasattr(leaf, "dtype"):
        raise TypeError(f"{name!r} is an array of objects, which is no gradient")
    if array is None:
        problem = f"{type(leaf).__name__!r} object has no attribute 'dtype'"
        raise AttributeError(f"{problem}: {name!r} is no array")
    dtype = _dtype_name(array)
    known_type = array_type(dtype)
    if known_type is None or (known_type.dtype is None and known_type.reason not in _INTEGERS):
        raise TypeError(f"{name!r} is an array of {dtype}, which is no gradient")
    if array is leaf and is_torch(leaf) and not is_plain_tensor(leaf):
        hint = "gradtool.torch.clip_grad_norm_ clips such"
        raise TypeError(f"{name!r} is no plain tensor in memory; {hint}")
    is_known = isinstance(leaf, np.ndarray | np.generic) or is_torch(leaf) or is_mlx(leaf)
    if not (is_known or hasattr(leaf, "__array_namespace__")):
        raise TypeError(f"{name!r}: {type(leaf).__name__} says not how to make another of it")
    return array


def _is_integer(array: Any) -> bool:
    """Whether the elements are integers or bools."""
    known_type = array_type(_dtype_name(array))
    return known_type is not None and known_type.reason in _INTEGERS


def _measurable(named: NamedArray, array: Any) -> NamedArray:
    """The array to measure for a leaf: the leaf itself, or integers turned into float64."""
    if not _is_integer(array):
        return named
    if is_torch(array) and not holds_its_elements(array):
        raise UsageError(f"{named.name!r}: its memory was freed")
    return NamedArray(named.name, _as_floats(array, "float64"))


def _as_floats(array: Any, dtype: str) -> Any:
    if is_torch(array):
        return array.to(getattr(sys.modules["torch"], dtype))
    return array.astype(dtype)


def _dtype_name(array: Any) -> str:
    return torch_dtype_name(array.dtype) if is_torch(array) else dtype_name(array.dtype)


def _nbytes(array: Any) -> int:
    nbytes: int = array.nbytes
    return nbytes


def _scaled(arrays: list[Any], coef: float) -> list[Any]:
    """New arrays with the elements multiplied by `coef`, those of integers as float32."""
    products = []
    for array in arrays:
        is_integer = _is_integer(array)
        new, raw, big_endian = _copied(_as_floats(array, "float64") if is_integer else array)
        known_type = array_type(_dtype_name(new))
        if coef != 1.0 and known_type is not None and known_type.dtype is not None:
            apply(raw, known_type.dtype, Transform(coef, nonfinite="scale"), big_endian=big_endian)
        products.append(_as_floats(new, "float32") if is_integer else new)
    return products


def _copied(array: Any) -> tuple[Any, NDArray[np.uint8], bool]:
    """A contiguous copy, its bytes, and whether the highest byte of an element comes first."""
    if is_torch(array):
        torch: Any = sys.modules["torch"]
        new = array.detach().resolve_conj().resolve_neg()
        new = new.clone(memory_format=torch.contiguous_format)
        return new, new.view(-1).view(torch.uint8).numpy(), False
    new = np.array(array, order="C")
    return new, new.reshape(-1).view(np.uint8), is_big_endian(new.dtype)


def _as_library_of(leaf: Any, array: Any) -> Any:
    """A new array as one of the library that `leaf` is of."""
    if is_torch(leaf) or isinstance(leaf, np.ndarray | np.generic):
        return array
    if is_mlx(leaf):
        return _as_mlx(array)
    return leaf.__array_namespace__().asarray(array)


def _as_mlx(array: NDArray[Any]) -> Any:
    core: Any = sys.modules["mlx.core"]
    if array.dtype == ml_dtypes.bfloat16:
        return core.array(array.view(np.uint16)).view(core.bfloat16)
    return core.array(array)


def _bound(max_norm: float) -> float:
    bound = float(max_norm)
    if not bound >= 0.0:
        raise ValueError(f"max_norm should be >=0, {max_norm} was provided instead.")
    return bound


def _norm_type(norm_type: float, bound: float) -> float:
    p = float(norm_type)
    if math.isnan(p):
        raise ValueError("norm_type should be a number, nan was provided instead.")
    if p <= 0.0 and bound < math.inf:
        raise ValueError(f"norm_type should be >0 to clip by, {norm_type} was provided instead.")
    return p


def _eps(eps: float) -> float:
    epsilon = float(eps)
    if not 0.0 <= epsilon < math.inf:
        raise ValueError(f"eps should be >=0 and finite, {eps} was provided instead.")
    return epsilon
