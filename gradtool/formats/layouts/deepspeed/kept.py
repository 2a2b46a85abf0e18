"""What files of ranks hold besides flat partitions: buffers, steps, what a program adds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.sections import OTHER
from gradtool.core.tensors import Replica, TensorSpec


@dataclass(slots=True)
class Kept:
    """Tensors, what further ranks hold under their names, and names of what cannot be a copy."""

    tensors: list[TensorSpec] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)


def kept_by_ranks(
    labels: Sequence[str], catalogues: Sequence[Checkpoint], used: Sequence[Collection[str]]
) -> Kept:
    """What is in none of the names that are `used` of each rank's file; in no section is `other`.

    Each rank may have its own: what has the same bytes in all of them counts once.
    """
    kept = Kept()
    first: dict[str, TensorSpec] = {}
    for label, catalogue, names in zip(labels, catalogues, used, strict=True):
        for found in catalogue.tensors:
            if found.name in names:
                continue
            spec = found if found.section else found.in_section(OTHER)
            other = first.setdefault(spec.name, spec)
            if other is spec:
                kept.tensors.append(spec)
                continue
            copy = Replica(label, spec, is_assumed=True, may_differ=True)
            if (spec.shape, spec.dtype) == (other.shape, other.dtype):
                kept.replicas.append(copy)
            else:
                kept.tensors.append(copy.as_tensor)
                kept.apart.append(copy.as_tensor.name)
    return kept
