"""torch's own functions for clipping gradients, for use in their place in a training loop.

    >>> from gradtool.torch import clip_grad_norm_
    >>> clip_grad_norm_(model.named_parameters(), max_norm=1.0, error_if_nonfinite=True)

Signatures, results and errors are those of `torch.nn.utils`, with these differences and no
others:

- sums neither drift nor overflow: a norm is right to twelve digits whatever the number of
  elements and their magnitudes, and the same for any number of threads; of float64 and complex128
  elements below 2.3e-308, which are subnormal, to 2.5e-324 an element;
- the norm comes back in the dtype of torch's, but never narrower than float32: with all digits by
  `dtype=torch.float64`, where the device has that; the coefficient of `clip_grad_norm_` always
  comes from these;
- a norm that only float32 cannot hold comes back as infinity from `clip_grad_norm_`, which clips
  by it all the same; of `get_total_norm` it is an error, with `error_if_nonfinite`;
- the coefficient is not rounded to a half dtype, and each product is rounded to float64 and then
  to the dtype (to float32 on the way to a half one), a complex one part by part;
- `norm_type` 0 counts elements that are not zero, where torch counts tensors; NaN is refused;
- a negative or NaN `max_norm` is refused, where torch turns gradients round;
- tensors without elements add nothing to any norm, where torch raises for some;
- gradients that share memory count once and are scaled once, as does one that is given twice,
  and an element that an expanded one repeats;
- sparse COO gradients are measured and clipped by the values of their indices, each index once;
- `clip_grad_value_` of no gradient at all does nothing, where torch raises;
- the error for a non-finite norm names the gradients, where names were given;
- what the ranks find in their parts of DTensors is gathered, once for each dtype, each dimension
  of a mesh that splits them and each pass over the elements, where torch has one all-reduce for
  each dimension;
- `torch.compile` leaves its graph for these functions, and so raises with `fullgraph=True`.

On a GPU nothing waits for the device, unless `error_if_nonfinite` asks for its answer.
DTensors (FSDP2, tensor parallelism) have the norm of all ranks' parts, mixed with plain tensors
too, which every rank is taken to have the same of; all ranks have to make the same calls.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401 - first, so that its absence is an error of one line
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
from gradtool.torch.recorder import Recorder

__all__ = [
    "Recorder",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "dump_gradients",
    "get_total_norm",
]
