"""The equations of clipping, by norm and by value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gradtool.errors import UsageError

TORCH_EPS = 1e-6
"""What torch, MLX, Megatron and DeepSpeed add to the norm; optax and TensorFlow add nothing."""


AGC_EPS: Final = 1e-3
"""The least norm that adaptive clipping takes a unit of weights to have."""

_AGC_LEAST_NORM: Final = 1e-6
"""What adaptive clipping divides by at least."""


@dataclass(frozen=True, slots=True)
class Units:
    """A factor of its own for each unit of a tensor.

    A unit is what lies at one index of the first axis, a row of a matrix; a tensor of fewer than
    two axes is one unit.

    Attributes:
        coefs: the factors, float64 in the machine's byte order, one after another.
        shape, strides: those of the tensor, so that equal units of equal elements are the same.
    """

    coefs: bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    @property
    def is_zero(self) -> bool:
        """Whether all factors are 0."""
        return not any(self.coefs)


@dataclass(frozen=True, slots=True)
class Transform:
    """What becomes of each finite element g of a tensor, in float64 and rounded once.

        g <- g * coef   or   g <- min(max(g, -bound), bound)

    One of `coef` and `bound` is left as it is here. `nonfinite` says what becomes of NaN and
    Inf: 0, or the very bits that they have, or what the equation makes of them, or nothing
    because the tensor is known to hold none. With `units` each g is multiplied by its unit's factor
    instead.

    Source: torch/nn/utils/clip_grad.py, `clip_grads_with_norm_` and `clip_grad_value_`.
    """

    coef: float = 1.0
    bound: float = math.inf
    nonfinite: Literal["absent", "zero", "keep", "scale"] = "absent"
    units: Units | None = None

    @property
    def is_zeroing(self) -> bool:
        """Whether every finite element becomes 0 because that was asked for."""
        return 0.0 in (self.coef, self.bound) or (self.units is not None and self.units.is_zero)


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


def unit_count(shape: Sequence[int]) -> int:
    """The number of units of a tensor."""
    return shape[0] if len(shape) > 1 else 1


def agc_coef(norm: float, weight_norm: float, factor: float, eps: float = AGC_EPS) -> float:
    """The factor of a unit of gradients of norm `norm`, by adaptive gradient clipping.

        max_norm = factor * max(weight_norm, eps)
        agc_coef = max_norm / max(norm, 1e-6)  if norm > max_norm  else  1

    Source: Brock, De, Smith and Simonyan, "High-Performance Large-Scale Image Recognition Without
    Normalization", 2021, and its nfnets/optim.py, `SGD_AGC`. Units are those of timm/utils/agc.py,
    `adaptive_clip_grad`, as torch lays weights out: outputs along the first axis. (In the paper's
    code they are along the last, a matrix of one row or column is one unit, and tensors of three
    axes have a unit for each pair of indices of the last two.)
    """
    max_norm = factor * max(weight_norm, eps)
    return max_norm / max(norm, _AGC_LEAST_NORM) if norm > max_norm else 1.0


def is_clipped_to(norm: float, max_norm: float) -> bool:
    """Whether a norm is the bound that gradients are clipped to, but for what torch's epsilon does.

    That takes 1e-6 or less, relatively, of a norm above 1; of norms near the bound two in a million
    are so by chance.
    """
    return 0.0 < max_norm < math.inf and abs(norm - max_norm) <= TORCH_EPS * max(max_norm, 1.0)
