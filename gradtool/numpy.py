"""MLX's function for clipping gradients, for arrays of NumPy and of libraries that share with it.

>>> from gradtool.numpy import clip_grad_norm
>>> grads, total_norm = clip_grad_norm(grads, max_norm=1.0)
"""

from __future__ import annotations

import math
import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradtool.arrays.catalogue import catalogue_of
from gradtool.arrays.memory import as_numpy, is_mlx, is_torch, located
from gradtool.arrays.parameters import Named
from gradtool.arrays.tree import Tree, leaves, mapped
from gradtool.core.clipping import TORCH_EPS, Transform, clip_coef
from gradtool.core.element_types import array_type
from gradtool.engine.numpy_transforms import apply
from gradtool.job import Job

__all__ = ["clip_grad_norm"]


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
        element computed in float64 and rounded once; and the norm before clipping. As in MLX, a
        NaN among the gradients makes all of them NaN, and an infinity all others 0.

    Raises:
        ValueError: a bound, an order or an eps out of its range.
        TypeError: an array of integers, or one whose library takes none back.
        AttributeError: a leaf that is no array, in MLX's words.

    Source: mlx/python/mlx/optimizers/optimizers.py, `clip_grad_norm`. Unlike there, sums neither
    drift nor overflow, dtypes are kept, and an array that occurs twice counts once.
    """
    bound = _bound(max_norm)
    p, epsilon = _norm_type(norm_type, bound), _eps(eps)
    named = [Named(name or "gradient", leaf) for name, leaf in leaves(grads)]
    for name, leaf, _ in named:
        _refuse(name, leaf)
    norm = _norm(named, p)
    coef = clip_coef(norm, bound, epsilon)
    return mapped(lambda leaf: _scaled(leaf, coef), grads), norm


def _norm(named: list[Named], p: float) -> float:
    if not named:
        return 0.0
    job = Job.checked(norm_type=p)
    checkpoint, owners = catalogue_of(named, {})
    with job.executor() as executor:
        total = job.measure(checkpoint, executor, None).total
    del owners  # whose memory was read until here
    return total.norm if total else 0.0


def _refuse(name: str, leaf: Any) -> None:
    found = located(leaf)
    if found is None:
        problem = f"{type(leaf).__name__!r} object has no attribute 'square'"
        raise AttributeError(f"{problem}: {name!r} is no array")
    known = array_type(found.dtype)
    if known is None or known.dtype is None:
        raise TypeError(f"{name!r} is an array of {found.dtype}, which is no gradient")
    if is_torch(leaf) and (found.is_shard or found.has_indices or leaf.device.type != "cpu"):
        hint = "gradtool.torch.clip_grad_norm_ clips such"
        raise TypeError(f"{name!r} is no plain tensor in memory; {hint}")


def _scaled(leaf: Any, coef: float) -> Any:
    """A new array of the leaf's library."""
    if is_torch(leaf):
        tensor = leaf.detach().resolve_conj().resolve_neg().clone().contiguous()
        _scale(tensor.view(-1).view(sys.modules["torch"].uint8).numpy(), str(tensor.dtype), coef)
        return tensor
    array = np.array(as_numpy(leaf), order="C")
    _scale(array.reshape(-1).view(np.uint8), array.dtype.name, coef, array.dtype.byteorder)
    if isinstance(leaf, np.ndarray | np.generic):
        return array
    if is_mlx(leaf):
        return _as_mlx(array)
    return leaf.__array_namespace__().asarray(array)


def _scale(raw: NDArray[Any], dtype: str, coef: float, byteorder: str = "=") -> None:
    """Multiply elements, given as bytes, in place."""
    known = array_type(dtype.removeprefix("torch."))
    if known is not None and known.dtype is not None and coef != 1.0:
        big_endian = byteorder == ">" or (byteorder == "=" and sys.byteorder == "big")
        apply(raw, known.dtype, Transform(coef), big_endian=big_endian)


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
