"""What the values of a sparse tensor add up to, one element at a time."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch


class Sums(NamedTuple):
    """The sum at each index that has values, and how many of these there are."""

    places: int
    values: np.ndarray


def summed_up(values: torch.Tensor, indices: torch.Tensor) -> Sums | None:
    """The sums; None where the indices are in order, each there once."""
    named = [tuple(column) for column in indices.T.tolist()]
    if not values.numel() or all(before < after for before, after in itertools.pairwise(named)):
        return None
    rows: dict[tuple[int, ...], list[np.ndarray]] = {index: [] for index in sorted(named)}
    flat = np.ascontiguousarray(widened(values)).reshape(len(named), -1)
    for index, row in zip(named, flat.view(np.float64), strict=True):
        rows[index].append(row)
    sums = [[_sum(column) for column in zip(*found, strict=True)] for found in rows.values()]
    return Sums(len(rows), np.array(sums, np.float64).reshape(-1).view(flat.dtype))


def _sum(numbers: tuple[float, ...]) -> float:
    try:
        return math.fsum(numbers)
    except ValueError:
        return math.nan
    except OverflowError:
        return float(sum(map(float, numbers)))


def widened(tensor: torch.Tensor) -> np.ndarray:
    """The elements of a tensor as float64 or complex128, before any sign bit of the tensor."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.to(wide).resolve_conj().numpy()
