"""What a second look at two tensors may find that the figures of one pass do not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import Distance

Axis = Literal["rows", "columns"]


@dataclass(frozen=True, slots=True)
class Moved:
    """How the elements of one matrix are those of the other, bit by bit, in other places.

    The elements of a vector are its rows.

    Attributes:
        what: whole rows, whole columns, or single elements.
        count: how many rows or columns are not where they were; of elements 0.
        total: how many there are; of elements 0.
        first: the first of them, and where it is in the second matrix.
        shift: by how many places all are shifted, those at the end to the beginning; else None.
        is_cut: whether what a shift moves beyond the end is gone, rather than at the beginning.
        within: which lines of the second matrix hold the same elements as those of the first, in
            another order; None for the whole matrix.
    """

    what: Literal["rows", "columns", "elements"]
    count: int = 0
    total: int = 0
    first: tuple[int, int] | None = None
    shift: int | None = None
    is_cut: bool = False
    within: Axis | None = None


class SecondLook(Protocol):
    """Reads two tensors of a pair once more; None where that is too much, or they are no sort.

    `unread` has the names of those that were not read for being too much.
    """

    unread: set[str]

    def transposed(self, tensor: TensorDifference) -> Distance | None:
        """How far the second is from the first with its last two axes the other way round."""

    def moved(self, tensor: TensorDifference) -> Moved | None:
        """Whether the second has the elements of the first in other places."""

    def grids(self, tensor: TensorDifference) -> tuple[str | None, str | None] | None:
        """The narrower type, if there is one, that holds all elements of each side exactly.

        Names as of `core.dtypes`, and TF32, the eleven bits of precision that matrix units read.
        """


class NoSecondLook:
    """Where the figures must do."""

    def __init__(self) -> None:
        self.unread: set[str] = set()

    def transposed(self, tensor: TensorDifference) -> Distance | None:  # noqa: ARG002
        """See `SecondLook`."""
        return None

    def moved(self, tensor: TensorDifference) -> Moved | None:  # noqa: ARG002
        """See `SecondLook`."""
        return None

    def grids(self, tensor: TensorDifference) -> tuple[str | None, str | None] | None:  # noqa: ARG002
        """See `SecondLook`."""
        return None
