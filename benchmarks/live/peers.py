"""Who clips gradients in memory: gradtool's two and those that they are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import gradtool.numpy
import gradtool.torch
from benchmarks.harness.bouts import Call
from benchmarks.live.sets import Live

GRADTOOL = "gradtool.torch.clip_grad_norm_"
TORCH = "torch.nn.utils.clip_grad_norm_"

Clip = Callable[[list[Tensor], float], Tensor]


def clip_calls(live: Live, *, mlx: bool) -> list[Call]:
    """Everybody on a CPU."""
    calls = [*torch_calls(live), numpy_call(live)]
    return [*calls, mlx_call(live)] if mlx else calls


def torch_calls(live: Live) -> list[Call]:
    """Those that clip torch's gradients in place."""
    return [
        in_place(GRADTOOL, partial(gradtool.torch.clip_grad_norm_, dtype=torch.float64), live),
        in_place(TORCH, torch.nn.utils.clip_grad_norm_, live),
    ]


def in_place(label: str, clip: Clip, live: Live) -> Call:
    """A call that scales the gradients where they are."""
    parameters = list(live.parameters.values())
    return Call(
        label,
        live.restore,
        lambda _: (None, clip(parameters, live.bound)),
        lambda _: live.on_cpu(),
    )


def numpy_call(live: Live) -> Call:
    """The clip of NumPy arrays by gradtool; they are the same memory as torch's gradients.

    It leaves them as they are: `restore` is for what the caches hold, as for the others.
    """
    arrays = {name: as_numpy(grad) for name, grad in live.grads.items()}
    return Call(
        "gradtool.numpy.clip_grad_norm",
        live.restore,
        lambda _: gradtool.numpy.clip_grad_norm(arrays, live.bound),
        lambda clipped: map(from_numpy, clipped.values()),
    )


def mlx_call(live: Live) -> Call:
    """MLX's, of arrays of its own; they and the norm are evaluated within the timing."""
    import mlx.core as mx  # noqa: PLC0415 - not everybody has it
    from mlx.optimizers import clip_grad_norm  # noqa: PLC0415

    def copies() -> dict[str, Any]:
        live.restore()
        arrays = {name: _mlx_array(mx, grad) for name, grad in live.grads.items()}
        mx.eval(arrays)
        return arrays

    def clip(arrays: dict[str, Any]) -> tuple[dict[str, Any], float]:
        clipped, norm = clip_grad_norm(arrays, live.bound)
        mx.eval(clipped, norm)
        return clipped, norm.item()

    def tensors(clipped: dict[str, Any]) -> Iterator[Tensor]:
        return (_from_mlx(mx, array) for array in clipped.values())

    return Call("mlx.optimizers.clip_grad_norm", copies, clip, tensors)


def as_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    """The tensor's memory as an array; bfloat16 is ml_dtypes'."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """The reverse."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _mlx_array(mx: Any, tensor: Tensor) -> Any:
    """A copy of the tensor for MLX, which knows no bfloat16 of NumPy's."""
    if tensor.dtype is torch.bfloat16:
        return mx.array(tensor.view(torch.uint16).numpy()).view(mx.bfloat16)
    return mx.array(tensor.numpy())


def _from_mlx(mx: Any, array: Any) -> Tensor:
    if array.dtype == mx.bfloat16:
        return torch.from_numpy(np.array(array.view(mx.uint16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
