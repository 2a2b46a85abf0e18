"""Several catalogues as one: shards of a checkpoint, files of a directory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.locations import Location
from gradtool.core.names import NameFilter
from gradtool.core.tensors import SectionKind

Fact = TypeVar("Fact")


def joined(
    path: str,
    format_name: str,
    parts: Sequence[Checkpoint],
    *,
    files: Iterable[Location] = (),
    notes: Iterable[str] = (),
) -> Checkpoint:
    """All of `parts`, in their order, as what lies at `path`.

    `files` were read besides those of the parts, and `notes` go before theirs.
    """
    kinds: dict[str, SectionKind] = {}
    for part in parts:
        kinds.update(part.section_kinds)
    with_tensors = [part for part in parts if part.tensors or part.left_out]
    whole = Checkpoint(
        path=path,
        format=format_name,
        files=(*files, *(file for part in parts for file in part.files)),
        tensors=tuple(spec for part in parts for spec in part.tensors),
        replicas=tuple(replica for part in parts for replica in part.replicas),
        skipped=tuple(item for part in parts for item in part.skipped),
        section_kinds=kinds,
        is_dump=bool(with_tensors) and all(part.is_dump for part in with_tensors),
        checksums=tuple(checksum for part in parts for checksum in part.checksums),
        serialization_ids=tuple(found for part in parts for found in part.serialization_ids),
        step=_same([part.step for part in with_tensors]),
        writer=_same([part.writer for part in with_tensors]),
        ranks=frozenset().union(*(part.ranks for part in parts)),
        placed={name: placed for part in parts for name, placed in part.placed.items()},
        loss_scale=_common([part.loss_scale for part in with_tensors]),
        measure_only=_measure_only(parts),
        in_model_order=all(part.in_model_order for part in parts),
        left_out=tuple(name for part in parts for name in part.left_out),
        skipped_left_out=tuple(name for part in parts for name in part.skipped_left_out),
        essential_notes=tuple(
            dict.fromkeys(note for part in parts for note in part.essential_notes)
        ),
        part_notes=tuple(dict.fromkeys(note for part in parts for note in part.part_notes)),
        notes=tuple(dict.fromkeys((*notes, *(note for part in parts for note in part.notes)))),
    )
    # Scales need not lie in the file of their fp8 tensors.
    return whole.with_scales_of(frozenset().union(*(part.fp8 for part in parts)))


def _measure_only(parts: Sequence[Checkpoint]) -> str:
    """Why not all of the parts can be clipped: the first that cannot, and its reason."""
    if len(parts) == 1:
        return parts[0].measure_only
    reasons = (f"{os.path.basename(p.path)}: {p.measure_only}" for p in parts if p.measure_only)
    return next(reasons, "")


def _common(loss_scales: Sequence[float | None]) -> float | None:
    different = set(loss_scales)
    return loss_scales[0] if len(different) == 1 else None if different else 1.0


def _same(facts: Sequence[Fact | None]) -> Fact | None:
    return facts[0] if len(set(facts)) == 1 else None


def repeated_name(parts: Iterable[Checkpoint]) -> str | None:
    """A tensor's name that occurs more than once in all parts together, if there is one."""
    counts = Counter(name for part in parts for name in part.names)
    return next((name for name, count in counts.items() if count > 1), None)


def filtered(checkpoint: Checkpoint, wanted: NameFilter) -> Checkpoint:
    """A whole catalogue with what is wanted of it, and the names of the rest."""
    tensors, skipped = checkpoint.tensors, checkpoint.skipped
    return replace(
        checkpoint,
        tensors=tuple(spec for spec in tensors if wanted(spec.name)),
        replicas=tuple(copy for copy in checkpoint.replicas if wanted(copy.name)),
        skipped=tuple(item for item in skipped if wanted(item.name)),
        left_out=tuple(spec.name for spec in tensors if not wanted(spec.name)),
        skipped_left_out=tuple(item.name for item in skipped if not wanted(item.name)),
    )
