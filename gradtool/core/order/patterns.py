"""Many names of tensors as few patterns: the same tensors of several layers, several of one."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.order.layers import SplitName, layers_text, split_name

_SEPARATOR: Final = re.compile(r"([._/-])")
_LAST_COMPONENT: Final = re.compile(r"[^./]*[./]?\Z")
_MOST_ALTERNATIVES: Final = 6


@dataclass(frozen=True, slots=True)
class Pattern:
    """Names that are alike.

    Attributes:
        text: what they have in common, as `layers.*.self_attn.{q,v}_proj.lora_A`. What all names
            of the dump begin with before the word for a layer, and end in, is left out.
        names: those that it stands for, in the order they were given in.
        layers: the numbers of their layers; empty where names have none.
        among: how many layers of the dump have tensors of these kinds.
    """

    text: str
    names: tuple[str, ...]
    layers: frozenset[int] = frozenset()
    among: int = 0

    @property
    def extent(self) -> str:
        """How many they are: `in 23 of 24 layers`, `in 3 tensors of layer 7`, `in 5 tensors`."""
        tensors = counted(len(self.names), "tensor")
        if not self.layers or self.among == 1:
            return f"in {tensors}"
        if len(self.layers) == 1:
            return f"in {tensors} of {layers_text(self.layers)}"
        return f"in {len(self.layers):,} of {counted(self.among, 'layer')}"

    @property
    def which(self) -> str:
        """Which of several layers, as ` (layers 0 to 6)`; empty for all and for one."""
        some = 1 < len(self.layers) < self.among
        return f" ({layers_text(self.layers)})" if some else ""


def patterns(names: Iterable[str], among: Iterable[str]) -> list[Pattern]:
    """Patterns that stand for all of `names`, which are some of the names `among`.

    One pattern stands for the kinds of tensors that are in `names` in the very same layers: kinds
    are names but for the number of the layer. Names without such a number are one pattern together.
    """
    dump = _Dump(among)
    layers: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    splits = [(name, split_name(name)) for name in names]
    for _, split in splits:
        if split.number is not None:
            layers[split.stem, split.rest].add(split.number)
    same: dict[object, int] = {}  # numbers, as sets of layers take long to compare for each name
    places = {
        kind: same.setdefault((kind[0], frozenset(found), frozenset(dump.layers[kind])), len(same))
        for kind, found in layers.items()
    }
    together: defaultdict[object, list[tuple[str, SplitName]]] = defaultdict(list)
    for name, split in splits:
        together[places.get((split.stem, split.rest))].append((name, split))
    return [dump.pattern(members) for members in together.values()]


class _Dump:
    """All the names of a dump, against which some of them are told."""

    def __init__(self, names: Iterable[str]) -> None:
        self.layers: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._rests: defaultdict[str, set[str]] = defaultdict(set)
        endings = set()
        for name in names:
            split = split_name(name)
            endings.add(split.rest if split.number is not None else f".{name}")
            if split.number is not None:
                self.layers[split.stem, split.rest].add(split.number)
                self._rests[split.stem].add(split.rest)
        self._ending = _common_ending(endings)
        self._words = [_LAST_COMPONENT.findall(stem)[0] for stem in self._rests]

    def pattern(self, members: Sequence[tuple[str, SplitName]]) -> Pattern:
        names = tuple(name for name, _ in members)
        split = members[0][1]
        if split.number is None:
            return Pattern(_braced([self._short(name) for name in names]), names)
        rests = list(dict.fromkeys(one.rest for _, one in members))
        numbers = frozenset(one.number for _, one in members if one.number is not None)
        word = _LAST_COMPONENT.findall(split.stem)[0]
        stem = word if self._words.count(word) == 1 else split.stem
        layer = stem + (split.digits if len(numbers) == 1 else "*")
        text = _product([self._short(rest) for rest in rests])
        if text is None:
            every = set(rests) == self._rests[split.stem]
            text = "" if every else _braced([self._short(rest) for rest in rests])
        among = len(set().union(*(self.layers[split.stem, rest] for rest in rests)))
        return Pattern(layer + text, names, numbers, among)

    def _short(self, text: str) -> str:
        return text.removesuffix(self._ending) if self._ending else text


def _common_ending(texts: set[str]) -> str:
    """The components that all `texts` end in, where something else is left of each."""
    parts = [text.split(".") for text in texts]
    if len(parts) < 2:
        return ""
    shortest = min(map(len, parts))
    length = 0
    # What begins with a dot has an empty component, which is nothing to be left with.
    while length < shortest - 2 and len({part[-1 - length] for part in parts}) == 1:
        length += 1
    return "".join(f".{part}" for part in parts[0][len(parts[0]) - length :]) if length else ""


def _braced(texts: Sequence[str]) -> str:
    """One text for all of `texts`, which differ, as `a.{b,c}.d`."""
    product = _product(texts)
    if product is not None:
        return product
    parts = [_SEPARATOR.split(text) for text in texts]
    shortest = min(map(len, parts))
    start = _alike(parts, shortest, lambda part, at: part[at])
    end = _alike(parts, shortest - start, lambda part, at: part[-1 - at])
    middles = ["".join(part[start : len(part) - end]) for part in parts]
    listed = ",".join(middles[:_MOST_ALTERNATIVES])
    if (more := len(middles) - _MOST_ALTERNATIVES) > 0:
        listed += f",… {more:,} more"
    tail = "".join(parts[0][len(parts[0]) - end :])
    return f"{''.join(parts[0][:start])}{{{listed}}}{tail}"


def _alike(parts: Sequence[list[str]], most: int, item: Callable[[list[str], int], str]) -> int:
    length = 0
    while length < most and len({item(part, length) for part in parts}) == 1:
        length += 1
    return length


def _product(texts: Sequence[str]) -> str | None:
    """`{a,b}.{c,d}` where `texts` are all that it stands for; None where there is no such text."""
    parts = [_SEPARATOR.split(text) for text in texts]
    if len({len(part) for part in parts}) > 1:
        return None
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    if math.prod(map(len, columns)) != len(texts):
        return None
    if max(map(len, columns)) > _MOST_ALTERNATIVES:
        return None
    return "".join(one[0] if len(one) == 1 else f"{{{','.join(one)}}}" for one in columns)
