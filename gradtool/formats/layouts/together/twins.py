"""Files that hold the same tensors in other words: under wrappers, prefixes, other separators."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from gradtool.core.names import unwrapped, without_separators
from gradtool.core.sections import OTHER
from gradtool.formats.layouts._contents import Part


class _Held(NamedTuple):
    """A tensor that a file holds."""

    file: str
    name: str
    section: str
    shape: tuple[int, ...]

    def may_be(self, other: _Held) -> bool:
        """Whether it may be the same tensor as one of a similar name in another file."""
        return (
            self.file != other.file
            and self.shape == other.shape
            and (self.section == other.section or "" in (self.section, other.section))
        )


def spelt_otherwise(parts: Sequence[Part], sections: Mapping[str, Mapping[str, str]]) -> str | None:
    """Which two files hold the same tensors in other words, if any do: no name occurs twice.

    `sections` are those of each file's tensors, by file and name. What a format leaves out for a
    filter has no shape here, and is counted by nobody.
    """
    held = {part.name: list(_held(part, sections[part.name])) for part in parts}
    found = (
        _under_wrappers(held.values())
        or _under_prefixes(parts, held)
        or _with_other_separators(held.values())
    )
    return None if found is None else f"{found[0]!r} and {found[1]!r} hold {found[2]}"


def _held(part: Part, sections: Mapping[str, str]) -> Iterator[_Held]:
    for spec in part.checkpoint.tensors:
        section = sections[spec.name]
        if section != OTHER:
            yield _Held(part.name, spec.name, section, spec.shape)


_Found: TypeAlias = tuple[str, str, str]
"""Two files, and what they hold in common, in words."""


def _under_wrappers(held: Iterable[Sequence[_Held]]) -> _Found | None:
    """Files that hold a tensor each under names that differ in wrappers only."""
    firsts: dict[str, list[_Held]] = {}
    for one in itertools.chain.from_iterable(held):
        alike = firsts.setdefault(unwrapped(one.name), [])
        for first in filter(one.may_be, alike):
            longer, shorter = sorted((first.name, one.name), key=len, reverse=True)
            more = longer.split(".")
            for module in shorter.split("."):
                if module in more:
                    more.remove(module)
            wrapper = "".join(f"{module}." for module in more)
            problem = f"{shorter!r:.80}, but for {wrapper!r:.80} in its name in one"
            return first.file, one.file, problem
        alike.append(one)
    return None


def _under_prefixes(parts: Sequence[Part], held: Mapping[str, Sequence[_Held]]) -> _Found | None:
    """Files in which all names are the same, but for a prefix that is longer in one of them."""
    cut = [(part, *_cut_alike(tensor_names(part))) for part in parts]
    by_cut = {(rest, prefix): part for part, prefix, rest in cut if len(rest) > 1}
    for part, prefix, rest in cut:
        modules = prefix.split(".")
        for count in range(1, len(modules)):
            shorter = ".".join(modules[count:])
            other = by_cut.get((rest, shorter))
            if other is None:
                continue
            more = f"{'.'.join(modules[:count])}."
            kinds = (part.checkpoint.section_kinds, other.checkpoint.section_kinds)
            sections = {one.section for one in (*held[part.name], *held[other.name])}
            if kinds == ({"": "weights"}, {"": "weights"}) and len(sections) < 2:
                problem = f"weights of the same names, but for {more!r:.80} before those of one"
                return part.name, other.name, problem
            of_other = {f"{more}{one.name}": one for one in held[other.name]}
            pairs = [(one, of_other[one.name]) for one in held[part.name] if one.name in of_other]
            if pairs and all(one.may_be(its) for one, its in pairs):
                problem = f"tensors of the same names, but for {more!r:.80} before those of one"
                return part.name, other.name, problem
    return None


def _with_other_separators(held: Iterable[Sequence[_Held]]) -> _Found | None:
    """A file of which others hold all, under names that differ in separators only."""
    files = [file for file in held if file]
    alike: dict[str, list[_Held]] = {}
    for one in itertools.chain.from_iterable(files):
        alike.setdefault(without_separators(unwrapped(one.name)), []).append(one)
    for file in files:
        twins = [
            next(filter(one.may_be, alike[without_separators(unwrapped(one.name))]), None)
            for one in file
        ]
        if twins[0] is not None and all(twins):
            names = f"{file[0].name!r:.80} and {twins[0].name!r:.80}"
            return file[0].file, twins[0].file, f"the same but for separators in names: {names}"
    return None


def _cut_alike(names: Iterable[str]) -> tuple[str, frozenset[str]]:
    """What all names begin with, up to a dot, and the rest of each."""
    given = list(names)
    first, last = min(given, default="").split("."), max(given, default="").split(".")
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    prefix = "".join(f"{part}." for part, _ in alike)
    return prefix, frozenset(name.removeprefix(prefix) for name in given)


def tensor_names(part: Part) -> Iterable[str]:
    """The names of a file's tensors, those too that were left out for a filter."""
    return (*(spec.name for spec in part.checkpoint.tensors), *part.checkpoint.left_out)
