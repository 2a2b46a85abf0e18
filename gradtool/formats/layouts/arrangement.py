"""What files and folders make up together, by their names alone.

Names that differ in the number of a shard are a set of shards, names of files or of such sets that
differ in the number of a rank are a set of ranks, and what differs in any other number are the
steps of a run, but for layers: those are modules of one model.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from gradtool.core.file_names import REMEMBERED, Number, Role, numbers_in, template
from gradtool.core.names import natural_key
from gradtool.storage.listing import Listing

UnitKind: TypeAlias = Literal["entry", "shard", "rank"]

_NAMED_SETS: Final[tuple[Literal["shard", "rank"], ...]] = ("shard", "rank")


@dataclass(frozen=True, slots=True)
class Unit:
    """What is one checkpoint as far as names tell.

    Attributes:
        name: the name of a file or folder; of a set a glob that fits its members.
        kind: "entry" for a file or folder, else what the set is of.
        members: of a set, in the order of their numbers.
        numbers: of a set, those of each member: one, or one for each dimension of ranks.
        count: how many members a set has, where names, files or other steps say it.
        is_short: whether names of other steps tell of more ranks.
    """

    name: str
    kind: UnitKind = "entry"
    members: tuple[Unit, ...] = ()
    numbers: tuple[tuple[int, ...], ...] = ()
    count: int | None = None
    is_short: bool = False

    @property
    def entries(self) -> tuple[str, ...]:
        """The files and folders that it consists of."""
        if self.kind == "entry":
            return (self.name,)
        return tuple(entry for member in self.members for entry in member.entries)

    @property
    def step(self) -> int | None:
        """The number of the step in its name: that after a word for one, else the only other.

        In a path others count only in its last part that has some: `exp2/grads_0001.pt`.
        """
        return _step_in(self.name)

    @property
    def counts_steps(self) -> bool:
        """Whether a word in its name says that a number counts steps."""
        return any(number.role == "step" for number in numbers_in(self.name))


@lru_cache(maxsize=REMEMBERED)
def _step_in(name: str) -> int | None:
    numbers = numbers_in(name)
    steps = [number.value for number in numbers if number.role == "step"]
    others = [number for number in numbers if number.role == "other"]
    ends = [name.find("/", number.end) for number in others]
    last = [number.value for number, end in zip(others, ends, strict=True) if end == ends[-1]]
    return steps[-1] if steps else last[0] if len(last) == 1 else None


def arranged(names: Iterable[str]) -> list[Unit]:
    """The names as units, in their order: shards first make sets, then ranks."""
    units = [Unit(name) for name in names]
    for role in _NAMED_SETS:
        units = [_as_set(name, role, group) for name, group in _alike(units, _counting(role))]
    return _with_ranks_of_other_steps(units)


def rank_set(name: str, ranked: Sequence[tuple[int, Unit]], count: int) -> Unit:
    """The set of units whose names a glob fits, and which are of these of `count` ranks."""
    members = tuple(unit for _, unit in ranked)
    return Unit(name, "rank", members, tuple((rank,) for rank, _ in ranked), count)


def arranged_below(place: str, paths: Sequence[str]) -> list[Unit]:
    """What paths make up together that all begin with `place`, which says nothing: `run/rank3/`."""
    units = arranged(path[len(place) :] for path in paths)
    return [_below(place, unit) for unit in units]


def _below(place: str, unit: Unit) -> Unit:
    members = tuple(_below(place, member) for member in unit.members)
    return replace(unit, name=f"{place}{unit.name}", members=members)


def rank_labels(unit: Unit) -> list[str]:
    """How the members of a set of ranks are called: `rank 0`, `rank 0_1`; `shard 1` by its name."""
    return [f"{unit.kind} {'_'.join(map(str, numbers))}" for numbers in unit.numbers]


def runs_among(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units that differ in their steps only, in the order of these; each group of two or more.

    A number counts steps where it counts nothing else: `grads_0001.pt`, `epoch3.pt`.
    """
    groups = [group for group in _of_runs(units) if len(group) > 1]
    return [sorted(group, key=_step_order) for group in groups]


def are_one_run(units: Sequence[Unit]) -> bool:
    """Whether all units, of two or more, differ in their steps only."""
    return len(units) > 1 and len(_of_runs(units)) == 1


def _of_runs(units: Sequence[Unit]) -> list[list[Unit]]:
    return [group for _, group in _alike(units, _counting("step", "part", "other"))]


def are_modules(units: Sequence[Unit]) -> bool:
    """Whether the names of all units differ only in the numbers of layers."""
    return len(units) > 1 and len(_alike(units, _counting("layer"))) == 1


def counts_ranks(name: str) -> bool:
    """Whether a name, or a glob made of one, has the number of a rank."""
    return bool(_numbers(name.replace("*", "0"), "rank"))


def glob_of(listing: Listing, unit: Unit) -> str:
    """What to give to read a unit alone: its path, or a glob for its members."""
    if unit.kind == "entry":
        return listing.at(unit.name)
    return "*".join(glob.escape(piece) for piece in listing.at(unit.name).split("*"))


def note_on_part(path: str) -> tuple[str, ...]:
    """What to say of a file that is, by its name, one of several shards or ranks."""
    name = os.path.basename(path)
    for role in _NAMED_SETS:
        count, numbers = _count(name, role), _numbers(name, role)
        if count is not None and count > 1 and numbers:
            return (
                f"this file is {role} {numbers[-1]} of {count}: what the others hold is missing",
            )
    return ()


def _counting(*roles: Role) -> Callable[[Number], bool]:
    return lambda number: number.role in roles


def _alike(units: Iterable[Unit], of: Callable[[Number], bool]) -> list[tuple[str, list[Unit]]]:
    """Units whose names differ only in numbers that `of` holds for, by the rest of their names."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(template(unit.name, of), []).append(unit)
    return list(groups.items())


def _as_set(name: str, role: Literal["shard", "rank"], group: list[Unit]) -> Unit:
    """The group as a set of shards or ranks, if it is one."""
    numbers = [_numbers(unit.name, role) for unit in group]
    if not numbers[0] or (len(group) == 1 and _may_be_alone(group[0].name, role, numbers[0])):
        return group[0]
    members = sorted(zip(numbers, group, strict=True), key=lambda member: member[0])
    return Unit(
        name,
        role,
        members=tuple(unit for _, unit in members),
        numbers=tuple(number for number, _ in members),
        count=_count(group[0].name, role),
    )


def _with_ranks_of_other_steps(units: Sequence[Unit]) -> list[Unit]:
    """The units, each step of a run with as many ranks as that which has the most.

    A rank that stopped early leaves steps behind that look whole, each by itself.
    """
    most: dict[str, int] = {}
    for unit in units:
        if unit.kind == "rank":
            key = _of_any_step(unit.name)
            most[key] = max(most.get(key, 0), len(unit.members))
    return [_as_of(unit, most) for unit in units] if most else list(units)


def _as_of(unit: Unit, most: Mapping[str, int]) -> Unit:
    """The unit as a set of as many ranks as another step has, if it is one of fewer."""
    name = template(unit.name, _counting("rank"))
    numbers = unit.numbers or (_numbers(unit.name, "rank"),)
    count = most.get(_of_any_step(name), 0)
    if count <= len(numbers) or len(numbers[0]) != 1 or unit.kind == "shard":
        return unit
    members = unit.members or (unit,)
    return Unit(name, "rank", members, numbers, count, is_short=True)


def _of_any_step(name: str) -> str:
    """The name without the numbers of steps: folders are no steps by the numbers of other words."""

    def of_step(number: Number) -> bool:
        if number.role != "other" or "/" not in name[number.end :]:
            return number.role in ("step", "part", "other")
        before, after = name[: number.start], name[number.end :]
        return before[-1:] in ("", "/") and after.startswith("/")

    return template(name, of_step, "#")


def _may_be_alone(name: str, role: Role, numbers: tuple[int, ...]) -> bool:
    """Whether nothing in the name tells of others: where rank 1 is, there was a rank 0."""
    return _count(name, role) in (None, 1) and (role == "shard" or not any(numbers))


def _numbers(name: str, role: Role) -> tuple[int, ...]:
    return tuple(number.value for number in numbers_in(name) if number.role == role)


def _count(name: str, role: Role | UnitKind) -> int | None:
    """How many shards or ranks a name says there are: the number after or before the other."""
    numbers = numbers_in(name)
    for number, following in itertools.pairwise(numbers):
        pair = (number, following) if role == "shard" else (following, number)
        if pair[0].role == role and pair[1].role == "count":
            return pair[1].value
    return None


def _step_order(unit: Unit) -> tuple[bool, int, str]:
    step = unit.step
    return step is None, step or 0, natural_key(unit.name)
