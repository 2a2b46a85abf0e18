"""Which tensor counts a stored element that several names share: the first one.

torch counts such an element once for each name, so that tied weights weigh double.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradtool.core.strides import distinct_axes, is_dense
from gradtool.core.tensors import TensorSpec
from gradtool.errors import CorruptFileError


@dataclass(frozen=True, slots=True)
class Claim:
    """What a tensor shares with those before it.

    `alias_of` is the position of the first tensor with the very same elements; `earlier`
    are the positions of tensors that share some of this one's bytes.
    """

    alias_of: int | None = None
    earlier: tuple[int, ...] = ()


SOLE = Claim()
"""The claim of a tensor that shares nothing."""


def claims(specs: Sequence[TensorSpec]) -> list[Claim]:
    """One claim for each tensor, in order; almost always that nothing is shared.

    Raises CorruptFileError where two tensors read the same bytes as different dtypes.
    """
    found = [SOLE] * len(specs)
    for cluster in _clusters(specs):
        first_with: dict[object, int] = {}
        owners: list[int] = []
        for index in sorted(cluster):
            elements = _elements(specs[index])
            if elements in first_with:
                found[index] = Claim(alias_of=first_with[elements])
                continue
            first_with[elements] = index
            earlier = tuple(other for other in owners if _touch(specs[other], specs[index]))
            for other in earlier:
                _refuse_two_types(specs[other], specs[index])
            found[index] = Claim(earlier=earlier)
            owners.append(index)
    return found


def _clusters(specs: Sequence[TensorSpec]) -> list[list[int]]:
    """Positions of tensors whose byte ranges are linked by overlaps, two or more in each."""
    order: dict[str, int] = {}
    ranges = [
        (order.setdefault(extent.file.path, len(order)), extent.offset, extent.end, index)
        for index, spec in enumerate(specs)
        for extent in spec.extents
    ]
    ranges.sort()
    clusters: list[list[int]] = []
    linked: list[int] = []
    file, end = -1, 0
    for at, start, stop, index in ranges:
        if at != file or start >= end:
            if len(linked) > 1:
                clusters.append(linked)
            linked, file, end = [], at, 0
        linked.append(index)
        end = max(end, stop)
    return [cluster for cluster in (*clusters, linked) if len(set(cluster)) > 1]


def _elements(spec: TensorSpec) -> object:
    """A key that is equal for tensors of the very same stored elements."""
    if spec.strides is None or is_dense(spec.shape, spec.strides):
        return (spec.dtype.name, spec.extents)
    return (spec.dtype.name, spec.extents, tuple(distinct_axes(spec.shape, spec.strides)))


def _refuse_two_types(one: TensorSpec, other: TensorSpec) -> None:
    """torch.save refuses to write such views: which elements they share has no answer."""
    if one.dtype is not other.dtype:
        raise CorruptFileError(
            other.extents[0].file.path,
            f"shares bytes with {one.name!r} as {other.dtype.name} and {one.dtype.name}",
            tensor=other.name,
            byte=other.extents[0].offset,
        )


def _touch(one: TensorSpec, other: TensorSpec) -> bool:
    return any(
        a.file == b.file and a.offset < b.end and b.offset < a.end
        for a in one.extents
        for b in other.extents
    )
