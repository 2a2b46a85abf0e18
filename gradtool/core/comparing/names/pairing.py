"""Which tensor of one dump is which of another: by section and name, and by what names have around.

Equal names pair first. Of the others those pair that agree once prefixes are taken off and names
are mapped, wrappers among the prefixes, unless two of one side would become one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.comparing.names.keys import Key, forms
from gradtool.core.comparing.names.maps import Piece
from gradtool.core.figures import counted, first_of
from gradtool.core.names import BareNames
from gradtool.core.tensors import TensorSpec


class Pairing(NamedTuple):
    """Positions of tensors that pair, of those that do not, and what was done to names."""

    pairs: list[tuple[int, int]]
    only_in_a: list[int]
    only_in_b: list[int]
    notes: list[str]


def paired(a: Sequence[Piece], b: Sequence[Piece], prefixes: Sequence[str] = ()) -> Pairing:
    """The pairs among the tensors of two dumps, in the order of the first."""
    first, second = ([piece.mapped for piece in side] for side in (a, b))
    bare = BareNames(tuple(prefixes))
    found: dict[int, int] = {}
    for form in forms(bare):
        _match(first, second, form, found)
        if len(found) == min(len(a), len(b)):
            break
    notes = _taken_off([piece.key for piece in a], [piece.key for piece in b], found, bare)
    taken = set(found.values())
    return Pairing(
        pairs=sorted(found.items()),
        only_in_a=[n for n in range(len(a)) if n not in found],
        only_in_b=[n for n in range(len(b)) if n not in taken],
        notes=notes,
    )


def _match(
    first: Sequence[Key], second: Sequence[Key], form: Callable[[Key], Key], found: dict[int, int]
) -> None:
    """Add the pairs of what is left that agree in a form which nothing else of its side has."""
    taken = set(found.values())
    left = _only_ones((form(key), n) for n, key in enumerate(first) if n not in found)
    right = _only_ones((form(key), n) for n, key in enumerate(second) if n not in taken)
    found |= {left[key]: right[key] for key in left.keys() & right.keys()}


def _only_ones(forms: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    places: dict[Key, int] = {}
    repeated = set()
    for key, number in forms:
        if places.setdefault(key, number) != number:
            repeated.add(key)
    return {key: number for key, number in places.items() if key not in repeated}


def _taken_off(
    a: Sequence[Key], b: Sequence[Key], found: dict[int, int], bare: BareNames
) -> list[str]:
    """What was taken off names that would not pair with it, in words."""
    counts: dict[tuple[str, str], int] = {}
    sections: dict[tuple[str, str], int] = {}
    for n, m in found.items():
        (section, name), (other_section, other) = a[n], b[m]
        if section != other_section:
            both = (section, other_section)
            sections[both] = sections.get(both, 0) + 1
        if name == other or bare(name) != bare(other):
            continue
        for side, taken in (("A", bare.taken_off(name)), ("B", bare.taken_off(other))):
            if off := ", ".join(map(repr, taken)):
                counts[side, off] = counts.get((side, off), 0) + 1
    notes = [
        f"{counted(count, 'name agrees', 'names agree')} after {off:.200} is taken off those of "
        f"{side}"
        for (side, off), count in counts.items()
    ]
    notes += [
        f"{counted(count, 'tensor')} of section {one!r:.80} of A paired with {other!r:.80} of B"
        for (one, other), count in sections.items()
    ]
    return notes


def of_other_kinds(a: Checkpoint, b: Checkpoint, pairing: Pairing) -> Iterator[str]:
    """A sentence on tensors that one dump measures and the other skips, under one name."""
    skipped = [{item.name: item.dtype for item in one.skipped} for one in (a, b)]
    alone = (
        [(a.tensors[n].name, a.tensors[n].dtype.name) for n in pairing.only_in_a],
        [(b.tensors[n].name, b.tensors[n].dtype.name) for n in pairing.only_in_b],
    )
    found = [
        f"{name!r:.80} ({dtype} in {side}, {others[name]} in {other})"
        for names, others, side, other in (
            (alone[0], skipped[1], "A", "B"),
            (alone[1], skipped[0], "B", "A"),
        )
        for name, dtype in names
        if name in others
    ]
    if found:
        yield f"not compared, as one of both is no gradient: {first_of(found)}"


def tied(sides: tuple[Checkpoint, Checkpoint], pairing: Pairing) -> Iterator[str]:
    """A sentence on names without a pair of which the elements are those of a tensor with one."""
    in_pairs = ([n for n, _ in pairing.pairs], [m for _, m in pairing.pairs])
    alone = (pairing.only_in_a, pairing.only_in_b)
    for side, checkpoint, numbers, left in zip("AB", sides, in_pairs, alone, strict=True):
        specs = checkpoint.tensors
        places = {_place(specs[n]): specs[n].name for n in numbers if specs[n].extents}
        found = [
            f"{specs[n].name!r:.80} is {places[place]!r:.80}"
            for n in left
            if (place := _place(specs[n])) in places
        ]
        if found:
            yield f"tied in {side}, and compared once: {first_of(found)}; `exclude` leaves it out"


def _place(spec: TensorSpec) -> object:
    return spec.extents, spec.shape, spec.strides, spec.dtype.name
