"""GT4xx: what differs from a baseline, or from a norm that is known."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradtool.core.baseline import NormRange
from gradtool.core.figures import counted, dimensions, precise, share, short, significant
from gradtool.core.rule import LARGEST, Parameter
from gradtool.core.tensors import ABSENT
from gradtool.rules.balance import NEGLIGIBLE
from gradtool.rules.evidence import DumpRule, Evidence, Limits, Trouble, limit

EXPECTED, TOTAL_DRIFT, TENSOR_DRIFT = "GT401", "GT402", "GT403"


def _expected(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    norm, rtol = limit(limits.dump, "norm"), limit(limits.dump, "rtol")
    found = evidence.summary.norm
    if norm is None or rtol is None or not evidence.gradients or evidence.is_told(found):
        return
    if not math.isclose(found, norm, rel_tol=rtol):
        said = f"the total norm, {precise(found)}, is not the expected {short(norm)}"
        yield Trouble(f"{said} within {short(rtol)} of it", value=found, limit=rtol)


def _total_drift(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    if evidence.is_part_of_baseline:
        return  # which the verdict notes
    if evidence.baseline is not None and _is_same_model(evidence):
        most = limit(limits.dump, "max_factor")
        yield from _drift(evidence, evidence.summary.norm, evidence.baseline.total, most)


def _tensor_drift(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    baseline = evidence.baseline
    if baseline is None:
        return
    least = NEGLIGIBLE * evidence.summary.finite_norm
    found: list[Trouble] = []
    for tensor, thresholds in limits.each(evidence.gradients):
        known = baseline.tensors.get(tensor.name)
        if known is None or known.shape != tensor.spec.shape:
            continue
        if max(tensor.norm, known.norm.high) < least:
            continue
        most = limit(thresholds, "max_factor")
        found.extend(_drift(evidence, tensor.norm, known.norm, most, tensor.name))
    yield from sorted(found, key=lambda one: -(one.value or 0.0))


def _drift(
    evidence: Evidence,
    norm: float,
    known: NormRange,
    most: float | None,
    tensor: str | None = None,
) -> Iterator[Trouble]:
    """Trouble where a norm is too far outside the known range; NaN is too far."""
    factor = known.factor(norm)
    if most is None or factor <= most or evidence.is_told(norm):
        return
    was = precise(known.low)
    if known.low != known.high:
        was += f" to {precise(known.high)}"
    off = f", {_distance(factor)} off" if math.isfinite(factor) else ""
    what = f"{'its' if tensor else 'the total'} norm, {precise(norm)}, is not the baseline's"
    yield Trouble(f"{what} {was}{off}", tensor, value=factor, limit=most)


def _distance(factor: float) -> str:
    """`13.4 times`, `0.12%`."""
    if factor >= 2.0:
        return f"{significant(factor, 3)} times"
    return f"{significant(100.0 * (factor - 1.0), 3)}%"


def _new_zeros(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    for tensor, thresholds in limits.each(evidence.gradients):
        known = evidence.baseline and evidence.baseline.tensors.get(tensor.name)
        most, before = limit(thresholds, "max_share"), limit(thresholds, "before")
        if not known or not tensor.stats.numel or most is None or before is None:
            continue
        found = tensor.stats.zeros / tensor.stats.numel
        if known.zeros <= before and found > most:
            said = share(tensor.stats.zeros, tensor.stats.numel)
            was = f"at most {precise(100.0 * known.zeros)}%" if known.zeros else "none"
            yield Trouble(
                f"{said} of its elements are 0, {was} in the baseline",
                tensor.name,
                value=found,
                limit=most,
            )


def _is_same_model(evidence: Evidence) -> bool:
    baseline = evidence.baseline
    return baseline is None or any(one.name in baseline.tensors for one in evidence.named_gradients)


def _other_model(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:  # noqa: ARG001
    if evidence.baseline is not None and evidence.gradients and not _is_same_model(evidence):
        known = counted(len(evidence.baseline.tensors), "tensor")
        first = next(iter(evidence.baseline.tensors), "")
        yield Trouble(
            f"the baseline {evidence.baseline.path} is of another model: none of its {known} "
            f"({first!r} is the first) is here"
        )


def _appeared(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    if evidence.baseline is not None and _is_same_model(evidence):
        for tensor, _ in limits.each(evidence.named_gradients):
            if tensor.name not in evidence.baseline.tensors:
                yield Trouble("is not in the baseline", tensor.name)


def _vanished(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    if evidence.baseline is None or not _is_same_model(evidence):
        return
    here = {one.name for one in evidence.named_gradients}
    skipped = {one.name: one.reason for one in evidence.measurement.skipped}
    for name in evidence.baseline.tensors:
        if name not in here and evidence.is_chosen(name) and limits(name) is not None:
            why = {None: "is gone", ABSENT: "has no gradient"}
            reason = skipped.get(name)
            said = why.get(reason, f"is not measured ({reason})")
            yield Trouble(f"is in the baseline, and {said}", name)


def _dtype_changed(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    for tensor, _ in limits.each(evidence.named_gradients):
        known = evidence.baseline and evidence.baseline.tensors.get(tensor.name)
        if known and known.dtype != tensor.spec.dtype.name:
            said = f"is {tensor.spec.dtype.name}, in the baseline {known.dtype}"
            yield Trouble(said, tensor.name)


def _shape_changed(evidence: Evidence, limits: Limits) -> Iterator[Trouble]:
    for tensor, _ in limits.each(evidence.named_gradients):
        known = evidence.baseline and evidence.baseline.tensors.get(tensor.name)
        if known and known.shape != tensor.spec.shape:
            was, shape = dimensions(known.shape), dimensions(tensor.spec.shape)
            yield Trouble(f"is {shape}, in the baseline {was}", tensor.name)


_FACTOR_MEANING = "largest factor outside the baseline's range, upwards or downwards"

RULES = (
    DumpRule(
        code=EXPECTED,
        name="expected-norm",
        find=_expected,
        summary="The total norm is not the expected one.",
        explanation=(
            "For runs that are to be reproduced: one number instead of a baseline. It is in "
            "force where a norm is given (--expect-norm 9.01)."
        ),
        threshold=(
            "rtol is 1e-3: the same step on another machine or in another order of sums differs "
            "less in float32; bfloat16 may need 1e-2."
        ),
        remedy="Look at what changed: seed, data, versions, precision, parallelism.",
        parameters=(
            Parameter("norm", None, "the total norm", high=LARGEST),
            Parameter("rtol", 1e-3, "largest difference, relative to the larger one", high=LARGEST),
        ),
    ),
    DumpRule(
        code=TOTAL_DRIFT,
        name="total-drift",
        compares=True,
        find=_total_drift,
        summary="The total norm is far from the baseline's.",
        explanation=(
            "The norm of all gradients is outside the range that the baseline's dumps had. "
            "A tenth is as far off as ten times."
        ),
        threshold=(
            "max_factor is 10. Between seeds and steps of a healthy small transformer total norms "
            "differed by up to 3; for runs that are to be reproduced --rtol 1e-3 says 1.001."
        ),
        remedy=("See GT403 for the tensors. If the change is meant, `gradtool baseline update`."),
        parameters=(Parameter("max_factor", 10.0, _FACTOR_MEANING, low=1.0),),
    ),
    DumpRule(
        code=TENSOR_DRIFT,
        name="tensor-drift",
        compares=True,
        per_tensor=True,
        find=_tensor_drift,
        summary="A tensor's norm is far from the baseline's.",
        explanation=(
            "The same as GT402, for one tensor; those below 1e-5 of the total norm, in the dump "
            "and in the baseline, are left out."
        ),
        threshold=(
            "max_factor is 30. Over 6 seeds of a healthy small transformer norms of one tensor "
            "left the range of another seed's run by a factor of at most 4.5, and a single dump "
            "of another step by 15; a learning rate 100 times too high and a layer scaled by "
            "1e4 took some tensor out by more than 130."
        ),
        remedy="Look at that layer. If the change is meant, `gradtool baseline update`.",
        parameters=(Parameter("max_factor", 30.0, _FACTOR_MEANING, low=1.0),),
    ),
    DumpRule(
        code="GT404",
        name="other-model",
        compares=True,
        find=_other_model,
        summary="The baseline is of another model.",
        explanation="No gradient has a name that the baseline knows: nothing was compared.",
        threshold="None.",
        remedy="Give the model's own baseline, or look whether names got another prefix.",
    ),
    DumpRule(
        code="GT405",
        name="appeared",
        compares=True,
        per_tensor=True,
        find=_appeared,
        summary="A tensor is new.",
        explanation="It has a gradient now and had none in the baseline, or another name.",
        threshold="None.",
        remedy="If the change is meant, `gradtool baseline update`.",
    ),
    DumpRule(
        code="GT406",
        name="vanished",
        compares=True,
        per_tensor=True,
        find=_vanished,
        summary="A tensor of the baseline is gone.",
        explanation=(
            "It had a gradient in the baseline and has none now: its graph is cut, it is frozen, "
            "it was left out of the dump, or renamed."
        ),
        threshold="None.",
        remedy=(
            "Look for a detach(), a no_grad() or requires_grad=False on its way to the loss. If "
            "the change is meant, `gradtool baseline update`."
        ),
    ),
    DumpRule(
        code="GT407",
        name="dtype-changed",
        compares=True,
        per_tensor=True,
        find=_dtype_changed,
        summary="A tensor is of another dtype than in the baseline.",
        explanation="Gradients are computed or saved in another precision than before.",
        threshold="None.",
        remedy="Look at autocast and at the dtype of the model.",
    ),
    DumpRule(
        code="GT408",
        name="shape-changed",
        compares=True,
        per_tensor=True,
        find=_shape_changed,
        summary="A tensor is of another shape than in the baseline.",
        explanation="The model has other sizes; norms of such tensors are not compared.",
        threshold="None.",
        remedy="If the change is meant, `gradtool baseline update`.",
    ),
    DumpRule(
        code="GT409",
        name="new-zeros",
        compares=True,
        per_tensor=True,
        find=_new_zeros,
        summary="Elements of a tensor are 0 that were not in the baseline.",
        explanation=(
            "A part of the tensor gets no gradient any more: a path to it is cut, as that of an "
            "output layer which shares the embedding's weight, units died, or gradients "
            "underflow."
        ),
        threshold=(
            "max_share is 0.1 for tensors with at most 0.01 in the baseline. In healthy runs of a "
            "small transformer such tensors had at most 0.0005, with the head's gradient cut at "
            "least 0.26, at 100 times the learning rate 0.48. Tensors with more zeros in the "
            "baseline, embeddings say, differ from batch to batch and are left out."
        ),
        remedy="Look for a detach(), dead ReLUs, a mask; for underflow see GT206.",
        parameters=(
            Parameter("max_share", 0.1, "largest share of zeros", high=1.0),
            Parameter("before", 0.01, "largest share in the baseline of what is judged", high=1.0),
        ),
    ),
)
