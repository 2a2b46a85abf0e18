"""What names and shapes of tensors tell of the layers of a model: alike in all steps of a run."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from gradtool.core.order.layers import SplitName, split_name

Shape: TypeAlias = tuple[int, ...]

Group: TypeAlias = tuple[int, ...]
"""Tensors that belong together, as their positions."""

Make: TypeAlias = frozenset[tuple[str, Shape]]
"""What a layer's tensors are called behind its number, and their shapes."""

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
class Structure:
    """The tensors of a dump by their names, in order: nothing of it depends on their elements.

    Attributes:
        named: the name and the shape of each.
    """

    named: tuple[tuple[str, Shape], ...]

    @cached_property
    def splits(self) -> tuple[SplitName, ...]:
        """Their names, split at the number of the layer."""
        return tuple(split_name(name) for name, _ in self.named)

    @cached_property
    def stacks(self) -> dict[str, dict[int, list[int]]]:
        """Those of each numbered layer, by what its name is before the number, and that."""
        stacks: dict[str, dict[int, list[int]]] = {}
        for position, split in enumerate(self.splits):
            if split.number is not None:
                layers = stacks.setdefault(split.stem, {})
                layers.setdefault(split.number, []).append(position)
        return stacks

    @cached_property
    def makes(self) -> dict[str, dict[int, Make]]:
        """What each layer of each stack is made of."""
        return {
            stem: {number: self._make(positions) for number, positions in layers.items()}
            for stem, layers in self.stacks.items()
        }

    @cached_property
    def kinds(self) -> list[Group]:
        """Siblings: the same tensor in layers of the same structure.

        Siblings have one shape, and names that differ in the number of the layer only. Layers have
        the same structure if they have the same tensors in the same shapes: in an `nn.Sequential`
        the biases of a convolution and of the normalization behind it are no siblings.
        """
        contents: defaultdict[str, list[int]] = defaultdict(list)
        for position, split in enumerate(self.splits):
            contents[split.layer].append(position)
        makes = {layer: self._make(positions) for layer, positions in contents.items()}
        return _grouped(
            (split.stem, split.number is None, split.rest, shape, makes[split.layer])
            for split, (_, shape) in zip(self.splits, self.named, strict=True)
        )

    @cached_property
    def peers(self) -> list[Group]:
        """Those in one layer that differ in an index of the name only.

        Such as the experts of a layer, not all of which are used in every step.
        """
        return _grouped(
            (split.layer, *_INDEX.split(split.rest), shape)
            for split, (_, shape) in zip(self.splits, self.named, strict=True)
        )

    @cached_property
    def blocks(self) -> list[Group]:
        """Those of the blocks of a stage, with those of its other blocks.

        They have one name but for the number of the block, and may have other shapes: the first
        block of a stage often changes the number of channels. None of them is left out of a step,
        as experts are.
        """
        return _grouped(map(_block_of, self.splits))

    @cached_property
    def digest(self) -> str:
        """The same for all dumps of one model, in whatever order they list its tensors."""
        named = sorted(f"{name}\0{shape}" for name, shape in self.named)
        return hashlib.sha256("\n".join(named).encode(errors="surrogatepass")).hexdigest()

    def _make(self, positions: Sequence[int]) -> Make:
        return frozenset((self.splits[at].rest, self.named[at][1]) for at in positions)


def _block_of(split: SplitName) -> object | None:
    """What the tensors of a stage's blocks have in common; None for one in no block."""
    match = None if split.number is None else _BLOCK.match(split.rest)
    if match is None:
        return None
    return split.layer, split.rest[: match.start(1)], split.rest[match.end(1) :]


def _grouped(keys: Iterable[object | None]) -> list[Group]:
    """Positions of equal keys, together; those of None in no group."""
    groups: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(position)
    return list(map(tuple, groups.values()))
