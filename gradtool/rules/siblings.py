"""Tensors that can be compared: the same tensor of other layers, or other experts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradtool.core.judging.spikes import MAD_OF_NORMAL
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.order.structure import Group


@dataclass(frozen=True)
class Kind:
    """Tensors whose gradients are expected to be alike."""

    members: tuple[TensorMeasurement, ...]

    @cached_property
    def alive(self) -> int:
        """Number of members that are not all 0."""
        return sum(not is_all_zero(tensor) for tensor in self.members)

    @cached_property
    def comparable(self) -> int:
        """Number of members whose norm has a logarithm."""
        return len(self._logs)

    @cached_property
    def median(self) -> float:
        """The median of the norms' logarithms; at least one member must be comparable."""
        return _median(self._logs)

    @cached_property
    def spread(self) -> float:
        """A standard deviation of those logarithms that outliers do not move.

        1.4826 times their median absolute deviation.
        """
        return MAD_OF_NORMAL * _median([abs(log - self.median) for log in self._logs])

    @cached_property
    def furthest(self) -> float:
        """The largest distance of one of those logarithms from the median."""
        return max(self._logs[-1] - self.median, self.median - self._logs[0])

    @cached_property
    def _logs(self) -> list[float]:
        return sorted(math.log(tensor.norm) for tensor in self.members if has_log(tensor))


def _median(values: list[float]) -> float:
    # Importing `statistics` takes as long as importing all rules.
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def has_log(tensor: TensorMeasurement) -> bool:
    """Whether the tensor's norm is finite and not 0."""
    return 0.0 < tensor.norm < math.inf


def is_all_zero(tensor: TensorMeasurement) -> bool:
    """Whether a tensor has elements, and all are 0."""
    stats = tensor.stats
    return 0 < stats.numel == stats.zeros


def by_name(groups: Iterable[Group], tensors: Sequence[TensorMeasurement]) -> dict[str, Kind]:
    """For each tensor's name, it and those in a group with it."""
    kinds = [Kind(tuple(tensors[position] for position in group)) for group in groups]
    return {tensor.name: kind for kind in kinds for tensor in kind.members}
