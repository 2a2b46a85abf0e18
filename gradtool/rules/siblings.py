"""Tensors of one kind: those that differ in the number of their layer only."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gradtool.core.measurement import TensorMeasurement

_LAYER: Final = re.compile(r"(?:^|(?<=[A-Za-z._/-]))[0-9]{1,9}(?=$|[._/-])")
"""A number at the end of a word: `layers.3.w`, `layers/3/w`, `layer_3.w`, `block3.w`."""

_INDEX: Final = re.compile(r"(?<![^./])[0-9]+(?![^./])")
"""A component of a name that is a number."""

_MAD_OF_NORMAL: Final = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is in its model: what its name has before its first number, and behind it.

    `number` is None, and `stem` the whole name, where there is none.
    """

    stem: str
    number: int | None = None
    digits: str = ""
    rest: str = ""

    @property
    def layer(self) -> str:
        """The name up to the number of the layer."""
        return self.stem + self.digits


def place_of(name: str) -> Place:
    """The place that a tensor's name tells."""
    found = _LAYER.search(name)
    if found is None:
        return Place(name)
    return Place(name[: found.start()], int(found[0]), found[0], name[found.end() :])


@dataclass(frozen=True)
class Kind:
    """Tensors that may be expected to be alike."""

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
        return _median(self._logs)

    @cached_property
    def spread(self) -> float:
        """The standard deviation of those logarithms but for outliers.

        1.4826 times their median absolute deviation.
        """
        return _MAD_OF_NORMAL * _median([abs(log - self.middle) for log in self._logs])

    @cached_property
    def _logs(self) -> list[float]:
        return [math.log(one.norm) for one in self.members if has_log(one)]


def _median(values: list[float]) -> float:
    # `statistics` takes as long to import as all rules together.
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def has_log(tensor: TensorMeasurement) -> bool:
    """Whether its norm is finite and not 0."""
    return 0.0 < tensor.norm < math.inf


def is_all_zero(tensor: TensorMeasurement) -> bool:
    """Whether a tensor has elements, and all are 0."""
    return 0 < tensor.stats.numel == tensor.stats.zeros


def kinds_of(tensors: Iterable[TensorMeasurement]) -> dict[str, Kind]:
    """For each name the tensor and its siblings: of one shape, in layers of one make.

    Layers are of one make if they have the same tensors in the same shapes: the biases of a
    convolution and of the normalization behind it are no siblings in an `nn.Sequential`.
    """
    placed = [(one, place_of(one.name)) for one in tensors]
    inside: defaultdict[str, set[tuple[str, tuple[int, ...]]]] = defaultdict(set)
    for one, place in placed:
        inside[place.layer].add((place.rest, one.spec.shape))
    make = {layer: frozenset(parts) for layer, parts in inside.items()}
    groups: defaultdict[object, list[TensorMeasurement]] = defaultdict(list)
    for one, place in placed:
        alone = place.number is None
        key = (place.stem, alone, place.rest, one.spec.shape, make[place.layer])
        groups[key].append(one)
    return _by_name(groups.values())


def peers_of(tensors: Iterable[TensorMeasurement]) -> dict[str, Kind]:
    """For each name the tensor and those of one shape in its layer with another index.

    The experts of a layer, say, of which not every one is used in every step.
    """
    groups: defaultdict[object, list[TensorMeasurement]] = defaultdict(list)
    for one in tensors:
        place = place_of(one.name)
        groups[place.layer, *_INDEX.split(place.rest), one.spec.shape].append(one)
    return _by_name(groups.values())


def _by_name(groups: Iterable[list[TensorMeasurement]]) -> dict[str, Kind]:
    kinds = [Kind(tuple(group)) for group in groups]
    return {one.name: kind for kind in kinds for one in kind.members}
