"""What is wrong with the numbers of a set: one is missing, is there twice, or is one too many."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

from gradtool.core.figures import first_of
from gradtool.core.file_names import numbers_in
from gradtool.errors import CorruptFileError, MissingShardError
from gradtool.formats.layouts.arrangement import Unit

_COPY: Final = re.compile(r" \(\d+\)|[ _-]copy\b", re.ASCII | re.IGNORECASE)
"""What browsers and file managers put into the names of copies."""


def fault_in(unit: Unit, path: str, below: str = "") -> CorruptFileError | None:
    """What is wrong with the numbers of a set, of what lies at `path`; None where nothing is.

    A MissingShardError names what would have a number that is missing, and the one that is there
    as whoever reads it alone has to: the names of the set are `below` that directory.
    """
    here: dict[tuple[int, ...], Unit] = {}
    for numbers, member in zip(unit.numbers, unit.members, strict=True):
        first = here.setdefault(numbers, member)
        if first is not member:
            both = f"{_shown(unit, first.name)} and {_shown(unit, member.name)} are both"
            return CorruptFileError(path, f"{both} {unit.kind} {_joined(numbers)}")
    last = _last_of_count(unit)
    if last is not None and unit.numbers[-1][0] > last:
        too_many = _shown(unit, unit.members[-1].name)
        return CorruptFileError(path, f"{too_many} is one too many: {_words(unit)}")
    missing = next((numbers for numbers in _expected(unit) if numbers not in here), None)
    if missing is None:
        return None
    name = _shown(unit, _name_of(unit, missing))
    return MissingShardError(path, f"{name} is missing: {_words(unit)}", hint=_hint(unit, below))


def _hint(unit: Unit, below: str) -> str | None:
    if len(unit.entries) > 1:
        return None
    (alone,) = unit.entries
    looks = f"{alone} looks like a copy: " if _COPY.search(alone) else ""
    return f"{looks}name {os.path.join(below, alone)} alone to read what it holds"


def refuse_faults(unit: Unit, path: str, below: str = "") -> None:
    """Raise what `fault_in` finds wrong with a set of what lies at `path`."""
    fault = fault_in(unit, path, below)
    if fault is not None:
        raise fault


def _shown(unit: Unit, name: str) -> str:
    """A member's name; of steps that others tell of without what is before it in all their paths.

    Whoever named the other steps did so from wherever.
    """
    if not unit.is_short:
        return repr(name)
    parts, like = name.split("/"), unit.members[0].name.split("/")
    pairs = zip(parts[:-1], like, strict=False)
    alike = list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return repr("/".join(parts[len(alike) :]))


def _expected(unit: Unit) -> Iterator[tuple[int, ...]]:
    """The numbers that a set has where nothing is missing."""
    axes = list(zip(*unit.numbers, strict=True))
    last = [max(axis) for axis in axes]
    of_count = _last_of_count(unit)
    return _grid(_first(unit), last if of_count is None else [max(last[0], of_count)])


def _first(unit: Unit) -> int:
    """The number that the first of a set has: shards are counted from 0 or from 1."""
    return 0 if unit.kind == "rank" or any(0 in numbers for numbers in unit.numbers) else 1


def _last_of_count(unit: Unit) -> int | None:
    """The number that the last of a set has, where it is said how many there are."""
    if unit.count is None or len(unit.numbers[0]) != 1:
        return None
    return _first(unit) + unit.count - 1


def _grid(first: int, last: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All tuples of numbers from `first` to those in `last`, made one by one: names may lie."""
    if not last:
        yield ()
        return
    for number in range(first, last[0] + 1):
        for others in _grid(first, last[1:]):
            yield (number, *others)


def _name_of(unit: Unit, numbers: tuple[int, ...]) -> str:
    """What a missing member would be called."""
    like = unit.members[0].name
    found = [number for number in numbers_in(like) if number.role == unit.kind][-len(numbers) :]
    if len(found) != len(numbers):
        return f"{unit.kind} {numbers[0]}"  # as the files note it
    pieces, end = [], 0
    for number, value in zip(found, numbers, strict=True):
        digits = str(value).zfill(number.end - number.start)
        pieces += [like[end : number.start], digits]
        end = number.end
    return "".join([*pieces, like[end:]])


def _words(unit: Unit) -> str:
    shown = [_joined(numbers) for numbers in unit.numbers]
    total = "" if unit.count is None else f" of {unit.count}"
    told = ", as other steps tell" if unit.is_short else ""
    if len(shown) == 1:
        return f"only {unit.kind} {shown[0]}{total} is here{told}"
    return f"{unit.kind}s {first_of(shown)}{total} are here{told}"


def _joined(numbers: Sequence[int]) -> str:
    return "_".join(map(str, numbers))
