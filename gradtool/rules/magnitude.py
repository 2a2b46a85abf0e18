"""GT2xx: gradients that are too large or too small, for the dtype or for training."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradtool.core.figures import counted, precise, share, short
from gradtool.core.judging.limits import Limits, limit
from gradtool.core.judging.rule import Parameter
from gradtool.core.measurement import TensorMeasurement
from gradtool.rules.evidence import DumpRule, Evidence, Problem
from gradtool.rules.siblings import is_all_zero


def _native_overflow(evidence: Evidence, limits: Limits) -> Iterator[Problem]:  # noqa: ARG001
    summary = evidence.summary
    native, dtype = summary.native_norm, summary.native_dtype
    if native is None or dtype is None or not math.isfinite(summary.norm) or math.isfinite(native):
        return
    if evidence.measurement.norm_type <= 0.0:
        return  # nobody clips by such a norm
    overflow = "is infinite in {}: torch's clip_grad_norm_ zeroes the step"
    infinite = [tensor for tensor in evidence.gradients if tensor.native_norm == math.inf]
    if infinite and summary.norm <= dtype.max_finite:  # in a narrower dtype than the total's
        worst = max(infinite, key=_norm_then_name)
        narrow = worst.spec.dtype.norm_dtype or dtype
        message = f"its norm, {precise(worst.norm)}, {overflow.format(narrow.name)}"
        yield Problem(message, worst.name, value=worst.norm, limit=narrow.max_finite)
    else:
        yield _total_problem(evidence, overflow.format(dtype.name), limit=dtype.max_finite)


def _total_problem(evidence: Evidence, problem: str, limit: float) -> Problem:
    """A problem with the total norm, attributed to the tensor that makes up most of it."""
    total, p = evidence.summary.norm, evidence.measurement.norm_type
    # Where the total is NaN, tensors are whose norm is NaN.
    nan = [tensor for tensor in evidence.gradients if math.isnan(tensor.norm)]
    largest = (max if p > 0.0 else min)(nan or evidence.gradients, key=_norm_then_name)
    part = f"its norm is {precise(largest.norm)} of a total of {precise(total)}"
    return Problem(f"{part}, which {problem}", largest.name, value=total, limit=limit)


def _zero_problem(evidence: Evidence, problem: str, limit: float) -> Problem:
    """A total norm of 0, which no tensor makes up more of than others."""
    names = tuple(tensor.name for tensor in evidence.gradients if is_all_zero(tensor))
    total = "the total norm, 0,"
    if len(names) == len(evidence.gradients):
        all_names = counted(len(names), "gradient")
        told = f"all {all_names} are 0" if names[1:] else "the only gradient is 0"
        total = f"{told}: {total}"
    return Problem(f"{total} {problem}", value=0.0, limit=limit, also=names)


def _norm_then_name(tensor: TensorMeasurement) -> tuple[float, str]:
    """A sort key that does not depend on the order of tensors where norms are equal."""
    return -math.inf if math.isnan(tensor.norm) else tensor.norm, tensor.name


def _headroom(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    loss_scale = evidence.measurement.loss_scale
    for tensors, thresholds in limits.runs(evidence.gradients):
        factor = limit(thresholds, "factor")
        if factor is None:
            continue
        for tensor in tensors:
            dtype = tensor.spec.dtype.norm_dtype
            stored = tensor.stats.max_abs * loss_scale
            if dtype is None or not stored > dtype.max_finite / factor:
                continue  # fp8, which has no norm of its own, is scaled to fill its range
            room = short(round(dtype.max_finite / stored, 3))
            yield Problem(
                f"its largest element, {precise(stored)} as stored, is within a factor of {room} "
                f"of the largest {dtype.name}, {precise(dtype.max_finite)}",
                tensor.name,
                value=stored,
                limit=dtype.max_finite / factor,
            )


def _total_norm(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    norm = evidence.summary.norm
    low, high = limit(limits.dump, "min_norm"), limit(limits.dump, "max_norm")
    if not evidence.gradients or evidence.is_reported(norm):
        return
    if (outside := _outside(norm, low, high)) is not None:
        yield (
            _zero_problem(evidence, *outside) if norm == 0.0 else _total_problem(evidence, *outside)
        )


def _tensor_norm(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensors, thresholds in limits.runs(evidence.gradients):
        low, high = limit(thresholds, "min_norm"), limit(thresholds, "max_norm")
        for tensor in tensors if (low, high) != (None, None) else ():
            outside = _outside(tensor.norm, low, high)
            if outside is not None and not evidence.is_reported(tensor.norm):
                problem, bound = outside
                message = f"its norm, {precise(tensor.norm)}, {problem}"
                yield Problem(message, tensor.name, value=tensor.norm, limit=bound)


def _outside(norm: float, low: float | None, high: float | None) -> tuple[str, float] | None:
    """The problem of a norm outside its bounds, and the bound it is outside of.

    None for a norm inside; NaN is outside of any bound.
    """
    if high is not None and not norm <= high:
        return f"is not at most {short(high)}", high
    if low is not None and not norm >= low:
        return f"is not at least {short(low)}", low
    return None


def _subnormals(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    # fp8, which has no native norm, is scaled to fill its range, subnormals included.
    judged = [tensor for tensor in evidence.gradients if tensor.spec.dtype.norm_dtype is not None]
    all_stats = [tensor.stats for tensor in judged]
    subnormals = sum(stats.subnormals for stats in all_stats)
    max_share = limit(limits.dump, "max_share")
    if max_share is None or not subnormals:
        return
    nonzero = sum(stats.numel - stats.zeros - stats.nonfinite for stats in all_stats)
    if not nonzero or subnormals / nonzero <= max_share:
        return
    worst = min(judged, key=_most_subnormal)
    part = f"{share(subnormals, nonzero)} of {counted(nonzero, 'non-zero element')}"
    of_worst = share(worst.stats.subnormals, worst.stats.numel)
    yield Problem(
        f"{part} in all tensors together are subnormal, with few digits left; here, where they "
        f"are most, {of_worst} in {worst.spec.dtype.name}",
        worst.name,
        value=subnormals / nonzero,
        limit=max_share,
    )


def _most_subnormal(tensor: TensorMeasurement) -> tuple[float, str]:
    """A sort key: the largest share of subnormal elements first, then by name."""
    return -tensor.stats.subnormals / (tensor.stats.numel or 1), tensor.name


RULES = (
    DumpRule(
        code="GT201",
        name="native-overflow",
        find=_native_overflow,
        summary="The total norm is finite in truth and infinite in the gradients' dtype.",
        explanation=(
            "torch computes norms in the dtype of the gradients. Where that overflows, "
            "clip_grad_norm_ divides by infinity and sets every gradient to 0: the step is lost "
            "without a word, although each element is finite."
        ),
        rationale="The largest finite number of the dtype: 65504 for float16.",
        remedy=(
            "Unscale before clipping (GradScaler.unscale_), clip in float32, or use "
            "gradtool.torch.clip_grad_norm_. If the gradients were saved multiplied by a loss "
            "scale, say so: `loss_scale`."
        ),
    ),
    DumpRule(
        code="GT202",
        name="headroom",
        severity="warning",
        per_tensor=True,
        find=_headroom,
        alike="close to the largest of their dtype",
        summary="Elements come close to the largest number of their dtype.",
        explanation=(
            "The next larger batch or spike overflows. It is judged on the elements as stored, a "
            "loss scale included. fp8, which is scaled to fill its range, is not judged."
        ),
        rationale=(
            "factor 2: one more doubling overflows. A warning, since dynamic loss scaling works "
            "within a few doublings of the limit on purpose."
        ),
        remedy="Lower the loss scale, or use bfloat16.",
        parameters=(
            Parameter("factor", 2.0, "the least factor to the dtype's largest number", low=1.0),
        ),
    ),
    DumpRule(
        code="GT203",
        name="total-norm",
        find=_total_norm,
        summary="The norm of all gradients together is out of bounds.",
        explanation=(
            "Above the bound training has most likely diverged; below it nothing is learnt: the "
            "loss is disconnected from the weights, or everything underflowed."
        ),
        rationale=(
            "max_norm is 1e4: with a loss that is a mean, norms are between 1e-3 and 1e2 in "
            "ordinary training, and hundreds at its beginning; losses that are sums need a bound "
            "of their own. min_norm is 1e-8: Adam's epsilon is as large. Norms of other orders "
            "than 2 have no bounds unless set."
        ),
        remedy=(
            "Look with `gradtool inspect --sort norm` for the layer that carries the norm; lower "
            "the learning rate, lengthen the warm-up, clip."
        ),
        parameters=(
            Parameter("min_norm", 1e-8, "least norm", l2_only=True),
            Parameter("max_norm", 1e4, "largest norm", l2_only=True),
        ),
    ),
    DumpRule(
        code="GT204",
        name="tensor-norm",
        per_tensor=True,
        find=_tensor_norm,
        alike="out of bounds",
        summary="The norm of a tensor is out of bounds.",
        explanation="The same as GT203, for one tensor.",
        rationale=(
            "None unless set: how large one tensor's gradient may be depends on its size and "
            "place. Overrides give bounds to some."
        ),
        remedy="See GT203.",
        parameters=(
            Parameter("min_norm", None, "least norm"),
            Parameter("max_norm", None, "largest norm"),
        ),
    ),
    DumpRule(
        code="GT206",
        name="subnormals",
        find=_subnormals,
        summary="Many elements are subnormal: gradients are underflowing.",
        explanation=(
            "Below its smallest normal number (6.1e-5 for float16) a dtype has ever fewer digits "
            "and then 0. Gradients there turn into noise. It is judged on the elements as stored, "
            "a loss scale included. fp8, which is scaled to fill its range, is not judged."
        ),
        rationale=(
            "max_share is 0.01. In float16 with a loss scale of 4096 a healthy small transformer "
            "had at most 0.0001, without loss scaling 0.04 to 0.18."
        ),
        remedy="Use loss scaling (torch.amp.GradScaler), or bfloat16.",
        parameters=(
            Parameter("max_share", 0.01, "largest share of subnormals among non-zeros", high=1.0),
        ),
    ),
)
