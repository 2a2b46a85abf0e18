"""From the statistics of what is stored to the measurements of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gradtool.core.measurement import TensorMeasurement
from gradtool.core.shapes.strides import repetitions
from gradtool.core.stats import TensorStats, merge
from gradtool.core.tensors import TensorSpec
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.reading.targets import NAMED, UNIQUE, UNIQUE_IN_SECTION, Target


class _PartStats(NamedTuple):
    """The statistics of one stored part; see `TensorMeasurement` for what they are over."""

    alias_of: int | None
    stats: TensorStats
    unique: TensorStats | None
    unique_in_section: TensorStats | None


def assembled(
    specs: Sequence[TensorSpec],
    stored: Sequence[TensorSpec],
    sharing: Sharing,
    stats_by_target: Mapping[Target, TensorStats],
    norm_type: float,
    loss_scale: float,
) -> tuple[TensorMeasurement, ...]:
    """One measurement for each tensor, of the `stored` parts that `specs` consist of, in order."""
    owners = [spec.name for spec in specs for _ in spec.parts]
    parts = _part_stats(stored, sharing, stats_by_target, norm_type, loss_scale)
    measurements = []
    for spec in specs:
        if not spec.chunks:
            of_spec = next(parts)
        else:
            of_spec = _of_chunks(spec, [next(parts) for _ in spec.chunks], norm_type)
        norm, native = of_spec.stats.norm, spec.dtype.norm_dtype
        first = of_spec.alias_of
        measurements.append(
            TensorMeasurement(
                spec=spec,
                alias_of=None if first is None else owners[first],
                stats=of_spec.stats,
                unique=of_spec.unique,
                unique_in_section=of_spec.unique_in_section,
                norm=norm,
                native_norm=None if native is None else native.round(norm),
            )
        )
    return tuple(measurements)


def _part_stats(
    stored: Sequence[TensorSpec],
    sharing: Sharing,
    stats_by_target: Mapping[Target, TensorStats],
    norm_type: float,
    loss_scale: float,
) -> Iterator[_PartStats]:
    """The statistics of each part; a target without a result has no elements."""
    empty = TensorStats(norm_type)
    grouped = {index for group in sharing.groups for index in group}

    def stats_of(spec: TensorSpec, target: Target) -> TensorStats:
        return as_named(stats_by_target.get(target, empty), spec, loss_scale)

    for index, spec in enumerate(stored):
        target = sharing.same_as.get(index, index)
        named = stats_of(spec, (target, NAMED))
        unique = stats_of(spec, (target, UNIQUE)) if target in grouped else named
        in_section = (target, UNIQUE_IN_SECTION)
        unique_in_section = stats_of(spec, in_section) if in_section in stats_by_target else unique
        times = 1 if spec.strides is None else repetitions(spec.shape, spec.strides)
        first = sharing.alias_of.get(index)
        yield _PartStats(
            alias_of=first,
            stats=named.repeated(times),
            unique=unique if first is None else None,
            unique_in_section=None if index in sharing.alias_in_section else unique_in_section,
        )


def as_named(stats: TensorStats, spec: TensorSpec, loss_scale: float) -> TensorStats:
    """The statistics of stored elements as those of what a tensor says they are."""
    stats = stats.divided(loss_scale)
    return stats.negated() if spec.is_negated and spec.dtype.kind == "float" else stats


def _of_chunks(spec: TensorSpec, parts: Sequence[_PartStats], norm_type: float) -> _PartStats:
    """The statistics of a tensor that consists of chunks."""
    placed = []
    for chunk, part in zip(spec.chunks, parts, strict=True):
        first = part.stats.first_nonfinite
        position = None if first is None else chunk.box.position(first, spec.shape)
        placed.append(replace(part.stats, first_nonfinite=position))
    unique = [part.unique for part in parts if part.unique is not None]
    in_section = [part.unique_in_section for part in parts if part.unique_in_section is not None]
    return _PartStats(
        alias_of=parts[0].alias_of if not unique else None,
        stats=merge(placed, norm_type),
        unique=merge(unique, norm_type) if unique else None,
        unique_in_section=merge(in_section, norm_type) if in_section else None,
    )
