"""What names of one dump are called in the other, and rows of tensors under names of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from gradtool.core.comparing.names.keys import Key, forms
from gradtool.core.figures import some
from gradtool.core.names import BareNames, nearest
from gradtool.core.shapes.rows import Cut, Rows
from gradtool.errors import UsageError

_MOST_TEXT: Final = 1 << 25
"""Characters of all the names that rows get: of many rows and a long name these are very many."""


@dataclass(frozen=True, slots=True)
class NameMap:
    """What names of the one dump are called in the other; each `*` stands for any text.

    Either side may end in rows, `[i:j]` or `[i]`, of the tensors of such names.
    """

    old: str
    new: str

    @classmethod
    def read(cls, text: object) -> NameMap:
        """The map that OLD=NEW says; UsageError for what is none."""
        old, equals, new = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not (old and equals and new):
            raise UsageError(f"`name_map` {text!r} must be OLD=NEW, as 'model.*=*'")
        if new.count("*") > old.count("*"):
            raise UsageError(f"`name_map` {text!r}: NEW has more * than OLD")
        return cls(old, new)

    def function(self) -> Callable[[str], str | None]:
        """From a name to what it is called; None for one that OLD does not fit."""
        fixed, literals = self.old.split("*"), self.new.split("*")

        def mapped(name: str) -> str | None:
            found = _between(fixed, name)
            if found is None:
                return None
            inserted = [*found[: len(literals) - 1], ""]
            return "".join(a + b for a, b in zip(literals, inserted, strict=True))

        return mapped

    @property
    def old_rows(self) -> Rows | None:
        """The rows that OLD ends in; None where it names tensors as they are."""
        rows = Rows.read(self.old)
        return rows if rows.is_indexed else None

    @property
    def has_new_rows(self) -> bool:
        """Whether NEW ends in rows; a number among them may be what `*` stands for."""
        return Rows.read(self.new.replace("*", "0")).is_indexed

    def __str__(self) -> str:
        return f"{self.old}={self.new}"


def _between(fixed: Sequence[str], name: str) -> list[str] | None:
    """What stands in a name between fixed texts, the first as long as can be, then the second ...

    None where the name is not made of these in their order. A regular expression with many `*`
    takes for ever on some names.
    """
    first, last, inner = fixed[0], fixed[-1], fixed[1:-1]
    if len(fixed) == 1:
        return [] if name == first else None
    end = len(name) - len(last)
    if end < len(first) or not (name.startswith(first) and name.endswith(last)):
        return None
    found: list[str] = []
    for text in reversed(inner):
        at = name.rfind(text, len(first), end)
        if at < 0:
            return None
        found.append(name[at + len(text) : end])
        end = at
    return [name[len(first) : end], *reversed(found)]


class Entry(NamedTuple):
    """A tensor of a catalogue as maps see it."""

    key: Key
    shape: Sequence[int] = ()


class Piece(NamedTuple):
    """A tensor of a catalogue, or rows of it, to be paired.

    Attributes:
        number: the tensor's position in the catalogue.
        key: its section and its name, which ends in the rows if there are any.
        mapped: the same with the name that maps make of it.
        cut: the rows; None for the whole tensor.
    """

    number: int
    key: Key
    mapped: Key
    cut: Cut | None = None

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Its shape, given that of the tensor."""
        if self.cut is None:
            return tuple(shape)
        rows = () if self.cut.is_one else (self.cut.stop - self.cut.start,)
        return (*rows, *shape[1:])


def pieces(
    a: Sequence[Entry], b: Sequence[Entry], maps: Sequence[NameMap], bare: BareNames
) -> tuple[list[Piece], list[Piece]]:
    """The tensors of two dumps as maps name them, one after another, and cut them into rows.

    A map whose OLD fits no name of the first dump is applied to those of the second. Of a tensor
    that is cut all other rows are pieces too. Raises UsageError for a map that fits no name or no
    rows, for rows that two maps take, and for tensors of one dump that get one name.
    """
    sides = _Side(a, bare), _Side(b, bare)
    for one in maps:
        _apply(one, sides)
    first, second = (list(side.pieces()) for side in sides)
    for found in (first, second):
        _refuse_repeated(found)
    return first, second


class _Named(NamedTuple):
    """A whole tensor, or rows of it, and what a map calls it."""

    number: int
    cut: Cut | None
    name: str


def _apply(one: NameMap, sides: tuple[_Side, _Side]) -> None:
    side, other = sides
    found = side.fitting(one)
    if not found:
        side, other = other, side
        found = side.fitting(one)
    if not found:
        names = [entry.key[1] for side in sides for entry in side.entries]
        likest = nearest(one.old, names)
        hint = f"the nearest names are {some(likest)}" if likest else None
        raise UsageError(f"`name_map` '{one}' fits no name of either dump", hint=hint)
    if one.has_new_rows:
        taken = [other.taken(one, side.entries[n].key[0], name) for n, _, name in found]
        if not any(taken):
            name = Rows.read(found[0].name).glob
            likest = nearest(name, other.names)
            hint = f"the nearest names are {some(likest)}" if likest else None
            problem = f"`name_map` '{one}': there is no tensor {name!r:.80} to take rows of"
            raise UsageError(problem, hint=hint)
        found = [was._replace(name=to or was.name) for was, to in zip(found, taken, strict=True)]
    side.rename(found)


class _Side:
    """The tensors of one dump while maps are applied."""

    def __init__(self, entries: Sequence[Entry], bare: BareNames) -> None:
        self.entries = entries
        self.names = [entry.key[1] for entry in entries]
        self._bare = bare
        self._cuts: dict[int, dict[Cut, str]] = {}
        self._found: list[dict[Key, int | None]] = []
        self._text = 0

    def fitting(self, one: NameMap) -> list[_Named]:
        """What OLD of a map fits, and the names that NEW makes of it; rows are cut for it."""
        mapped = one.function()
        found = [
            _Named(number, cut, new)
            for number, cut, name in self._all()
            if (new := mapped(name)) is not None
        ]
        if found or (rows := one.old_rows) is None:
            return found
        mapped = NameMap(rows.glob, one.new).function()
        return [
            _Named(number, self._cut(one, number, rows, is_new=True), new)
            for number, name in enumerate(self.names)
            if (new := mapped(name)) is not None
        ]

    def taken(self, one: NameMap, section: str, name: str) -> str | None:
        """The name of the rows, now cut, that a name ends in; None where their tensor is not there.

        A tensor that is called so in full is what is meant.
        """
        if self._at((section, name)) is not None:
            return name
        rows = Rows.read(name)
        number = self._at((section, rows.glob)) if rows.is_indexed else None
        if number is None:
            return None
        return f"{rows.glob}{self._cut(one, number, rows, is_new=False)}"

    def rename(self, found: Sequence[_Named]) -> None:
        """Call tensors, or rows of them, by other names."""
        self._found = []
        for number, cut, name in found:
            if cut is None:
                self.names[number] = name
            else:
                self._cuts[number][cut] = name

    def pieces(self) -> Iterator[Piece]:
        """All tensors in their order, those that are cut row after row."""
        for number, (entry, mapped) in enumerate(zip(self.entries, self.names, strict=True)):
            section, name = entry.key
            if number not in self._cuts:
                yield Piece(number, entry.key, (section, mapped))
                continue
            names = self._cuts[number]
            for cut in _tiling(name, entry.shape[0], names):
                new = names.get(cut, f"{mapped}{cut}")
                yield Piece(number, (section, f"{name}{cut}"), (section, new), cut)

    def _all(self) -> Iterator[_Named]:
        for number, name in enumerate(self.names):
            yield _Named(number, None, name)
            for cut, called in self._cuts.get(number, {}).items():
                yield _Named(number, cut, called)

    def _cut(self, one: NameMap, number: int, rows: Rows, *, is_new: bool) -> Cut:
        name, shape = self.entries[number].key[1], self.entries[number].shape
        cut = rows.cut(shape)
        if cut is None:
            problem = f"`name_map` '{one}': there are no such rows in {name!r:.80}"
            raise UsageError(f"{problem}, of shape {list(shape)}")
        cuts = self._cuts.setdefault(number, {})
        if cut in cuts and is_new:
            raise UsageError(f"`name_map` '{one}': the rows {cut} of {name!r:.80} are taken twice")
        if cut not in cuts:
            cuts[cut] = f"{self.names[number]}{cut}"
            self._text += 2 * len(cuts[cut])
            if self._text > _MOST_TEXT:
                raise UsageError(f"`name_map` '{one}' takes too many rows of {name!r:.80}")
        return cut

    def _at(self, key: Key) -> int | None:
        """The tensor that is meant by a section and a name, as `pairing.paired` has it."""
        if not self._found:
            for form in forms(self._bare):
                places: dict[Key, int | None] = {}
                for number, (entry, name) in enumerate(zip(self.entries, self.names, strict=True)):
                    here = form((entry.key[0], name))
                    places[here] = None if here in places else number
                self._found.append(places)
        both = zip(forms(self._bare), self._found, strict=True)
        meant = (places.get(form(key)) for form, places in both)
        return next((number for number in meant if number is not None), None)


def _tiling(name: str, size: int, cuts: Sequence[Cut] | dict[Cut, str]) -> Iterator[Cut]:
    """All rows of a tensor in order: the cuts, and what is between them."""
    ordered = sorted(cuts)
    for one, other in pairwise(ordered):
        if other.start < one.stop:
            raise UsageError(f"`name_map` takes rows of {name!r:.80} twice: {one} and {other}")
    end = 0
    for cut in ordered:
        if end < cut.start:
            yield Cut(end, cut.start)
        yield cut
        end = cut.stop
    if end < size:
        yield Cut(end, size)


def _refuse_repeated(found: Sequence[Piece]) -> None:
    names: dict[Key, Piece] = {}
    if any(piece.cut is not None for piece in found):
        for piece in found:
            if names.setdefault(piece.key, piece) is not piece:
                raise UsageError(
                    f"`name_map` makes rows of the name of a tensor: {piece.key[1]!r:.80}"
                )
    if all(piece.key == piece.mapped for piece in found):
        return
    seen: dict[Key, Piece] = {}
    for piece in found:
        other = seen.setdefault(piece.mapped, piece)
        if other is not piece:
            both = some([other.key[1], piece.key[1]])
            raise UsageError(f"`name_map` makes one name, {piece.mapped[1]!r:.80}, of {both}")
