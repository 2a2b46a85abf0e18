"""Files of a directory that make up one checkpoint, under names that stay apart."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.file_names import one_model_twice
from gradtool.core.names import unwrapped, without_separators
from gradtool.core.sections import FLAT_WEIGHTS, MODEL, OTHER, Sections, sections_of_file
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.errors import SameTensorsError, UnsupportedFormatError
from gradtool.formats.layouts._contents import Part, stem_of
from gradtool.formats.layouts._joined import joined, repeated_name

PREFIXED = "tensors are prefixed by their file"


_MEANT = "name the file that is meant, or give `join` to read both under prefixes"


def refuse_one_model_twice(path: str, names: Sequence[str]) -> None:
    """SameTensorsError if two files are, by their names, one model for two programs."""
    found = one_model_twice(names)
    if found is not None:
        problem = f"{found[0]!r} and {found[1]!r} are one model, as their names tell"
        hint = "name the file that is meant, or give `join` to add both up"
        raise SameTensorsError(f"{path}: {problem}", hint=hint)


def refuse_same_tensors(path: str, parts: Sequence[Part]) -> None:
    """SameTensorsError if two files hold the same tensors, be they spelt alike or not."""
    first_by_name: dict[str, str] = {}
    for part in parts:
        for name in _tensor_names(part.checkpoint):
            first = first_by_name.setdefault(name, part.name)
            if first != part.name:
                raise SameTensorsError(
                    f"{path}: {first!r} and {part.name!r} both hold {name!r:.80}", hint=_MEANT
                )
    difference = _spelt_otherwise(parts)
    if difference is not None:
        raise SameTensorsError(f"{path}: {difference}", hint=_MEANT)


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


def _spelt_otherwise(parts: Sequence[Part]) -> str | None:
    """Which two files hold the same tensors in other words, if any do: no name occurs twice.

    What a format leaves out for a filter has no shape here, and is counted by nobody.
    """
    sections = _sections(parts)
    held = {part.name: list(_held(part, sections[part.name])) for part in parts}
    found = (
        _under_wrappers(held.values())
        or _under_prefixes(parts, held)
        or _with_other_separators(held.values())
    )
    return None if found is None else f"{found[0]!r} and {found[1]!r} hold {found[2]}"


def _held(part: Part, sections: Sections | None) -> Iterator[_Held]:
    for spec in part.checkpoint.tensors:
        section = spec.section if sections is None else sections(spec.name)
        if OTHER not in (section, spec.section):
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
    cut = [(part, *_cut_alike(_tensor_names(part.checkpoint))) for part in parts]
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
            if kinds == (FLAT_WEIGHTS, FLAT_WEIGHTS):
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


def joined_files(
    path: str, parts: Sequence[Part], notes: Iterable[str], *, prefix: bool
) -> Checkpoint:
    """All files as one checkpoint: under their own names, or all under prefixes.

    A prefix is the stem of the file, or all its name where stems repeat. What is not measured may
    be called alike in several files, and is prefixed then. Raises UnsupportedFormatError for names
    that stay ambiguous.
    """
    stems = Counter(stem_of(part.name) for part in parts)
    repeated = {name for name, count in _counts(parts).items() if count > 1}
    sections = _sections(parts)
    placed = [
        _placed(
            part.checkpoint,
            sections[part.name],
            part.name if stems[stem_of(part.name)] > 1 else stem_of(part.name),
            (lambda _: True) if prefix else repeated.__contains__,
        )
        for part in parts
    ]
    ambiguous = repeated_name(placed)
    if ambiguous is not None:
        raise UnsupportedFormatError(path, "two files have a tensor so named", tensor=ambiguous)
    return joined(path, "directory", placed, notes=[*notes, *([PREFIXED] if prefix else [])])


def _tensor_names(part: Checkpoint) -> Iterable[str]:
    return (*(spec.name for spec in part.tensors), *part.left_out)


def _counts(parts: Sequence[Part]) -> Counter[str]:
    return Counter(name for part in parts for name in part.checkpoint.names)


def _sections(parts: Sequence[Part]) -> dict[str, Sections | None]:
    """What each file's name says of the sections in it; None where its own keys say that.

    What is neither gradient, weight nor moment is told only beside such.
    """
    found = {part.name: _sections_of(part) for part in parts}
    recognised = any(each is None or each.kinds for each in found.values())
    return {
        name: each if each is None or each.kinds or recognised else Sections()
        for name, each in found.items()
    }


def _sections_of(part: Part) -> Sections | None:
    kinds = part.checkpoint.section_kinds
    if kinds == FLAT_WEIGHTS:  # which need a section beside those of other files
        return Sections(dict.fromkeys(part.checkpoint.names, MODEL), {MODEL: "weights"})
    return None if kinds else sections_of_file(stem_of(part.name), part.checkpoint.names)


def _placed(
    part: Checkpoint, sections: Sections | None, start: str, is_prefixed: Callable[[str], bool]
) -> Checkpoint:
    """A file's catalogue under its prefix, and in the `sections` given, if any are."""

    def named(name: str) -> str:
        return f"{start}.{name}" if is_prefixed(name) else name

    def section_of(item: TensorSpec | Skipped) -> str:
        # A scale is none of the weights beside it, whatever the file is.
        if sections is None or item.section == OTHER:
            return item.section
        return sections(item.name)

    def place(spec: TensorSpec) -> TensorSpec:
        return spec.under(named(spec.name), section_of(spec))

    return replace(
        part,
        tensors=tuple(map(place, part.tensors)),
        replicas=tuple(replace(replica, stored=place(replica.stored)) for replica in part.replicas),
        skipped=tuple(
            replace(item, name=named(item.name), section=section_of(item)) for item in part.skipped
        ),
        left_out=tuple(map(named, part.left_out)),
        skipped_left_out=tuple(map(named, part.skipped_left_out)),
        placed={named(name): placed for name, placed in part.placed.items()},
        fp8=frozenset(map(named, part.fp8)),
        section_kinds=part.section_kinds if sections is None else sections.kinds,
        in_model_order=False,  # nothing tells which file comes first in the model
    )
