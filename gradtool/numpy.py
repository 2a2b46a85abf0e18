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
from gradtool.arrays.parameters import Named
from gradtool.arrays.tree import LONE, Tree, all_leaves, mapped
from gradtool.core.clipping import TORCH_EPS, Transform, clip_coef
from gradtool.core.element_types import array_type
from gradtool.core.stats import merge
from gradtool.engine.backend import TASK_BYTES
from gradtool.engine.numpy_backend.transforms import apply
from gradtool.engine.progress import whole_progress
from gradtool.engine.schedule import batches
from gradtool.errors import UsageError
from gradtool.request import MeasureRequest, measured, working

__all__ = ["clip_grad_norm"]

_WHOLE: Final = ("integer", "bool")
"""Why a type is not measured where it lies, though it has a norm."""


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
    named = [Named(name or LONE, leaf) for name, leaf in all_leaves(grads)]
    arrays = [_array(name, leaf) for name, leaf, _ in named]
    with working(request) as executor:
        norm = _norm(list(map(_measurable, named, arrays)), request, executor)
        scale = partial(_scaled, coef=clip_coef(norm, bound, epsilon))
        scaled = executor.map(scale, batches(arrays, _nbytes, TASK_BYTES))
        new = (array for batch in scaled for array in batch)
        return mapped(lambda leaf: _given_back(next(new), leaf), grads), norm


def _norm(named: list[Named], request: MeasureRequest, executor: Executor) -> float:
    if not named:
        return 0.0
    checkpoint, owners = catalogue_of(named, {})
    found = measured(checkpoint, request, executor, whole_progress(None), time.perf_counter())
    del owners  # whose memory was read until here
    # Of all that each array names: in memory that they share every one has values of its own.
    return merge([tensor.stats for tensor in found.tensors], request.norm_type).norm


def _array(name: str, leaf: Any) -> Any:
    """The leaf as an array of NumPy, or a tensor of torch, which has types that NumPy has not."""
    array = leaf if is_torch(leaf) else as_numpy(leaf)
    if array is None and hasattr(leaf, "dtype"):
        raise TypeError(f"{name!r} is an array of objects, which is no gradient")
    if array is None:
        problem = f"{type(leaf).__name__!r} object has no attribute 'dtype'"
        raise AttributeError(f"{problem}: {name!r} is no array")
    dtype = _dtype_name(array)
    known = array_type(dtype)
    if known is None or (known.dtype is None and known.reason not in _WHOLE):
        raise TypeError(f"{name!r} is an array of {dtype}, which is no gradient")
    if array is leaf and is_torch(leaf) and not is_plain_tensor(leaf):
        hint = "gradtool.torch.clip_grad_norm_ clips such"
        raise TypeError(f"{name!r} is no plain tensor in memory; {hint}")
    ours = isinstance(leaf, np.ndarray | np.generic) or is_torch(leaf) or is_mlx(leaf)
    if not (ours or hasattr(leaf, "__array_namespace__")):
        raise TypeError(f"{name!r}: {type(leaf).__name__} says not how to make another of it")
    return array


def _is_whole(array: Any) -> bool:
    """Whether the elements are integers or bools."""
    known = array_type(_dtype_name(array))
    return known is not None and known.reason in _WHOLE


def _measurable(named: Named, array: Any) -> Named:
    """What has the norm of a leaf: the leaf, or its integers as floats."""
    if not _is_whole(array):
        return named
    if is_torch(array) and not holds_its_elements(array):
        raise UsageError(f"{named.name!r}: its memory was freed")
    return Named(named.name, _as_floats(array, "float64"))


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
    """New arrays of the elements times `coef`."""
    found = []
    for array in arrays:
        is_whole = _is_whole(array)
        new, raw, big_endian = _copied(_as_floats(array, "float64") if is_whole else array)
        known = array_type(_dtype_name(new))
        if coef != 1.0 and known is not None and known.dtype is not None:
            apply(raw, known.dtype, Transform(coef, nonfinite="scale"), big_endian=big_endian)
        found.append(_as_floats(new, "float32") if is_whole else new)
    return found


def _copied(array: Any) -> tuple[Any, NDArray[np.uint8], bool]:
    """A contiguous copy, its bytes, and whether those of an element are the highest first."""
    if is_torch(array):
        torch: Any = sys.modules["torch"]
        new = array.detach().resolve_conj().resolve_neg()
        new = new.clone(memory_format=torch.contiguous_format)
        return new, new.view(-1).view(torch.uint8).numpy(), False
    new = np.array(array, order="C")
    return new, new.reshape(-1).view(np.uint8), is_big_endian(new.dtype)


def _given_back(array: Any, leaf: Any) -> Any:
    """A new array as one of the leaf's library."""
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
    added = float(eps)
    if not 0.0 <= added < math.inf:
        raise ValueError(f"eps should be >=0 and finite, {eps} was provided instead.")
    return added
