"""The CPU backend as a `Backend`: NumPy, which needs no device and no setup."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats
from gradtool.engine.backend import (
    BLOCK_ELEMENTS,
    BLOCK_PIECES,
    PAIR_NBYTES,
    TASK_BYTES,
    BatchLimits,
    Bytes,
    Coefs,
)
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend import kernels as numpy_kernels
from gradtool.engine.numpy_backend import transforms as numpy_transforms

if TYPE_CHECKING:  # only `diff` compares, and others need not load what does
    from gradtool.core.comparing.distance import Distance
    from gradtool.core.comparing.tolerance import Tolerance
    from gradtool.engine.operands import Operand, Walk


@dataclass(frozen=True, slots=True)
class NumpyBackend:
    """The functions of `numpy_kernels` and `numpy_transforms`, with each thread's own buffers."""

    name: ClassVar[str] = "numpy"
    limits: ClassVar[BatchLimits] = BatchLimits(
        TASK_BYTES, BLOCK_ELEMENTS, BLOCK_PIECES, PAIR_NBYTES
    )

    def buffer(self, nbytes: int) -> Bytes:
        """See `Backend`."""
        return BUFFERS.block.array(np.uint8, nbytes)

    def offsets(self, counts: Sequence[int], itemsize: int) -> list[int]:
        """See `Backend`; segments follow each other without gaps."""
        return [count * itemsize for count in itertools.accumulate(counts, initial=0)]

    def stats(
        self,
        raw: NDArray[Any],
        dtype: DType,
        counts: Sequence[int],
        norm_type: float,
        *,
        big_endian: bool = False,
    ) -> list[TensorStats]:
        """See `Backend`."""
        return numpy_kernels.stats(raw, dtype, counts, norm_type, big_endian=big_endian)

    def nonfinite_positions(
        self, raw: NDArray[Any], dtype: DType, *, big_endian: bool = False
    ) -> NDArray[np.intp]:
        """See `Backend`."""
        return numpy_kernels.nonfinite_positions(raw, dtype, big_endian=big_endian)

    def apply(
        self,
        raw: NDArray[Any],
        dtype: DType,
        transform: Transform,
        *,
        big_endian: bool = False,
        coefs: Coefs | None = None,
    ) -> None:
        """See `Backend`."""
        numpy_transforms.apply(raw, dtype, transform, big_endian=big_endian, coefs=coefs)

    def distance(self, a: Operand, b: Operand, walk: Walk, tolerance: Tolerance) -> Distance:
        """See `Backend`."""
        from gradtool.engine.numpy_backend.distances import distance  # noqa: PLC0415 - see above

        return distance(a, b, walk, tolerance)

    def distances(
        self, a: Operand, b: Operand, counts: Sequence[int], tolerance: Tolerance
    ) -> list[Distance]:
        """See `Backend`."""
        from gradtool.engine.numpy_backend.many_distances import distances_of_many  # noqa: PLC0415 - see above

        return distances_of_many(a, b, counts, tolerance)


NUMPY: Final = NumpyBackend()
