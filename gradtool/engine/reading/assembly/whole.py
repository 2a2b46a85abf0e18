"""From the measurements of tensors to that of the whole catalogue: sections, totals and notes."""

from __future__ import annotations

import time
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint, Disagreement
from gradtool.core.measurement import (
    Measurement,
    Summary,
    TensorMeasurement,
    summarize,
)
from gradtool.core.sections import OTHER, have_one_norm
from gradtool.engine.reading.assembly.notes import clipping_notes, sharing_notes


def measurement_of(
    checkpoint: Checkpoint,
    tensors: tuple[TensorMeasurement, ...],
    disagreements: tuple[Disagreement, ...],
    norm_type: float,
    loss_scale: float,
    *,
    backend: str,
    started: float,
) -> Measurement:
    """The measurement of a catalogue whose tensors were measured, from `started` on."""
    sections, total = _summaries(checkpoint, tensors, norm_type)
    essential = checkpoint.essential_notes + checkpoint.part_notes
    return Measurement(
        path=checkpoint.path,
        format=checkpoint.format,
        files=tuple(file.path for file in checkpoint.files),
        nbytes=checkpoint.nbytes,
        norm_type=norm_type,
        backend=backend,
        loss_scale=loss_scale,
        tensors=tensors,
        sections=sections,
        total=total,
        skipped=checkpoint.skipped,
        notes=(
            *essential,
            *checkpoint.notes,
            *sharing_notes(tensors),
            *clipping_notes(sections, total),
        ),
        essential_notes=essential,
        elapsed_s=time.perf_counter() - started,
        step=checkpoint.step,
        ranks=checkpoint.ranks,
        in_model_order=checkpoint.in_model_order,
        replicas=len(checkpoint.replicas) - len(disagreements),
        disagreements=disagreements,
    )


def _summaries(
    checkpoint: Checkpoint, tensors: tuple[TensorMeasurement, ...], norm_type: float
) -> tuple[tuple[Summary, ...], Summary | None]:
    """The summary of each section, and of all tensors where the sections are of one kind.

    What is `other` enters the total only where there is nothing else.
    """
    kinds = checkpoint.section_kinds
    names = list(dict.fromkeys(tensor.spec.section for tensor in tensors))
    by_section: dict[str, list[TensorMeasurement]] = {name: [] for name in names}
    for tensor in tensors:
        by_section[tensor.spec.section].append(tensor)
    sections = tuple(
        replace(
            summarize(
                name,
                kinds.get(name),
                by_section[name],
                [item for item in checkpoint.skipped if item.section == name],
                norm_type,
            ),
            has_norm=name != OTHER,
        )
        for name in names
    )
    counted = [name for name in names if name != OTHER] or names
    if not have_one_norm(counted, kinds):
        return sections, None
    skipped = [item for item in checkpoint.skipped if item.section != OTHER or OTHER in counted]
    if len(counted) == 1 and not skipped:
        (section,) = (section for section in sections if section.name in counted)
        return sections, replace(section, name="", kind=None, has_norm=True)
    chosen = [tensor for tensor in tensors if tensor.spec.section in counted]
    return sections, summarize("", None, chosen, skipped, norm_type, lambda tensor: tensor.unique)
