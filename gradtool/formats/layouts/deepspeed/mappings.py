"""Two accounts of where parameters lie, and what follows where they differ.

DeepSpeed 0.19 writes `param_slice_mappings` in the order in which the optimizer was given its
parameters, though with `round_robin_gradients` these lie in another, that of `param_shapes`: a
checkpoint that `ds_to_universal.py` makes of it has elements of one parameter under the name of
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradtool.core.figures import counted
from gradtool.formats.layouts.deepspeed.flat import Group, pieces
from gradtool.formats.layouts.deepspeed.states import MASTER, OptimState

Mapping = dict[str, tuple[int, int]]


def note_on_mappings(states: Sequence[OptimState], groups: Sequence[Group]) -> Iterator[str]:
    """A sentence on parameters that `param_slice_mappings` have elsewhere, where there are some.

    Raises CorruptFileError for mappings that are not those elements at all, or some of them twice.
    """
    elsewhere: set[str] = set()
    for number, group in enumerate(groups):
        mappings = [state.mappings[number] for state in states if state.mappings is not None]
        if len(mappings) < len(states):
            continue
        true = _mappings_of(states, number, group)
        for state, mapping, its in zip(states, mappings, true, strict=True):
            if mapping != its:
                _refuse_lies(state, mapping, its)
                elsewhere |= {name for name in mapping | its if mapping.get(name) != its.get(name)}
        _refuse_sums(states[0], mappings, group)
    if elsewhere:
        yield (
            f"param_slice_mappings have {counted(len(elsewhere), 'parameter')} elsewhere than "
            "param_shapes, which count: DeepSpeed writes them so with round_robin_gradients, and "
            "what ds_to_universal.py makes of them is not these parameters"
        )


def _mappings_of(states: Sequence[OptimState], number: int, group: Group) -> list[Mapping]:
    """What the mappings of each rank should be."""
    row = states[0].groups[number][MASTER].shape[0]
    found: list[Mapping] = [{} for _ in states]
    for place in group.places:
        for piece in pieces(place, row, len(states), is_stage_3=False):
            found[piece.rank][place.name] = piece.first, piece.numel
    return found


def _refuse_lies(state: OptimState, mapping: Mapping, true: Mapping) -> None:
    """Raise CorruptFileError unless the slices are of the elements that parameters take."""
    inside = max((first + numel for first, numel in true.values()), default=0)
    end = 0
    for name, (first, numel) in sorted(mapping.items(), key=lambda item: item[1]):
        if first < end or first + numel > inside:
            problem = f"param_slice_mappings have it at {first} to {first + numel}"
            reason = "which another has" if first < end else f"beyond {inside} that are used"
            state.state.broken(f"{problem}, {reason}", name)
        end = first + numel


def _refuse_sums(first: OptimState, mappings: Sequence[Mapping], group: Group) -> None:
    """Raise CorruptFileError for slices that are not as many elements as a parameter has."""
    sums: dict[str, int] = {}
    for mapping in mappings:
        for name, (_, numel) in mapping.items():
            sums[name] = sums.get(name, 0) + numel
    numels = {place.name: place.numel for place in group.places if place.numel}
    for name in sums.keys() | numels.keys():
        if sums.get(name, 0) != numels.get(name, 0):
            said, true = sums.get(name, 0), numels.get(name, 0)
            problem = f"param_slice_mappings have {said:,} elements of it, its shape {true:,}"
            first.state.broken(problem, name)
