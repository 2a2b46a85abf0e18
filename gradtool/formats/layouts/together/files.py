"""Files of a directory that make up one checkpoint, under names that stay apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import first_of
from gradtool.core.file_names import one_model_twice
from gradtool.core.sections import Sections, with_suffixes
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.errors import SameTensorsError, UnsupportedFormatError
from gradtool.formats.file_kinds import sections_told
from gradtool.formats.layouts._contents import Part, stem_of
from gradtool.formats.layouts._joined import joined, repeated_name
from gradtool.formats.layouts.together.kinds import has_keys
from gradtool.formats.layouts.together.twins import spelt_otherwise, tensor_names

PREFIXED = "tensors are prefixed by their file"

_MEANT = "name the file that is meant, or give `join` to read both under prefixes"


def refuse_one_model_twice(path: str, names: Sequence[str]) -> None:
    """SameTensorsError if two files are, by their names, one model for two programs."""
    found = one_model_twice(names)
    if found is not None:
        problem = f"{found[0]!r} and {found[1]!r} are one model, as their names tell"
        hint = "name the file that is meant, or give `join` to add both up"
        raise SameTensorsError(f"{path}: {problem}", hint=hint)


def refuse_same_tensors(path: str, parts: Sequence[Part], kinds: Mapping[str, str]) -> set[str]:
    """SameTensorsError if two files hold the same tensors, be they spelt alike or not.

    Files of different `kinds` may: the names are returned of those of which another has the same.
    """
    first_by_name: dict[str, dict[str, str]] = {}
    alike: set[str] = set()
    for part in parts:
        kind = kinds[part.name]
        for name in tensor_names(part):
            others = first_by_name.setdefault(name, {})
            # Nothing sets what is unknown apart from anything.
            unknown = next(iter(others.values()), None) if kind == "" else others.get("")
            first = others.get(kind) or unknown or part.name
            if first != part.name:
                raise SameTensorsError(
                    f"{path}: {first!r} and {part.name!r} both hold {name!r:.80}",
                    hint=_MEANT,
                )
            if others and kind not in others:
                alike.update((*others.values(), part.name))
            others[kind] = part.name
    difference = spelt_otherwise(parts, {part.name: _by_name(part, kinds) for part in parts})
    if difference is not None:
        raise SameTensorsError(f"{path}: {difference}", hint=_MEANT)
    return alike


def _by_name(part: Part, kinds: Mapping[str, str]) -> dict[str, str]:
    """The section of each tensor of a file."""
    found, kind = part.checkpoint, kinds[part.name]
    told = Sections() if has_keys(part) else _sections(kind, found.names)
    return {spec.name: told(spec.name) or spec.section for spec in found.tensors}


def joined_files(
    path: str,
    parts: Sequence[Part],
    kinds: Mapping[str, str],
    notes: Iterable[str],
    *,
    prefix: bool = False,
    alike: AbstractSet[str] = frozenset(),
) -> Checkpoint:
    """All files as one checkpoint: under their own names, or all under prefixes.

    A prefix is the stem of the file, or all its name where stems repeat; for files that are `alike`
    it is the section that they are of, by `kinds`. What is not measured may be called alike in
    several files, and is prefixed then. Raises UnsupportedFormatError for names that stay
    ambiguous.
    """
    stems = Counter(stem_of(part.name) for part in parts)
    repeated = {name for name, count in _counts(parts).items() if count > 1}
    placed = []
    left_out: dict[str, str] = {}
    for part in parts:
        kind, stem = kinds[part.name], stem_of(part.name)
        is_whole = prefix or part.name in alike
        start = part.name if stems[stem] > 1 else stem
        if part.name in alike and not prefix:
            start = kind
        is_prefixed = (lambda _: True) if is_whole else repeated.__contains__
        found = part.checkpoint
        sections = None if has_keys(part) else _sections(kind, found.names)
        placed.append(_placed(found, sections, start, is_prefixed))
        if sections is not None:
            left_out |= zip(placed[-1].left_out, map(sections, found.left_out), strict=True)
    ambiguous = repeated_name(placed)
    if ambiguous is not None:
        raise UnsupportedFormatError(path, "two files have a tensor so named", tensor=ambiguous)
    said = [PREFIXED] if prefix else list(_note_on_alike(parts, kinds, alike))
    whole = joined(path, "directory", placed, notes=[*notes, *said])
    return _with_suffixes(whole, left_out)


def _note_on_alike(
    parts: Sequence[Part], kinds: Mapping[str, str], alike: AbstractSet[str]
) -> Iterator[str]:
    if alike:
        named = first_of(
            [f"{kinds[part.name]}.* of {part.name}" for part in parts if part.name in alike]
        )
        yield f"files of several kinds hold the same names, which are prefixed by the kind: {named}"


def _sections(kind: str, names: Collection[str]) -> Sections:
    return sections_told(kind, names) if kind else Sections()


def _with_suffixes(whole: Checkpoint, left_out: Mapping[str, str]) -> Checkpoint:
    """The catalogue, in which a `w.grad` of one file is set apart from the `w` of another.

    `left_out` has the sections of names that nobody asked for: what is there tells all the same.
    """
    by_name = {
        **left_out,
        **{spec.name: spec.section for spec in whole.tensors},
        **{item.name: item.section for item in whole.skipped},
    }
    sections = Sections(by_name, whole.section_kinds)
    found = with_suffixes(sections, by_name)
    if found is sections:
        return whole
    return whole.in_sections(lambda item: found(item.name), found.kinds)


def _counts(parts: Sequence[Part]) -> Counter[str]:
    return Counter(name for part in parts for name in part.checkpoint.names)


def _placed(
    part: Checkpoint, sections: Sections | None, start: str, is_prefixed: Callable[[str], bool]
) -> Checkpoint:
    """A file's catalogue under its prefix, and in the `sections` given, if any are."""

    def named(name: str) -> str:
        return f"{start}.{name}" if is_prefixed(name) else name

    def section_of(item: TensorSpec | Skipped) -> str:
        # A scale is none of the weights beside it, whatever the file is.
        return item.section if sections is None else item.section or sections(item.name)

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
