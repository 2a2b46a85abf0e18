"""What gradtool does, as functions: the only place where names meet implementations."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gradtool.core.dtypes import DTYPES
from gradtool.core.measurement import Measurement
from gradtool.core.names import name_filter
from gradtool.core.tensors import Checkpoint
from gradtool.engine import measure as engine
from gradtool.errors import EmptyDumpError, UsageError
from gradtool.formats import open_checkpoint

MAX_THREADS = 4
"""Threads used unless more are asked for: each takes some 20 MB, and they share Python's lock."""

_WINDOW_PER_THREAD = 3


def measure(
    path: str | bytes | os.PathLike[str],
    *,
    norm_type: float = 2.0,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    section: str | None = None,
    loss_scale: float = 1.0,
    raw_dtype: str | None = None,
    verify: bool = False,
    threads: int | None = None,
    progress: engine.Progress | None = None,
) -> Measurement:
    """Measure the gradients saved at `path`: norms, magnitudes, counts of non-finite values.

    Every norm is within 1e-12 of the exact one (for `0.1 <= |p| <= 64`), whatever the sizes,
    dtypes and magnitudes, and bit-identical for any number of threads. Memory depends on the
    number of tensors, not on their size.

        total_norm = ( sum over all elements |g|^p )^(1/p)

    Args:
        path: a file (safetensors, torch zip, npz, npy), a directory of them or an index file.
        norm_type: p, any float but NaN; `math.inf` gives the largest magnitude.
        include: a glob or globs over tensor names, `*` matching dots too; empty for all.
        exclude: a glob or globs of names to leave out; they win.
        section: measure only the tensors of that section, "" for those under none.
        loss_scale: gradients were saved multiplied by it: divide all figures' elements.
        raw_dtype: what NumPy's nameless `V2` elements are, "BF16" say.
        verify: also check the stored CRC-32 of tensor data.
        threads: workers; by default one for each core, at most MAX_THREADS.
        progress: called with (bytes done, bytes to do) from this thread.

    Returns:
        The figures of each tensor, each section and in total.

    Raises:
        UsageError: an argument is out of its range, or nothing matches the filters.
        InputError: the files cannot be read, understood or trusted, or hold no gradient.

    Source of the definitions: torch/nn/utils/clip_grad.py, `_get_total_norm`.
    """
    p = _number("norm_type", norm_type)
    divisor = _number("loss_scale", loss_scale)
    _require(not math.isnan(p), f"norm_type must be a number, not {norm_type}")
    _require(0.0 < divisor < math.inf, f"loss_scale must be positive and finite, not {loss_scale}")
    _require(threads is None or threads >= 1, f"threads must be at least 1, not {threads}")
    raw = DTYPES.get(raw_dtype.upper()) if raw_dtype else None
    _require(not raw_dtype or raw is not None, f"raw_dtype {raw_dtype!r} is no known dtype")
    started = time.perf_counter()
    checkpoint = open_checkpoint(os.fsdecode(path), raw)
    checkpoint = _select(checkpoint, _globs(include), _globs(exclude), section)
    workers = threads or min(_available_cores(), MAX_THREADS)
    with ThreadPoolExecutor(workers, thread_name_prefix="gradtool") as executor:
        return engine.measure(
            checkpoint,
            executor=executor,
            window=workers * _WINDOW_PER_THREAD,
            started=started,
            norm_type=p + 0.0,  # -0 is 0
            loss_scale=divisor,
            verify=verify,
            progress=progress,
        )


def _number(name: str, value: float) -> float:
    """A float of what may be one: numbers, and texts such as "inf"."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name} must be a number, not {value!r}") from error


def _select(
    checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str], section: str | None
) -> Checkpoint:
    """The part of the catalogue that was asked for; an empty dump is an error of its own."""
    if not checkpoint.tensors:
        raise EmptyDumpError(checkpoint.path, _why_empty(checkpoint))
    wanted = name_filter(include, exclude)
    tensors = tuple(
        spec for spec in checkpoint.tensors if section in (None, spec.section) and wanted(spec.name)
    )
    if not tensors:
        sections = sorted({spec.section for spec in checkpoint.tensors})
        if section is not None and section not in sections:
            names = ", ".join(repr(name) for name in sections if name)
            raise UsageError(
                f"{checkpoint.path}: has no section {section!r}",
                hint=f"its sections are {names}" if names else "it has no sections",
            )
        raise UsageError(f"{checkpoint.path}: no tensor matches the filters")
    skipped = tuple(
        item for item in checkpoint.skipped if section in (None, item.section) and wanted(item.name)
    )
    return replace(checkpoint, tensors=tensors, skipped=skipped)


def _why_empty(checkpoint: Checkpoint) -> str:
    if not checkpoint.skipped:
        return "holds no tensor at all: an empty dump (were gradients kept in `main_grad`?)"
    reasons = ", ".join(sorted({item.reason for item in checkpoint.skipped}))
    return f"holds no gradient: every tensor is skipped ({reasons})"


def _globs(patterns: str | Sequence[str]) -> Sequence[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise UsageError(problem)


def _available_cores() -> int:
    # Containers and job schedulers give a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
