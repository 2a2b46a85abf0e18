"""Finding tensors that can be compared: the same tensor of other layers, or other experts."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gradtool.core.judging.spikes import MAD_OF_NORMAL
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.order.layers import split_name

_INDEX: Final = re.compile(r"(?<![^./])[0-9]+(?![^./])")
"""A component of a name that is a number."""

_BLOCK: Final = re.compile(
    r"(?:[._/-]|.*(?<![^./])(?:blocks?|transformer_blocks|layers?|resnets|stages|h)[./])"
    r"([0-9]+)(?=[./][^./]+[./])"
)
"""The index of a module among others that run one after another in a layer, or stage: of the 1 in
`layer3.1.conv2.weight` and in `layers.0.blocks.1.attn.qkv.weight`, counted from the layer's number.
"""


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
    def _logs(self) -> list[float]:
        return [math.log(tensor.norm) for tensor in self.members if has_log(tensor)]


def _median(values: list[float]) -> float:
    # Importing `statistics` takes as long as importing all rules.
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def has_log(tensor: TensorMeasurement) -> bool:
    """Whether the tensor's norm is finite and not 0."""
    return 0.0 < tensor.norm < math.inf


def is_all_zero(tensor: TensorMeasurement) -> bool:
    """Whether a tensor has elements, and all are 0."""
    return 0 < tensor.stats.numel == tensor.stats.zeros


def kinds_of(tensors: Iterable[TensorMeasurement]) -> dict[str, Kind]:
    """For each tensor's name, it and its siblings: the same tensor in layers of the same structure.

    Siblings have one shape, and names that differ in the number of the layer only. Layers have the
    same structure if they have the same tensors in the same shapes: in an `nn.Sequential` the
    biases of a convolution and of the normalization behind it are no siblings.
    """
    splits = [(tensor, split_name(tensor.name)) for tensor in tensors]
    contents: defaultdict[str, set[tuple[str, tuple[int, ...]]]] = defaultdict(set)
    for tensor, split in splits:
        contents[split.layer].add((split.rest, tensor.spec.shape))
    structure = {layer: frozenset(parts) for layer, parts in contents.items()}
    groups: defaultdict[object, list[TensorMeasurement]] = defaultdict(list)
    for tensor, split in splits:
        has_no_number = split.number is None
        key = (split.stem, has_no_number, split.rest, tensor.spec.shape, structure[split.layer])
        groups[key].append(tensor)
    return _by_name(groups.values())


def peers_of(tensors: Iterable[TensorMeasurement]) -> dict[str, Kind]:
    """For each tensor's name, it and those in its layer that differ in an index of the name only.

    Such as the experts of a layer, not all of which are used in every step.
    """
    groups: defaultdict[object, list[TensorMeasurement]] = defaultdict(list)
    for tensor in tensors:
        split = split_name(tensor.name)
        groups[split.layer, *_INDEX.split(split.rest), tensor.spec.shape].append(tensor)
    return _by_name(groups.values())


def blocks_of(tensors: Iterable[TensorMeasurement]) -> dict[str, Kind]:
    """For the name of each tensor in a block of a stage, it and those of the stage's other blocks.

    They have one name but for the number of the block, and may have other shapes: the first block
    of a stage often changes the number of channels. None of them is left out of a step, as experts
    are.
    """
    groups: defaultdict[object, list[TensorMeasurement]] = defaultdict(list)
    for tensor in tensors:
        split = split_name(tensor.name)
        if split.number is not None and (match := _BLOCK.match(split.rest)):
            key = split.rest[: match.start(1)], split.rest[match.end(1) :]
            groups[split.layer, *key].append(tensor)
    return _by_name(groups.values())


def _by_name(groups: Iterable[list[TensorMeasurement]]) -> dict[str, Kind]:
    kinds = [Kind(tuple(group)) for group in groups]
    return {tensor.name: kind for kind in kinds for tensor in kind.members}
