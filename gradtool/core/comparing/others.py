"""What two dumps hold that is no gradient, compared bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

from gradtool.core.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class OtherDifference:
    """Two tensors that are no gradients, integers say, compared bit by bit.

    Attributes:
        name, section: in the first dump.
        a, b: what they are.
        differing: how many elements differ; None where type or shape do.
        first_differing: index of the first of them in C order.
    """

    name: str
    section: str
    a: TensorSpec
    b: TensorSpec
    differing: int | None
    first_differing: tuple[int, ...] | None

    @property
    def identical(self) -> bool:
        """Whether they have the same bits."""
        return self.differing == 0
