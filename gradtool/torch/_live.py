"""Live gradients measured as a dump of them would be, those that ranks hold in parts as wholes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from gradtool.arrays.catalogue import catalogue_of
from gradtool.arrays.parameters import NamedArray
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.sections import Sections
from gradtool.core.stats import TensorStats, merge
from gradtool.core.tensors import TensorSpec
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.assembly.whole import measurement_of
from gradtool.errors import EmptyDumpError, UsageError
from gradtool.request import MeasureRequest, measured, working
from gradtool.storage.memory import MEMORY_PATH
from gradtool.torch._mesh import is_dtensor, is_partial, waited
from gradtool.torch.dump import BETWEEN

Parts = dict[str, TensorStats | None]
"""What a rank has to add to each tensor that is split: None where another rank has the same."""

_FAILED: Final = "another rank could not measure its part"


def is_split(named: Sequence[NamedArray]) -> bool:
    """Whether ranks hold parts of gradients, so that all have to be asked."""
    return any(is_dtensor(one.array) for one in named)


def measured_now(named: Sequence[NamedArray], request: MeasureRequest) -> Measurement:
    """The figures of gradients, of DTensors those of all ranks' parts.

    With DTensors all ranks have to make the call. Where in such a tensor the first element lies
    that is not finite is not told.

    Raises EmptyDumpError where there is no gradient, UsageError for what cannot be measured.
    """
    if not is_split(named):
        return _measured(named, request)[1]
    split = {one.name: one.array for one in named if is_dtensor(one.array)}
    error: Exception | None = None
    parts: Parts | None = None
    try:
        checkpoint, local = _measured([_local(one) for one in named], request)
        parts = {
            one.name: one.stats if _counts(split[one.name]) else None
            for one in local.tensors
            if one.name in split
        }
    except Exception as failure:  # noqa: BLE001 - the others wait for this rank
        error = failure
    of_ranks: list[Parts | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_ranks, parts)
    if error is not None:
        raise error
    known = [one for one in of_ranks if one is not None]
    if len(known) < len(of_ranks):
        raise UsageError(_FAILED)
    return _joined(checkpoint, local, split, known)


def _measured(
    named: Sequence[NamedArray], request: MeasureRequest
) -> tuple[Checkpoint, Measurement]:
    started = time.perf_counter()
    checkpoint, owners = catalogue_of(named, Sections())
    if not checkpoint.tensors:
        raise EmptyDumpError(MEMORY_PATH, "no parameter has a gradient", hint=BETWEEN)
    with working(request) as executor:
        found = measured(checkpoint, request, executor, whole_progress(None), started)
    del owners  # whose memory was read until here
    return checkpoint, found


def _local(one: NamedArray) -> NamedArray:
    """Of a DTensor the part of this rank, and any other array itself."""
    if not is_dtensor(one.array):
        return one
    if is_partial(one.array):
        raise UsageError(f"{one.name!r}: a sum over the ranks that is yet to be done")
    return one._replace(array=waited(one.array.to_local()))


def _counts(grad: Any) -> bool:
    """Whether this rank is the first of those that hold the same part."""
    coordinate = grad.device_mesh.get_coordinate()
    return coordinate is not None and not any(
        at
        for at, placement in zip(coordinate, grad.placements, strict=True)
        if placement.is_replicate()
    )


def _joined(
    checkpoint: Checkpoint, local: Measurement, split: dict[str, Any], of_ranks: Sequence[Parts]
) -> Measurement:
    """The measurement of the whole tensors, whose parts were measured by the ranks."""

    def whole(one: TensorMeasurement) -> TensorMeasurement:
        if one.name not in split:
            return one
        parts = [part for each in of_ranks if (part := each.get(one.name)) is not None]
        stats = replace(merge(parts, local.norm_type), first_nonfinite=None)
        shape = tuple(split[one.name].shape)
        if stats.numel != split[one.name].numel():
            raise UsageError(f"{one.name!r}: the ranks' parts do not make up its shape {shape}")
        norm, native = stats.norm, one.spec.dtype.norm_dtype
        return replace(
            one,
            spec=TensorSpec(one.name, one.spec.dtype, shape),
            stats=stats,
            unique=None if one.unique is None else stats,
            unique_in_section=None if one.unique_in_section is None else stats,
            norm=norm,
            native_norm=None if native is None else native.round(norm),
        )

    tensors = tuple(map(whole, local.tensors))
    found = measurement_of(
        replace(checkpoint, tensors=tuple(one.spec for one in tensors)),
        tensors,
        (),
        local.norm_type,
        local.loss_scale,
        backend=local.backend,
        started=time.perf_counter(),
    )
    return replace(found, elapsed_s=local.elapsed_s)
