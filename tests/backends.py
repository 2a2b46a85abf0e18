"""The engines that the laws of numbers are held against, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats
from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.torch_backend.backend import TorchForeach

SMALL_MEMORY = 16 << 20
"""Bytes for three threads: tensors of more than 116,508 elements are cut into several groups."""

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

BACKENDS = [
    pytest.param(NUMPY, id="numpy"),
    pytest.param(TorchForeach(("cpu",), SMALL_MEMORY, 3), id="torch-cpu"),
    pytest.param(TorchForeach(("cuda:0",), SMALL_MEMORY, 3), id="torch-cuda", marks=on_gpu),
]


def stats_of(
    backend: Backend,
    segments: Sequence[NDArray[Any]],
    dtype: DType,
    p: float,
    *,
    big_endian: bool = False,
) -> list[TensorStats]:
    """The statistics of segments, given as bytes, in one call."""
    counts = [len(raw) // dtype.itemsize for raw in segments]
    *starts, end = backend.offsets(counts, dtype.itemsize)
    placed = np.full(end, 0xFF, np.uint8)  # NaN, if anybody counted what is between
    for start, raw in zip(starts, segments, strict=True):
        placed[start : start + len(raw)] = raw
    return backend.stats(placed, dtype, counts, p, big_endian=big_endian)
