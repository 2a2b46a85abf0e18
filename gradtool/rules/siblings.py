"""Tensors of one kind: those that differ in the number of their layer only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gradtool.core.measurement import TensorMeasurement

_MOST_DIGITS: Final = 9
_MAD_OF_NORMAL: Final = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""


@dataclass(frozen=True)
class Kind:
    """The tensors of one kind, of one shape; those in different layers are siblings."""

    members: tuple[TensorMeasurement, ...]

    @cached_property
    def alive(self) -> int:
        """How many of them are not all 0."""
        return sum(not is_all_zero(one) for one in self.members)

    @cached_property
    def compared(self) -> int:
        """How many have a norm with a logarithm."""
        return len(self._logs)

    @cached_property
    def middle(self) -> float:
        """The median of the norms' logarithms; there has to be one."""
        return statistics.median(self._logs)

    @cached_property
    def spread(self) -> float:
        """The standard deviation of those logarithms but for outliers.

        1.4826 times their median absolute deviation.
        """
        return _MAD_OF_NORMAL * statistics.median(abs(log - self.middle) for log in self._logs)

    @cached_property
    def _logs(self) -> list[float]:
        return [math.log(one.norm) for one in self.members if has_log(one)]


def has_log(tensor: TensorMeasurement) -> bool:
    """Whether its norm is finite and not 0."""
    return 0.0 < tensor.norm < math.inf


def is_all_zero(tensor: TensorMeasurement) -> bool:
    """Whether a tensor has elements, and all are 0."""
    return 0 < tensor.stats.numel == tensor.stats.zeros


def kinds_of(tensors: Iterable[TensorMeasurement]) -> dict[str, Kind]:
    """The kind of each tensor, by its name."""
    groups: dict[tuple[str, tuple[int, ...]], list[TensorMeasurement]] = {}
    for one in tensors:
        groups.setdefault((_without_layer(one.name), one.spec.shape), []).append(one)
    kinds = [Kind(tuple(group)) for group in groups.values()]
    return {one.name: kind for kind in kinds for one in kind.members}


def layer_of(name: str) -> str:
    """The name up to its first number, which is a layer's as a rule; all of it without one."""
    components = name.split(".")
    at = next((at for at, part in enumerate(components) if is_layer(part)), len(components))
    return ".".join(components[: at + 1])


def is_layer(component: str) -> bool:
    """Whether a part of a name is a number that a layer may have."""
    return component.isascii() and component.isdigit() and len(component) <= _MOST_DIGITS


def _without_layer(name: str) -> str:
    """The name with its first number left open."""
    layer = layer_of(name)
    number = layer.rpartition(".")[2]
    return f"{layer.removesuffix(number)}#{name[len(layer) :]}" if is_layer(number) else name
