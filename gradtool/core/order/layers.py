"""Which layer a tensor belongs to, as its name tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from gradtool.core.names import unwrapped

_LAYER: Final = re.compile(r"(?:^|(?<=[A-Za-z._/-]))[0-9]{1,9}(?=$|[._/-])")
"""A number at the end of a word: `layers.3.w`, `layers/3/w`, `layer_3.w`, `block3.w`."""


@dataclass(frozen=True, slots=True)
class SplitName:
    """A tensor's name, split at the number of its layer.

    Attributes:
        stem: what stands before the number; the whole name if there is none.
        number: of the layer, or None.
        digits: the number as it is spelt.
        rest: what stands behind it.
    """

    stem: str
    number: int | None = None
    digits: str = ""
    rest: str = ""

    @property
    def layer(self) -> str:
        """Name of the layer: the tensor's name up to the number."""
        return self.stem + self.digits


def split_name(name: str) -> SplitName:
    """The name of a tensor, without wrappers that some layers may have, split at its layer."""
    name = unwrapped(name)
    match = _LAYER.search(name)
    if match is None:
        return SplitName(name)
    return SplitName(name[: match.start()], int(match[0]), match[0], name[match.end() :])


def any_layer(name: str) -> str:
    """The name with `*` for the number of its layer, if it has one; wrappers stay."""
    return _LAYER.sub("*", name, count=1)


_MOST_RANGES: Final = 6


def layers_text(numbers: Iterable[int]) -> str:
    """`layer 7`, `layers 0 to 6 and 9`: numbers of layers, in order and the first of many."""
    in_order = sorted(set(numbers))
    ranges: list[str] = []
    for _, run in groupby(enumerate(in_order), lambda pair: pair[1] - pair[0]):
        first, *others = [number for _, number in run]
        ranges += [f"{first} to {others[-1]}"] if others[1:] else map(str, [first, *others])
    shown = ranges[:_MOST_RANGES]
    if more := len(ranges) - len(shown):
        shown.append(f"{more:,} more")
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)
    return f"layer{'' if len(in_order) == 1 else 's'} {listed}"
