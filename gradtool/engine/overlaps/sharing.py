"""Which tensors share stored elements, and which tensor counts those.

The first tensor that names an element counts it, in the total and again among the tensors of
its own section; torch counts it once for each tensor, so that tied weights weigh double.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.storage.elements.summed import SummedValues

MOST_VIEWS: Final = 16
FREE_ELEMENTS: Final = 1 << 26
"""Times that views may name a stored element on average, and a number of elements on top of that,
which takes a second to walk.
"""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Sets of a catalogue's tensors, by name, whose bytes may overlap: nearly always none.

    Computed once for a catalogue, and used for any choice of its tensors.
    """

    linked: tuple[frozenset[str], ...]

    def among(self, specs: Sequence[TensorSpec | Skipped]) -> Iterator[list[int]]:
        """The sets of tensors in `specs` whose bytes overlap, as `overlapping` gives them.

        Overlaps are sought anew: a tensor that links two others may not be in `specs`.
        """
        set_of = {name: number for number, names in enumerate(self.linked) for name in names}
        chosen: list[list[int]] = [[] for _ in self.linked]
        for index, spec in enumerate(specs if set_of else ()):
            if (number := set_of.get(spec.name)) is not None:
                chosen[number].append(index)
        for indices in chosen:
            for linked in overlapping([specs[index] for index in indices]):
                yield [indices[position] for position in linked]


def find_overlaps(checkpoint: Checkpoint) -> Overlaps:
    """The overlaps of a catalogue's tensors, of their replicas and of skipped ones."""
    located = [*(item for item in checkpoint.skipped if item.extents), *summed_up(checkpoint)]
    tensors: list[TensorSpec | Skipped] = [*checkpoint.stored_anywhere, *located]
    sets = [{tensors[index].name for index in group} for group in overlapping(tensors)]
    return Overlaps(tuple(map(frozenset, _united(sets))))


def summed_up(checkpoint: Checkpoint) -> Iterator[Skipped]:
    """What is stored of sparse tensors that are measured by sums of it, under their names."""
    for spec in checkpoint.stored_anywhere:
        if isinstance(spec.stream, SummedValues):
            values = spec.stream.entries.values
            yield Skipped(spec.name, values.dtype.name, "summed up", extents=values.extents)


def _united(sets: Iterable[set[str]]) -> list[set[str]]:
    """Sets without a common name: chunks of a tensor, and copies, may overlap others elsewhere."""
    united: dict[str, set[str]] = {}
    for names in sets:
        known = {id(found): found for name in names if (found := united.get(name)) is not None}
        together = names.union(*known.values())
        united.update(dict.fromkeys(together, together))
    return list({id(names): names for names in united.values()}.values())


@dataclass(frozen=True, slots=True)
class Sharing:
    """What chosen tensors have in common; all numbers are positions among them.

    Attributes:
        alias_of: for a tensor of the very same elements as earlier ones, the first of those.
        alias_in_section: the same among the tensors of one section.
        same_as: for a tensor that equals earlier ones in all but the name, the first of those.
        groups: the overlap groups: tensors whose bytes overlap, and each view with gaps.
    """

    alias_of: dict[int, int]
    alias_in_section: dict[int, int]
    same_as: dict[int, int]
    groups: list[list[int]]


def find_sharing(specs: Sequence[TensorSpec], overlaps: Overlaps) -> Sharing:
    """What the tensors have in common, given the overlaps of the catalogue that they are from.

    Raises:
        CorruptFileError: two tensors read the same bytes as different dtypes.
        UnsupportedFormatError: so many views of so few elements that walking them could take days.
    """
    found = Sharing({}, {}, {}, [])
    groups = found.groups
    # Sums of the same values by the same indices are the same, whatever they are called.
    _note_aliases(
        found, specs, [i for i, spec in enumerate(specs) if isinstance(spec.stream, SummedValues)]
    )
    for linked in overlaps.among(specs):
        _note_aliases(found, specs, linked)
        different = [index for index in linked if index not in found.same_as]
        if len(different) > 1:
            refuse_two_types([specs[index] for index in different])
            groups.append(different)
    grouped = {index for group in groups for index in group}
    lone = (i for i in range(len(specs)) if i not in grouped and i not in found.same_as)
    groups.extend([index] for index in lone if not specs[index].is_gapless)
    _refuse_endless_walks(specs, groups)
    return found


def _note_aliases(found: Sharing, specs: Sequence[TensorSpec], linked: Sequence[int]) -> None:
    """Note which of the tensors at these positions are the same as ones before."""
    _note_repeats(found.alias_of, linked, [specs[i].elements for i in linked])
    in_section = [(specs[i].section, specs[i].elements) for i in linked]
    _note_repeats(found.alias_in_section, linked, in_section)
    _note_repeats(found.same_as, linked, [_all_but_name(specs[i]) for i in linked])


def _refuse_endless_walks(specs: Sequence[TensorSpec], groups: Sequence[Sequence[int]]) -> None:
    """Refuse views that name their elements far more often than gradients share any."""
    named = stored = 0
    for group in groups:
        extents = [specs[index].extents[0] for index in group]
        nbytes = max(e.end for e in extents) - min(e.offset for e in extents)
        stored += nbytes // specs[group[0]].dtype.itemsize
        named += sum(specs[index].named_elements for index in group)
        budget = MOST_VIEWS * stored + FREE_ELEMENTS
        if named > budget:
            raise UnsupportedFormatError(
                extents[0].file.path,
                f"it and other views name {named:,} elements, of {stored:,} that are stored: "
                f"gradtool's budget is {budget:,}, {MOST_VIEWS} for each",
                tensor=specs[group[0]].name,
                hint="save clones, or choose some with `include`",
            )


def overlapping(specs: Sequence[TensorSpec | Skipped]) -> list[list[int]]:
    """Sets of two or more tensors whose bytes overlap, directly or through others of the set.

    Each set is a list of positions in `specs`, ascending.
    """
    order: dict[str, int] = {}
    ranges = [
        (order.setdefault(extent.file.path, len(order)), extent.offset, extent.end, index)
        for index, spec in enumerate(specs)
        for extent in spec.extents
    ]
    ranges.sort()
    groups: list[list[int]] = []
    linked: list[int] = []
    last_file, last_end = -1, 0
    for file, start, end, index in ranges:
        if file != last_file or start >= last_end:
            if len(linked) > 1:
                groups.append(sorted(set(linked)))
            linked, last_file, last_end = [], file, 0
        linked.append(index)
        last_end = max(last_end, end)
    if len(linked) > 1:
        groups.append(sorted(set(linked)))
    return groups


def _note_repeats(firsts: dict[int, int], indices: Iterable[int], keys: Iterable[object]) -> None:
    """Note in `firsts`, for each index whose key occurred before, the first index with that key."""
    first_with: dict[object, int] = {}
    for index, key in zip(indices, keys, strict=True):
        first = first_with.setdefault(key, index)
        if first != index:
            firsts[index] = first


def _all_but_name(spec: TensorSpec) -> object:
    return (
        *(spec.section, spec.dtype.name, spec.big_endian, spec.is_negated),
        *(spec.extents, spec.shape, spec.strides, spec.scale, spec.stream),
    )


def refuse_two_types(specs: Sequence[TensorSpec]) -> None:
    """Raise CorruptFileError if one of the tensors reads the bytes of the first as another type.

    torch.save refuses to write such views: which elements they share has no answer.
    """
    first = specs[0]
    base = first.extents[0]
    for spec in specs[1:]:
        (extent,) = spec.extents
        if (
            spec.stored_type != first.stored_type
            or (extent.offset - base.offset) % spec.dtype.itemsize
        ):
            raise CorruptFileError(
                extent.file.path,
                f"shares bytes with {first.name!r} as {spec.stored_type} and {first.stored_type}",
                tensor=spec.name,
                byte=extent.offset,
            )
