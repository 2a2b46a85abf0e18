"""torch's own functions for clipping gradients, for use in their place in a training loop.

    >>> from gradtool.torch import clip_grad_norm_
    >>> clip_grad_norm_(model.named_parameters(), max_norm=1.0, error_if_nonfinite=True)

Signatures, results and errors are those of `torch.nn.utils`, with these differences and no
others:

- sums neither drift nor overflow: a norm is right to twelve digits whatever the number of
  elements and their magnitudes, and the same for any number of threads;
- the norm comes back as float64 (float32 where the device has none), not in the dtype of the
  gradients;
- the coefficient is not rounded to a half dtype, and each element is rounded once, a complex one
  part by part;
- `norm_type` 0 counts elements that are not zero, where torch counts tensors; NaN is refused;
- a negative or NaN `max_norm` is refused, where torch turns gradients round;
- tensors without elements add nothing to any norm, where torch raises for some;
- gradients that share memory count once and are scaled once, as does one that is given twice,
  and an element that an expanded one repeats;
- sparse COO gradients are measured and clipped by the values of their indices, each index once;
- `clip_grad_value_` of no gradient at all does nothing, where torch raises;
- the error for a non-finite norm names the gradients, where names were given.

On a GPU nothing waits for the device, unless `error_if_nonfinite` asks for its answer.
DTensors (FSDP2, tensor parallelism) have the norm of all ranks' parts, mixed with plain tensors
too, which every rank is taken to have the same of; all ranks have to make the same calls.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401 - for its absence to be told in one line
except ModuleNotFoundError as error:
    if error.name == "torch":
        error.msg = "gradtool.torch needs torch, which gradtool's extra `torch` installs"
    raise

from gradtool.torch.clip import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from gradtool.torch.dump import dump_gradients

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "dump_gradients",
    "get_total_norm",
]
