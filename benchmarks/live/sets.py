"""Gradients in memory: three sets of tensors, in three types, beside the exact norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.files.dumps import large_shapes
from benchmarks.harness import exact

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SMALL_TENSORS = 20_000
SMALL_SHAPES = ((1_000,), (25, 40))
"""Biases and weights, by turns."""

TINY_SHAPES = ((64,), (8, 8))

SCALE = 1e-3
BOUND = 0.7
"""`max_norm` by the true norm.

So small that a peer whose norm comes out percents too low still has something to clip, and no
power of two, which would hide how the coefficient is rounded.
"""


def large(size_gib: float) -> dict[str, Tensor]:
    """float32 gradients with the shapes of the large dumps."""
    return _normal(large_shapes(size_gib), seed=0)


def small() -> dict[str, Tensor]:
    """float32 gradients of very many small tensors, of 1,000 elements."""
    return _normal(_by_turns(SMALL_SHAPES), seed=1)


def tiny() -> dict[str, Tensor]:
    """The same of 64 elements."""
    return _normal(_by_turns(TINY_SHAPES), seed=2)


def _by_turns(shapes: Sequence[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"w{n}": shapes[n % len(shapes)] for n in range(SMALL_TENSORS)}


def _normal(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(shape).normal_(0.0, SCALE, generator=random)
        for name, shape in shapes.items()
    }


class Live:
    """Gradients of a model that is there only to hold them, and what they were at first."""

    def __init__(self, base: Mapping[str, Tensor], dtype: torch.dtype, device: str = "cpu") -> None:
        self._first = [tensor.to(device, dtype) for tensor in base.values()]
        self.grads = {name: first.clone() for name, first in zip(base, self._first, strict=True)}
        self.parameters = dict(zip(base, map(holder, self.grads.values()), strict=True))
        self.nbytes = sum(grad.nbytes for grad in self.grads.values())
        self.truth = exact.norm(self.on_cpu(), 2)
        self.bound = BOUND * self.truth

    def restore(self) -> None:
        """Undo what a call has done to the gradients."""
        torch._foreach_copy_(list(self.grads.values()), self._first)

    def on_cpu(self) -> Iterator[Tensor]:
        """The gradients as they are now."""
        return (grad.cpu() for grad in self.grads.values())


def holder(grad: Tensor) -> torch.nn.Parameter:
    """A parameter with this gradient; its own elements are never touched."""
    parameter = torch.nn.Parameter(torch.empty_like(grad))
    parameter.grad = grad
    return parameter
