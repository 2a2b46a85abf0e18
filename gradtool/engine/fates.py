"""Views that share a storage: which of its elements get which transform, each but one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradtool.core.clip_plan import refuse_two_fates
from gradtool.core.clipping import IDENTITY, Transform
from gradtool.core.tensors import TensorSpec
from gradtool.engine.plan import BLOCK_ELEMENTS, ClusterTask, cluster_tasks
from gradtool.engine.sharing import refuse_two_types


class Window(NamedTuple):
    """Elements `start` to before `stop` of a cluster's range.

    `named` has, for each transform, a mask of the elements that its members name, and the first
    of those members, by its position.
    """

    start: int
    stop: int
    named: dict[Transform, tuple[NDArray[np.bool_], int]]


def windows(task: ClusterTask, transforms: Sequence[Transform]) -> Iterator[Window]:
    """The task's range in bounded steps; `transforms` has one for each of its members."""
    for start in range(0, task.count, BLOCK_ELEMENTS):
        stop = min(start + BLOCK_ELEMENTS, task.count)
        named: dict[Transform, tuple[NDArray[np.bool_], int]] = {}
        for position, (member, transform) in enumerate(zip(task.members, transforms, strict=True)):
            if member.first >= stop or member.first + member.span <= start:
                continue
            low = start - member.first
            offsets, _ = member.layout.between(low, stop - member.first)
            if transform not in named:
                named[transform] = (np.zeros(stop - start, dtype=bool), position)
            named[transform][0][offsets - low] = True
        yield Window(start, stop, named)


def refuse_two_fates_in(
    specs: Sequence[TensorSpec], group: Sequence[int], transforms: Mapping[str, Transform]
) -> None:
    """Raise UsageError if an element has names with different transforms.

    `group` are positions in `specs` of tensors whose bytes overlap; a tensor that is not in
    `transforms` stays as it is. CorruptFileError where they are of two types.
    """
    fates = {transforms.get(specs[index].name, IDENTITY) for index in group}
    if fates == {IDENTITY}:
        return
    refuse_two_types([specs[index] for index in group])
    if len(fates) == 1:
        return
    for task in cluster_tasks(specs, group):
        names = [specs[member.target].name for member in task.members]
        fate_of = [transforms.get(name, IDENTITY) for name in names]
        for window in windows(task, fate_of):
            for (one, first), (other, second) in combinations(window.named.values(), 2):
                if (one & other).any():
                    raise refuse_two_fates(task.file.path, (names[first], names[second]))
