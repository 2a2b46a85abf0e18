"""Tensors that share elements must agree on how each of those is transformed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from gradtool.core.clip.plan import transform_conflict
from gradtool.core.clipping import IDENTITY, Transform
from gradtool.core.tensors import TensorSpec
from gradtool.engine.overlaps.groups import (
    GroupTask,
    group_tasks,
    named_elements,
    window_bounds,
)
from gradtool.engine.overlaps.sharing import Overlaps, refuse_two_types

_NOBODY = -1


def refuse_conflicts(
    specs: Sequence[TensorSpec], group: Sequence[int], transforms: Mapping[str, Transform]
) -> None:
    """Raise UsageError if two tensors with different transforms name the same element.

    `group` are positions in `specs` of tensors whose bytes overlap; a tensor that is not in
    `transforms` stays as it is. Raises CorruptFileError where the tensors are of two types.
    """
    wanted = {transforms.get(specs[index].name, IDENTITY) for index in group}
    if wanted == {IDENTITY}:
        return
    refuse_two_types([specs[index] for index in group])
    if len(wanted) == 1:
        return
    for task in group_tasks(specs, group):
        names = [specs[member.target].name for member in task.members]
        _refuse_conflict(task, names, [transforms.get(name, IDENTITY) for name in names])


def refuse_shared_between(
    specs: Sequence[TensorSpec], overlaps: Overlaps, group_of: Mapping[str, int]
) -> None:
    """Raise UsageError if tensors of two groups name the same element: it has no one norm."""
    for linked in overlaps.among(specs):
        if len({group_of[specs[index].name] for index in linked}) == 1:
            continue
        refuse_two_types([specs[index] for index in linked])
        for task in group_tasks(specs, linked):
            names = [specs[member.target].name for member in task.members]
            _refuse_conflict(task, names, [group_of[name] for name in names])


def _refuse_conflict(task: GroupTask, names: Sequence[str], wanted: Sequence[Hashable]) -> None:
    """Have each member claim its elements; raise where one is claimed for something else."""
    first_with: dict[Hashable, int] = {}
    owner_of = [first_with.setdefault(one, index) for index, one in enumerate(wanted)]
    for start, stop in window_bounds(task.count):
        owners = np.full(stop - start, _NOBODY, np.int32)
        for named in named_elements(task.members, start, stop):
            owner = owner_of[named.member]
            previous = owners[named.offsets]
            rivals = previous[(previous != _NOBODY) & (previous != owner)]
            if len(rivals):
                pair = (names[int(rivals[0])], names[named.member])
                raise transform_conflict(task.file.path, pair)
            owners[named.offsets] = owner
