"""GT404 to GT409: tensors that are not what they were in a baseline."""

from __future__ import annotations

from collections.abc import Iterator

from gradtool.core.figures import counted, dimensions, precise, share
from gradtool.core.judging.limits import Limits, limit
from gradtool.core.judging.rule import Parameter
from gradtool.core.tensors import ABSENT
from gradtool.rules.evidence import DumpRule, Evidence, Problem

_LEAST_ELEMENTS = 64
"""In tensors of fewer elements a few inactive units are a large share."""


def _new_zeros(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensor, thresholds in limits.each(evidence.gradients):
        old = evidence.baseline and evidence.baseline.tensors.get(tensor.name)
        max_share, before = limit(thresholds, "max_share"), limit(thresholds, "before")
        if not old or tensor.stats.numel < _LEAST_ELEMENTS or max_share is None or before is None:
            continue
        zeros = tensor.stats.zeros / tensor.stats.numel
        if old.zeros <= before and zeros > max_share:
            percent = share(tensor.stats.zeros, tensor.stats.numel)
            old_percent = f"at most {precise(100.0 * old.zeros)}%" if old.zeros else "none"
            yield Problem(
                f"{percent} of its elements are 0, {old_percent} in the baseline",
                tensor.name,
                value=zeros,
                limit=max_share,
            )


def _other_model(evidence: Evidence, limits: Limits) -> Iterator[Problem]:  # noqa: ARG001
    if not evidence.gradients and not evidence.has_only_state:
        return  # for no tensors at all there is GT002
    if evidence.baseline is not None and not evidence.baseline_fits:
        tensors = counted(len(evidence.baseline.tensors), "tensor")
        first = next(iter(evidence.baseline.tensors), "")
        yield Problem(
            f"the baseline {evidence.baseline.path} is of another model: none of its {tensors} "
            f"({first!r} is the first) is here"
        )


def _appeared(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    if evidence.baseline is not None and evidence.baseline_fits:
        for tensor, _ in limits.each(evidence.named_gradients):
            if tensor.name not in evidence.baseline.tensors:
                yield Problem("is not in the baseline", tensor.name)


def _vanished(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    if evidence.baseline is None or not evidence.baseline_fits:
        return
    names = {tensor.name for tensor in evidence.named_gradients}
    reasons = {skipped.name: skipped.reason for skipped in evidence.measurement.skipped}
    for name in evidence.baseline.tensors:
        if name not in names and evidence.is_chosen(name) and limits(name) is not None:
            known_reasons = {None: "is gone", ABSENT: "has no gradient"}
            reason = reasons.get(name)
            explanation = known_reasons.get(reason, f"is not measured ({reason})")
            yield Problem(f"is in the baseline, and {explanation}", name)


def _dtype_changed(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensor, _ in limits.each(evidence.named_gradients):
        old = evidence.baseline and evidence.baseline.tensors.get(tensor.name)
        if old and old.dtype != tensor.spec.dtype.name:
            message = f"is {tensor.spec.dtype.name}, in the baseline {old.dtype}"
            yield Problem(message, tensor.name)


def _shape_changed(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensor, _ in limits.each(evidence.named_gradients):
        old = evidence.baseline and evidence.baseline.tensors.get(tensor.name)
        if old and old.shape != tensor.spec.shape:
            new_shape, old_shape = dimensions(tensor.spec.shape), dimensions(old.shape)
            yield Problem(f"is {new_shape}, in the baseline {old_shape}", tensor.name)


RULES = (
    DumpRule(
        code="GT404",
        name="other-model",
        needs_baseline=True,
        find=_other_model,
        summary="The baseline is of another model.",
        explanation="No gradient has a name that the baseline knows: nothing was compared.",
        rationale="None.",
        remedy="Give the model's own baseline, or look whether names got another prefix.",
    ),
    DumpRule(
        code="GT405",
        name="appeared",
        needs_baseline=True,
        per_tensor=True,
        find=_appeared,
        alike="not in the baseline",
        summary="A tensor is new.",
        explanation="It has a gradient now and had none in the baseline, or another name.",
        rationale="None.",
        remedy="If the change is meant, `gradtool baseline update`.",
    ),
    DumpRule(
        code="GT406",
        name="vanished",
        needs_baseline=True,
        per_tensor=True,
        find=_vanished,
        alike="gone since the baseline",
        summary="A tensor of the baseline is gone.",
        explanation=(
            "It had a gradient in the baseline and has none now: its graph is cut, it is frozen, "
            "it was left out of the dump, or renamed."
        ),
        rationale="None.",
        remedy=(
            "Look for a detach(), a no_grad() or requires_grad=False on its way to the loss. If "
            "the change is meant, `gradtool baseline update`."
        ),
    ),
    DumpRule(
        code="GT407",
        name="dtype-changed",
        needs_baseline=True,
        per_tensor=True,
        find=_dtype_changed,
        alike="of another dtype than in the baseline",
        summary="A tensor is of another dtype than in the baseline.",
        explanation="Gradients are computed or saved in another precision than before.",
        rationale="None.",
        remedy="Look at autocast and at the dtype of the model.",
    ),
    DumpRule(
        code="GT408",
        name="shape-changed",
        needs_baseline=True,
        per_tensor=True,
        find=_shape_changed,
        alike="of another shape than in the baseline",
        summary="A tensor is of another shape than in the baseline.",
        explanation="The model has other sizes; norms of such tensors are not compared.",
        rationale="None.",
        remedy="If the change is meant, `gradtool baseline update`.",
    ),
    DumpRule(
        code="GT409",
        name="new-zeros",
        needs_baseline=True,
        per_tensor=True,
        find=_new_zeros,
        alike="0 where the baseline is not",
        summary="Elements of a tensor are 0 that were not in the baseline.",
        explanation=(
            "A part of the tensor gets no gradient any more: a path to it is cut, as that of an "
            "output layer which shares the embedding's weight, units died, or gradients "
            "underflow."
        ),
        rationale=(
            "max_share is 0.1 for tensors with at most 0.01 in the baseline. In healthy runs of a "
            "small transformer such tensors had at most 0.0005, with the head's gradient cut at "
            "least 0.26, at 100 times the learning rate 0.48. Tensors with more zeros in the "
            "baseline, embeddings say, differ from batch to batch and are left out, and so are "
            "those of fewer than 64 elements."
        ),
        remedy="Look for a detach(), dead ReLUs, a mask; for underflow see GT206.",
        parameters=(
            Parameter("max_share", 0.1, "largest share of zeros", high=1.0),
            Parameter("before", 0.01, "largest share in the baseline of what is judged", high=1.0),
        ),
    ),
)
