"""The contract of backends: what they compute over blocks of elements, and how much at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats

if TYPE_CHECKING:  # only `diff` compares
    from gradtool.core.comparing.distance import Distance
    from gradtool.core.comparing.tolerance import Tolerance
    from gradtool.engine.operands import Operand, Walk

TASK_BYTES: Final = 8 << 20
"""Bytes of one task: enough to make scheduling cheap, few enough to keep every core busy."""

BLOCK_ELEMENTS: Final = 1 << 19
"""Elements that the CPU backend gets in one call, and of a window over an overlap group.

Caches would like fewer. But each array operation gives Python's lock away and takes it back,
and two threads that do so every few microseconds are slower than one.
"""

BLOCK_PIECES: Final = 1 << 10
"""Pieces of tensors that the CPU backend gets in one call."""

PAIR_NBYTES: Final = 4 << 20
"""Bytes of two blocks that the CPU backend compares: caches would like fewer, Python more."""

Bytes = NDArray[np.uint8]
Coefs = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much a backend is given at a time, at most.

    Attributes:
        task_nbytes: bytes of one task.
        block_numel: elements of one call.
        block_pieces: pieces of tensors in one call.
        pair_nbytes: bytes of two blocks that are compared.
    """

    task_nbytes: int
    block_numel: int
    block_pieces: int
    pair_nbytes: int


class Backend(Protocol):
    """An engine that computes: a plain value that any thread or process can be given."""

    @property
    def name(self) -> str:
        """Its name in options and in reports."""

    @property
    def limits(self) -> BatchLimits:
        """How much it is given at a time, at most."""

    def buffer(self, nbytes: int) -> Bytes:
        """The thread's own buffer for bytes to compute with; its content is left from before."""

    def offsets(self, counts: Sequence[int], itemsize: int) -> list[int]:
        """The byte at which each segment begins in a block, and the one at which the last ends.

        `counts` are the elements of each segment. Bytes between segments may hold anything.
        """

    def stats(
        self,
        raw: NDArray[Any],
        dtype: DType,
        counts: Sequence[int],
        norm_type: float,
        *,
        big_endian: bool = False,
    ) -> list[TensorStats]:
        """Statistics of the segments that lie one after another in `raw`.

        Args:
            raw: bytes (uint8) of all segments, which begin as `offsets` says; aligned to the
                element size. Bytes between segments may be overwritten.
            dtype: type of the elements.
            counts: elements in each segment, none of them 0.
            norm_type: p.
            big_endian: byte order of the elements.

        `first_nonfinite` counts from the start of its segment.
        """

    def nonfinite_positions(
        self, raw: NDArray[Any], dtype: DType, *, big_endian: bool = False
    ) -> NDArray[np.intp]:
        """Positions of the NaN and Inf among the elements in `raw`, ascending.

        Called where `stats` counted some in a tensor that is not in C order. `raw` has the bytes of
        one segment, as for `stats`.
        """

    def apply(
        self,
        raw: NDArray[Any],
        dtype: DType,
        transform: Transform,
        *,
        big_endian: bool = False,
        coefs: Coefs | None = None,
    ) -> None:
        """Transform the elements in `raw`, bytes (uint8) aligned to the element size, in place.

        A complex element is scaled in both parts, and is non-finite where either is. `coefs` has
        the factor of each element, where the transform has units.
        """

    def distance(self, a: Operand, b: Operand, walk: Walk, tolerance: Tolerance) -> Distance:
        """How far apart the elements of two blocks are; these must not be changed.

        Args:
            a: the elements of the one tensor, at least one; real ones or complex ones.
            b: those at the same indices of the other, alike.
            walk: where they are in their tensors.
            tolerance: what elements are counted as outside of.
        """

    def distances(
        self, a: Operand, b: Operand, counts: Sequence[int], tolerance: Tolerance
    ) -> list[Distance]:
        """The distance of each two tensors of blocks in which they lie one after another.

        Args:
            a: the elements of all first tensors, of a real type, in C order.
            b: those of the second ones, of the same type.
            counts: elements of each tensor, at least 1, and so few that sums in any order will do.
            tolerance: as for `distance`.
        """
