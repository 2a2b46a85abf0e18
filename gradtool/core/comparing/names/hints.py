"""What would make names of two dumps pair of which none does: prefixes, maps, rows of tensors.

A hint is there to be pasted, and names in it come from files: one that a shell might take otherwise
is not given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise, permutations, takewhile
from typing import Final, NamedTuple

from gradtool.core.comparing.names.maps import Entry, NameMap, pieces
from gradtool.core.comparing.names.pairing import paired
from gradtool.core.figures import some
from gradtool.core.names import BareNames
from gradtool.core.order.layers import any_layer, split_name
from gradtool.errors import UsageError

_MOST_HINTS: Final = 200
"""Names that are looked at."""

_MOST_ALIKE: Final = 6
"""Names that differ in one word of which some may be the rows of one tensor."""

_MOST_TEXT: Final = 300
"""Characters of a hint, of which nothing may be cut off."""

_PLAIN: Final = re.compile(r"[\w.:/*=\[\]-]*", re.ASCII)
"""What a shell takes between quotes as it is, and a terminal shows so."""

_KNOWN: Final = "qkv"
"""The order in which models put projections together, whatever they call that."""

_MOST_KINDS: Final = 8
"""Kinds of tensors, alike in all layers, that are tried."""

_PLACES: Final = 3
"""Words of a name, counted from its end, one of which tells its rows from others."""


class _Hint(NamedTuple):
    """Maps and prefixes to be given, which come from names of files."""

    maps: tuple[NameMap, ...] = ()
    prefixes: tuple[str, ...] = ()

    def __str__(self) -> str:
        maps = (f"`name_map` '{one}'" for one in self.maps)
        return " ".join([*maps, *(f"`strip_prefix` '{one}'" for one in self.prefixes)])

    @property
    def can_be_pasted(self) -> bool:
        """Whether a shell takes it as it is meant, whatever names a file has."""
        return all(map(_PLAIN.fullmatch, (*map(str, self.maps), *self.prefixes)))

    def pairs(self, a: Sequence[Entry], b: Sequence[Entry]) -> int:
        """How many tensors of one shape pair by it."""
        try:
            first, second = pieces(a, b, self.maps, BareNames(self.prefixes))
        except UsageError:
            return 0
        shapes = [
            [piece.shape_of(side[piece.number].shape) for piece in found]
            for side, found in ((a, first), (b, second))
        ]
        both = paired(first, second, self.prefixes).pairs
        return sum(shapes[0][n] == shapes[1][m] for n, m in both)


def help_for(a: Sequence[Entry], b: Sequence[Entry]) -> str:
    """What would make names of two dumps pair of which none does."""
    hints = [hint for hint in (_of_rows(a, b), _of_heads(a, b)) if hint and hint.can_be_pasted]
    if hints:
        return f"try {max(hints, key=lambda hint: hint.pairs(a, b))}"
    names = [[entry.key[1] for entry in side] for side in (a, b)]
    return f"A has {some(names[0])}; B has {some(names[1])}; give `name_map`"


def _of_heads(a: Sequence[Entry], b: Sequence[Entry]) -> _Hint | None:
    """The beginnings of two names that end alike, as far as possible."""
    ends: dict[str, str] = {}
    for entry in b[:_MOST_HINTS]:
        for tail, head in _cuts(entry.key[1]):
            ends.setdefault(tail, head)
    best: tuple[int, str, str] | None = None
    for entry in a[:_MOST_HINTS]:
        for tail, head in _cuts(entry.key[1]):
            if tail in ends and (best is None or len(tail) > best[0]):
                best = (len(tail), head, ends[tail])
                break
    if best is None:
        return None
    _, one, other = best
    if one and other:
        return _Hint((NameMap(f"{one}*", f"{other}*"),))
    return _Hint(prefixes=(one or other,))


def _cuts(name: str) -> list[tuple[str, str]]:
    """(tail, head) of a name for each dot, the longest tail first."""
    parts = name.split(".")
    heads = [".".join(parts[:n]) + "." if n else "" for n in range(len(parts))]
    return [(name[len(head) :], head) for head in heads]


def _of_rows(a: Sequence[Entry], b: Sequence[Entry]) -> _Hint | None:
    """Maps of tensors onto the rows of one, where that is what they are by names and shapes."""
    maps: tuple[NameMap, ...] = ()
    for whole, parts, is_second in ((b, a, True), (a, b, False)):
        for kind in islice(_kinds(whole, parts, is_second=is_second), _MOST_KINDS):
            more = (*maps, *(one for one in kind if one not in maps))
            hint = _Hint(more)
            if len(str(hint)) <= _MOST_TEXT and hint.can_be_pasted and hint.pairs(a, b):
                maps = more
    return _Hint(maps) if maps else None


def _kinds(
    whole: Sequence[Entry], parts: Sequence[Entry], *, is_second: bool
) -> Iterator[tuple[NameMap, ...]]:
    """The maps for each kind of tensor that others are the rows of."""
    families = _families(parts[:_MOST_HINTS])
    seen = set()
    for one in whole[:_MOST_HINTS]:
        name = any_layer(one.key[1])
        if name in seen or not one.shape:
            continue
        seen.add(name)
        layer = split_name(one.key[1]).number
        found = _rows_among(one, families.get((layer, tuple(one.shape[1:])), ()))
        ends = list(accumulate((part.shape[0] for part in found), initial=0))
        rows = [f"{name}[{start}:{end}]" for start, end in pairwise(ends)]
        names = [any_layer(part.key[1]) for part in found]
        if found:
            both = zip(names, rows, strict=True) if is_second else zip(rows, names, strict=True)
            yield tuple(NameMap(old, new) for old, new in both)


_Family = dict[str, Entry]
"""Tensors whose names differ in one word, by that word."""


def _families(parts: Sequence[Entry]) -> dict[tuple[int | None, tuple[int, ...]], list[_Family]]:
    """Tensors whose names differ in one word, for each layer and each shape of a row."""
    found: dict[object, _Family] = {}
    by_row: dict[tuple[int | None, tuple[int, ...]], list[_Family]] = {}
    for part in parts:
        if not part.shape:
            continue
        words = part.key[1].split(".")
        row = split_name(part.key[1]).number, tuple(part.shape[1:])
        for place in range(1, min(_PLACES, len(words)) + 1):
            others = (*words[: len(words) - place], None, *words[len(words) - place + 1 :])
            key = part.key[0], others, row
            if key not in found:
                found[key] = {}
                by_row.setdefault(row, []).append(found[key])
            found[key][words[-place]] = part
    return by_row


def _rows_among(whole: Entry, families: Iterable[_Family]) -> tuple[Entry, ...]:
    """The tensors of a family that are the rows of another, in order; none where that is unsure."""
    split = split_name(whole.key[1])
    name = (split.rest or split.stem).lower()
    for family in families:
        if not 2 <= len(family) <= _MOST_ALIKE:
            continue
        fitting = [
            words
            for count in (2, 3)
            for words in permutations(family, count)
            if sum(family[word].shape[0] for word in words) == whole.shape[0]
        ]
        short = _short(family)
        spelt = [words for words in fitting if _spells(name, [short[word] for word in words])]
        known = [words for words in fitting if _initials([short[word] for word in words])]
        for chosen in (spelt, known):
            if len(chosen) == 1:
                return tuple(family[word] for word in chosen[0])
    return ()


def _short(words: Iterable[str]) -> dict[str, str]:
    """Each word without what all begin with and end in: `q` for `q_proj` beside `k_proj`."""
    all_words = [*words]
    start = _alike(all_words)
    end = _alike([word[start:][::-1] for word in all_words])
    return {word: word[start : len(word) - end].lower() for word in all_words}


def _alike(words: Sequence[str]) -> int:
    """How many letters all words begin with."""
    return sum(1 for _ in takewhile(lambda column: len({*column}) == 1, zip(*words, strict=False)))


def _spells(name: str, words: Sequence[str]) -> bool:
    """Whether a name says of what its tensor is made, as `qkv` and `gate_up` do."""
    spellings = ("".join(words), "_".join(words), _initials(words))
    return all(words) and any(one and one in name for one in spellings)


def _initials(words: Sequence[str]) -> str:
    """The first letters of words for projections, in the order that they are known to have."""
    initials = "".join(word[:1] for word in words)
    return initials if initials in _KNOWN else ""
