"""The equations of clipping, by norm and by value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from gradtool.errors import UsageError

TORCH_EPS = 1e-6
"""What torch, MLX, Megatron and DeepSpeed add to the norm; optax and TensorFlow add nothing."""


@dataclass(frozen=True, slots=True)
class Transform:
    """What becomes of each finite element g of a tensor, in float64 and rounded once.

        g <- g * coef   or   g <- min(max(g, -bound), bound)

    One of `coef` and `bound` is left as it is here. `nonfinite` says what becomes of NaN and
    Inf: 0, or the very bits that they have, or what the equation makes of them, or nothing
    because the tensor is known to hold none.

    Source: torch/nn/utils/clip_grad.py, `clip_grads_with_norm_` and `clip_grad_value_`.
    """

    coef: float = 1.0
    bound: float = math.inf
    nonfinite: Literal["absent", "zero", "keep", "scale"] = "absent"


IDENTITY: Final = Transform()


def clip_coef(total_norm: float, max_norm: float, eps: float = TORCH_EPS) -> float:
    """The factor that brings gradients of norm `total_norm` down to `max_norm`.

        clip_coef = min(1, max_norm / (total_norm + eps))

    Source: torch/nn/utils/clip_grad.py, `clip_grads_with_norm_`. A norm of 0 needs no
    scaling (with `eps` 0 the equation would divide by it). NaN where `total_norm` is NaN,
    0.0 where it is infinite: what torch multiplies gradients by when told to go on.

    Raises UsageError unless `max_norm` is at least 0 and `eps` at least 0 and finite: a NaN
    bound would disarm every clip, a negative one would turn gradients round.
    """
    if not max_norm >= 0.0:
        raise UsageError(f"`max_norm` must be at least 0, not {max_norm}")
    if not 0.0 <= eps < math.inf:
        raise UsageError(f"`eps` must be at least 0 and finite, not {eps}")
    if math.isnan(total_norm):
        return math.nan
    if total_norm + eps <= 0.0 or math.isinf(max_norm):
        return 1.0
    return min(1.0, max_norm / (total_norm + eps))
