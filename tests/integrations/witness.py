"""Norms of a model's gradients, found by other means than gradtool's."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def norm_of(grads: Iterable[Tensor]) -> float:
    """The norm of all elements together, in float64 by `math.fsum`."""
    return math.sqrt(math.fsum(x * x for grad in grads for x in grad.double().flatten().tolist()))


def live_norm(model: nn.Module) -> float:
    """That of the gradients as they are now."""
    return norm_of(each.grad for each in model.parameters() if each.grad is not None)


class Witness:
    """Copies each gradient whenever it has been added to."""

    def __init__(self, model: nn.Module) -> None:
        self._copies: dict[Tensor, Tensor] = {}
        for each in model.parameters():
            each.register_post_accumulate_grad_hook(self._copy)

    def norm(self) -> float:
        """That of the gradients as the last backward pass left them."""
        return norm_of(self._copies.values())

    @torch.no_grad()
    def _copy(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._copies[parameter] = parameter.grad.clone()
