"""Gradients measured, saved or in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from gradtool.arguments import require
from gradtool.arrays.catalogue import catalogue
from gradtool.core.checkpoint import RanksMode
from gradtool.core.measurement import Measurement
from gradtool.core.shapes.rows import Rows
from gradtool.engine.progress import Observer, Progress, whole_progress
from gradtool.places import place_of
from gradtool.request import MeasureRequest, agreed, chosen, measured, opened_in_part, working


def measure(  # noqa: PLR0913 - one for each option of the commands
    source: str | bytes | os.PathLike[str] | Any,
    *,
    norm_type: float = 2.0,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    section: str | None = None,
    loss_scale: float | None = None,
    raw_dtype: str | None = None,
    verify: bool = False,
    ranks: RanksMode = "auto",
    replicated: str | Iterable[str] = (),
    strip_prefix: str | Iterable[str] = (),
    join: bool = False,
    apply_scales: bool = False,
    digest: bool = False,
    rows: str | Iterable[str] = (),
    threads: int | None = None,
    backend: str = "auto",
    device: str | None = None,
    device_memory: int | str | None = None,
    progress: Observer | None = None,
) -> Measurement:
    """Measure gradients, saved or in memory: norms, magnitudes, counts of non-finite values.

    Every norm is within 1e-12 of the exact one (for `0.1 <= |p| <= 64`), whatever the sizes,
    dtypes and magnitudes, and bit-identical for any number of threads. Memory depends on the
    number of tensors, not on their size.

        total_norm = ( sum over all elements |g|^p )^(1/p)

    Args:
        source: a path, of a file (safetensors, torch zip, npz, npy), a directory of them or an
            index file, or a list of the paths of one dump's shards or ranks; or a
            `torch.nn.Module` or pairs of name and parameter, whose gradients are measured; or
            arrays (NumPy, torch, MLX, JAX and others) in nested dicts, lists and tuples. What is
            in memory must not change meanwhile.
        norm_type: p, any float but NaN; `math.inf` gives the largest magnitude.
        include: a glob or globs over tensor names, `*` matching dots too; empty for all. Here and
            in all patterns names count as they are, and without `module.`, `_orig_mod.`,
            `_fsdp_wrapped_module.` and `_checkpoint_wrapped_module.`.
        exclude: a glob or globs of names to leave out; they win.
        section: measure only the tensors of that section, "" for those under none.
        loss_scale: gradients were saved multiplied by it: divide all figures' elements. By
            default what `dump_gradients` noted in the file, and 1 in all others.
        raw_dtype: what NumPy's nameless `V2` elements are, "BF16" say.
        verify: also check the stored CRC-32 of tensor data.
        ranks: what files of several ranks are to each other: "shard" for pieces that add up,
            "replica" for copies, of which one is measured, "each" for dumps of their own; "auto"
            goes by what files say of themselves, and else takes equal bytes for copies.
        replicated: a glob or globs of names of which each rank holds the whole.
        strip_prefix: a prefix or prefixes to take off names, each once and in this order, where
            they are matched with patterns or with a baseline; no two names may become one.
        join: read files that hold the same tensors, of a directory, under prefixes.
        apply_scales: multiply fp8 weights by the scales that lie beside them; those that have
            none, or one that does not fit, are measured as they are, which is said.
        digest: also make a SHA-256 of each tensor's elements, the same however they are stored.
        rows: a glob or globs of names of tensors with two axes or more, of which each row (an index
            of the first axis) is measured by itself too, in the `rows` of its measurement.
        threads: workers; by default one for each core, at most MAX_THREADS.
        backend: what computes: "numpy" on the CPU; "torch" on a GPU, or where `device` says;
            "auto" takes a GPU if there is one and the gradients are many enough to gain by it.
        device: for torch: "cuda", "cuda:1", "cuda:0,cuda:1" for both, or "cpu".
        device_memory: bytes that torch may take on each device for gradients and what is made
            of them, as a number or as "4GiB"; a quarter of what is free by default.
        progress: called with (bytes done, bytes to do) from this thread.

    Returns:
        The figures of each tensor, each section and in total.

    Raises:
        UsageError: an argument is out of its range, or nothing matches the filters.
        SeveralCheckpointsError: the path holds more than one dump, which are never added up.
        RanksQuestionError: ranks hold other values under a name; pieces, or copies that differ?
        InputError: the files cannot be read, understood or trusted, or hold no gradient; of
            copies that are not the same a RanksDifferError.
        ResourceError: memory ran out, with one thread as well; or it is a
        DeviceError: torch, CUDA or the device is not there, or has no memory left.

    Source of the definitions: torch/nn/utils/clip_grad.py, `_get_total_norm`.
    """
    request = MeasureRequest(
        norm_type=norm_type,
        include=include,
        exclude=exclude,
        section=section,
        loss_scale=loss_scale,
        raw_dtype=raw_dtype,
        verify=verify,
        ranks=ranks,
        replicated=replicated,
        strip_prefix=strip_prefix,
        join=join,
        apply_scales=apply_scales,
        digest=digest,
        rows=rows,
        threads=threads,
        backend=backend,
        device=device,
        device_memory=device_memory,
        progress=progress,
    )
    return agreed(measure_as(request, source, whole_progress(progress)))


def measure_as(
    request: MeasureRequest, source: Any, progress: Progress, ranges: Sequence[Rows] = ()
) -> Measurement:
    """Measure one source as was asked; `progress` is told how far it is.

    `ranges` are rows that are told apart from others, where a rule has to know them.
    """
    started = time.perf_counter()
    owners: list[object] = []
    with working(request) as executor:
        place = place_of(source)
        if place is not None:
            checkpoint = opened_in_part(place, request)
        else:
            for_files = request.raw_dtype is not None or request.verify
            require(not for_files, "`raw_dtype` and `verify` are for files")
            checkpoint, owners = catalogue(source)
            checkpoint = chosen(checkpoint, request)
        found = measured(checkpoint, request, executor, progress, started, ranges=ranges)
    del owners  # whose memory was read until here
    return found
