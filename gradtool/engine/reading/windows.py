"""Tensors that share elements, window by window: each element is read once for all who name it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradtool.core.locations import Source
from gradtool.engine.backend import Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64
from gradtool.engine.overlaps.groups import GroupTask, named_elements, window_bounds
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.reductions import Elements, Gathered, Part
from gradtool.engine.reading.scaling import Scales, scaled_elements
from gradtool.engine.reading.targets import (
    NAMED,
    UNIQUE,
    UNIQUE_IN_SECTION,
    Reducing,
    Results,
    Target,
)


def run_group(task: GroupTask, reducing: Reducing[Part]) -> Results[Part]:
    """The results, window by window, of what each member names and of what it is first to name."""
    results: Gathered[Target, Part] = Gathered(reducing.reduction)
    with task.file.open() as source, Scales(source) as scales:
        for start, stop in window_bounds(task.count):
            raw: Bytes | None = None
            claimed: dict[int, NDArray[np.bool_]] = {}
            for index, offsets, positions in named_elements(task.members, start, stop):
                if raw is None:
                    raw = _read_window(source, task, start, stop)
                member = task.members[index]
                scaled = scales.window(task, raw, member, offsets, positions)
                elements = _chosen(task, raw, scaled, offsets, positions)
                (named,) = reducing.of(elements)
                results.add([((member.target, NAMED), named)])
                reducing.tell_apart(member.target, elements)
                for scope, role in zip(member.scopes, (UNIQUE, UNIQUE_IN_SECTION), strict=False):
                    fresh = _claim(claimed, scope, offsets, stop - start)
                    unique = named
                    if len(fresh) != len(offsets):
                        unique = _of_fresh(task, raw, scaled, fresh, reducing)
                    results.add([((member.target, role), unique)])
        scales.check_unchanged()
    return list(results.merged().items())


def _read_window(source: Source, task: GroupTask, start: int, stop: int) -> Bytes:
    """Read the window's elements, a row of bytes each."""
    item = task.dtype.itemsize
    raw = BUFFERS.span.array(np.uint8, (stop - start) * item)
    source.read_into(task.offset + start * item, raw.data)
    return raw.reshape(-1, item)


def _claim(claimed: dict[int, NDArray[np.bool_]], scope: int, offsets: Int64, count: int) -> Int64:
    """Claim elements in `scope`; those of them that were not claimed there before, each once."""
    if scope not in claimed:
        claimed[scope] = np.zeros(count, dtype=bool)
    taken = claimed[scope]
    fresh: Int64 = offsets[~taken[offsets]]
    taken[fresh] = True
    # Views that overlap themselves name an element several times in a row.
    repeats: NDArray[np.bool_] = np.diff(fresh, prepend=-1) == 0
    return fresh[~repeats]


def _of_fresh(
    task: GroupTask, raw: Bytes, scaled: Float64 | None, fresh: Int64, reducing: Reducing[Part]
) -> Part:
    """The result of those of a window's elements that no one named before, if there are any."""
    if len(fresh) == 0:
        return reducing.reduction.merged(())
    (part,) = reducing.of(_chosen(task, raw, scaled, fresh, None))
    return part


def _chosen(
    task: GroupTask,
    raw: Bytes,
    scaled: Float64 | None,
    offsets: Int64,
    positions: Int64 | None,
) -> Elements:
    """A window's elements at `offsets`, at least one, with their `positions` in their tensor.

    `scaled` are the products of the window's elements and a scale, if those are what is meant.
    """
    position_of = None if positions is None else positions.__getitem__
    chosen = raw[offsets].reshape(-1)
    if scaled is not None:
        return scaled_elements(chosen, task.dtype.name, scaled[offsets], 0, position_of)
    return Elements(chosen, task.dtype, task.big_endian, [len(offsets)], [0], position_of)
