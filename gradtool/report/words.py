"""Sentences and labelled values about a measurement, as plain text without a look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

from gradtool.core.clipping import is_clipped_to
from gradtool.core.figures import (
    byte_size,
    counted,
    first_of,
    index_text,
    nonfinite_counts,
    norm_name,
    precise,
    share,
    short,
)
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.order.frontier import Frontier, of_all
from gradtool.core.order.patterns import patterns
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import Skipped
from gradtool.report.escaping import brief
from gradtool.report.grid import dtypes, magnitude_name
from gradtool.report.model import ClipPreview, InspectReport, Style
from gradtool.shortening import LONGEST_NAME

NOUNS = {"gradients": "gradient", "weights": "weight", "optimizer": "optimizer state"}
Item = TypeVar("Item")
_SKIPPED_NAMES = 3


def origin(measurement: Measurement) -> str:
    """What was read, as `safetensors, 1 file, 2.1 GB`."""
    files = counted(len(measurement.files), "file")
    return f"{measurement.format}, {files}, {byte_size(measurement.nbytes)}"


def holdings(measurement: Measurement) -> str:
    """What is in it, as `290 tensors in F32`, `48 weights and 96 optimizer states in F32, BF16`."""
    counts: Counter[str] = Counter()
    for section in measurement.sections:
        counts[_noun(section)] += section.tensors
    kinds = [counted(count, noun) for noun, count in counts.items()] or ["no tensors"]
    listed = " and ".join([", ".join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)
    return f"{listed} in {', '.join(dtypes(measurement))}" if measurement.tensors else listed


def _noun(section: Summary) -> str:
    """What one of a section's tensors is called."""
    if not section.has_norm:
        return "other tensor"
    return NOUNS[section.kind] if section.kind else "tensor"


def left_out(what: str, style: Style, *, all_in_rows: bool = False) -> str:
    """As `… 12 more (--all shows them)`; in Python `to_rows()` has what is listed `all_in_rows`."""
    if style.in_python:
        return f"… {what} (to_rows() has all)" if all_in_rows else f"… {what}"
    return f"… {what} (--all shows them)"


def totals(report: InspectReport, style: Style) -> Iterator[tuple[str, str]]:
    """Label and value of each figure about all tensors together."""
    measurement = report.measurement
    if (total := measurement.total) is not None:
        yield from _total(measurement, total, rms=report.rms)
    else:
        option = "`section`" if style.in_python else "--section"
        yield "total", f"none: the sections hold different things; choose one with {option}"
    if measurement.step is not None:
        yield "step", f"{measurement.step:,} of the training"
    if measurement.loss_scale != 1.0:
        yield "loss scale", f"every element was divided by {short(measurement.loss_scale)}"
    if report.clip is not None:
        yield "clip", _clip(report.clip, total)


def _total(measurement: Measurement, total: Summary, *, rms: bool) -> Iterator[tuple[str, str]]:
    stats = total.stats
    bound = " (a lower bound: see skipped)" if total.lower_bound else ""
    yield "total", f"{counted(total.tensors, 'tensor')}, {counted(stats.numel, 'element')}"
    yield norm_name(measurement.norm_type), precise(stats.norm) + bound
    if stats.nonfinite:
        yield "finite norm", f"{precise(stats.finite_norm)} without NaN and Inf"
    if rms and total.rms is not None:
        yield "RMS", precise(total.rms)
    if total.native_norm is not None and total.native_dtype is not None:
        yield "native norm", f"{precise(total.native_norm)} in {total.native_dtype.name}"
    yield magnitude_name(measurement), precise(stats.max_abs)
    if stats.zeros:
        yield "zeros", f"{stats.zeros:,} ({share(stats.zeros, stats.numel)})"


def _clip(clip: ClipPreview, total: Summary | None) -> str:
    request = f"max_norm {short(clip.max_norm)}, eps {short(clip.eps)}"
    if clip.clip_coef is None or total is None:
        return f"{request}: no one norm to clip by; choose with --section"
    outcome = f"{request}: clip_coef {precise(clip.clip_coef)}"
    if total.stats.nan:
        return f"{outcome}: clipping by it would make every element NaN in torch"
    if total.stats.nonfinite:
        return f"{outcome}: clipping by it would make Inf NaN and all others 0 in torch"
    if clip.max_norm != 1.0 and is_clipped_to(total.norm, clip.max_norm):  # of 1 a note tells
        return f"{outcome}; the norm is max_norm: dumped after clipping?"
    return f"{outcome}, nothing changes" if clip.clip_coef == 1.0 else outcome


def diagnoses(measurement: Measurement) -> Iterator[str]:
    """Sentences about norms that float64, or torch in the dtype of the gradients, cannot hold."""
    total = measurement.total
    for summary in measurement.sections if total is None else (total,):
        if not summary.has_norm:
            continue
        where = f"{brief(summary.name, LONGEST_NAME)}: " if total is None else ""
        if summary.kind in (None, "gradients"):
            yield from (where + text for text in _native_trouble(summary))
        yield from (where + text for text in _range_trouble(summary.stats))


def _native_trouble(summary: Summary) -> Iterator[str]:
    norm, native = summary.stats.norm, summary.native_norm
    if native is None or summary.native_dtype is None or not math.isfinite(norm):
        return
    start = f"native norm: {precise(native)} in {summary.native_dtype.name}, "
    start += f"true norm {precise(norm)}: torch's clip_grad_norm_ would have seen"
    if math.isinf(native):
        yield f"{start} an infinite norm and zeroed every gradient"
    elif native == 0.0 and norm > 0.0:
        yield f"{start} a norm of 0 and clipped nothing"


def _range_trouble(stats: TensorStats) -> Iterator[str]:
    if stats.norm == math.inf and not stats.nonfinite:
        yield "the norm is larger than any float64, although every element is finite"
    elif stats.norm == 0.0 and stats.max_abs > 0.0 and stats.norm_type > 0.0:
        yield "the norm is smaller than any float64, although not every element is zero"


def nonfinite_elements(tensor: TensorMeasurement) -> str:
    """Their counts and the first index, as `17 NaN, 2 +Inf, first at [5, 7]`."""
    parts = nonfinite_counts(tensor.stats)
    if tensor.first_nonfinite:
        parts.append(f"first at {index_text(tensor.first_nonfinite)}")
    return ", ".join(parts)


def nonfinite_heading(measurement: Measurement) -> str | None:
    """How many are not finite, as `2 of 290 tensors, in the model's order`; None for 0."""
    stored = [tensor for tensor in measurement.tensors if tensor.alias_of is None]
    bad = sum(tensor.stats.nonfinite > 0 for tensor in stored)
    among = counted(len(stored), "tensor")
    return f"{bad:,} of {among}, in {measurement.order}" if bad else None


def nonfinite_patterns(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """What the names of several tensors have in common, and how many of them are not finite.

    As `layers.*.lora_A` and `NaN in 12 of 12 layers, all elements`.
    """
    stored = [tensor for tensor in measurement.in_order if tensor.alias_of is None]
    bad = {tensor.name: tensor for tensor in stored if tensor.stats.nonfinite}
    for pattern in patterns(bad, (tensor.name for tensor in stored)):
        stats = [bad[name].stats for name in pattern.names]
        kinds = [
            kind
            for kind, found in (
                ("NaN", any(one.nan for one in stats)),
                ("Inf", any(one.posinf or one.neginf for one in stats)),
            )
            if found
        ]
        every = all(one.nonfinite == one.numel for one in stats)
        elements = ", all elements" if every else ""
        yield pattern.text, f"{' and '.join(kinds)} {pattern.extent}{pattern.which}{elements}"


def frontiers(measurement: Measurement) -> Iterator[str]:
    """Where tensors stop being finite, a sentence for each section in which several are not.

    Of one alone the tensors next to it say as much.
    """
    sections: dict[str, list[TensorMeasurement]] = {}
    for tensor in measurement.in_order:
        sections.setdefault(tensor.spec.section, []).append(tensor)
    for section, tensors in sections.items():
        stored = [tensor for tensor in tensors if tensor.alias_of is None]
        bad = sum(tensor.stats.nonfinite > 0 for tensor in stored)
        where = f"{brief(section, LONGEST_NAME)}: " if section else ""
        if 1 < bad == len(stored):
            yield f"{where}all of them: {of_all(stored)}"
        elif bad > 1:
            yield where + brief(Frontier(tensors, measurement.in_model_order).text)


def both_ends(items: Sequence[Item], most: int) -> tuple[Sequence[Item], Sequence[Item]]:
    """The first and the last of many items, `most` of them in all; all as first where they fit.

    The last of a run stands beside what comes after it.
    """
    if len(items) <= most:
        return items, ()
    return items[: most // 2], items[len(items) - (most - most // 2) :]


def skipped_summary(skipped: Sequence[Skipped], *, show_all: bool) -> Iterator[str]:
    """For each reason how many were skipped, and which, as `2 integer: step, rng.position`."""
    names: dict[str, list[str]] = {}
    for item in skipped:
        reason = f"{item.reason} ({item.dtype})" if item.dtype else item.reason
        names.setdefault(reason, []).append(brief(item.name, LONGEST_NAME))
    for reason, members in names.items():
        listed = first_of(members, len(members) if show_all else _SKIPPED_NAMES)
        yield f"{len(members):,} {brief(reason, LONGEST_NAME)}: {listed}"
