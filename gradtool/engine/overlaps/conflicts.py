"""Tensors that share elements must agree on how each of those is transformed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from gradtool.engine.overlaps.sharing import refuse_two_types

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


def _refuse_conflict(task: GroupTask, names: Sequence[str], wanted: Sequence[Transform]) -> None:
    """Have each member claim its elements; raise where one is claimed for another transform."""
    first_with: dict[Transform, int] = {}
    owner_of = [first_with.setdefault(transform, index) for index, transform in enumerate(wanted)]
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
