"""GT0xx: whether the dump can be read, holds gradients, and is complete."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

from gradtool.core.figures import counted, difference
from gradtool.core.judging.limits import Limits
from gradtool.core.judging.rule import Parameter
from gradtool.core.names import name_filter, nearest_names
from gradtool.core.tensors import ABSENT, hides_magnitude
from gradtool.errors import EmptyDumpError, GradtoolError, MissingShardError
from gradtool.rules.evidence import DumpRule, Evidence, Problem

_MOST_RANKS = 8
"""Missing ranks that a message names."""


def _no_gradients(evidence: Evidence, limits: Limits) -> Iterator[Problem]:  # noqa: ARG001
    if not evidence.gradients and not evidence.has_only_state:
        yield Problem("holds no gradients, weights or moments; choose with `section` what to judge")


def _unmeasured(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    # In all sections: no file may hide a tensor from this rule by the key it puts it under.
    for item in evidence.measurement.skipped:
        if hides_magnitude(item) and limits(item.name) is not None:
            kind = f"{item.reason}, {item.dtype}" if item.dtype else item.reason
            yield Problem(f"is not measured ({kind})", item.name)


def _lower_bound(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    present = {rank for rank, _ in evidence.measurement.ranks}
    total = max((number for _, number in evidence.measurement.ranks), default=0)
    if (missing := total - len(present)) > 0:
        # The total is only a claim of the file: no work may grow with it.
        first = islice((rank for rank in count() if rank not in present), min(missing, _MOST_RANKS))
        others = " and others" if missing > _MOST_RANKS else ""
        listed = f"{', '.join(map(str, first))}{others}"
        yield Problem(
            f"gradients are split over {counted(total, 'rank')}, and rank {listed} is not here: "
            "norms are low"
        )
    hidden = (item.name for item in evidence.skipped if hides_magnitude(item))
    if any(limits(name) is not None for name in hidden):
        yield Problem("its norm is a lower bound: there are tensors that are not measured")


def _too_few(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    least = limits.dump["min_tensors"]
    number = len(evidence.gradients)
    # Of a checkpoint of weights alone nobody expects gradients who does not say how many.
    expected = number > 0 or (evidence.has_only_state and least != 1)
    if isinstance(least, int) and number < least and expected:
        held = counted(number, "gradient")
        yield Problem(f"holds {held}, at least {least:,} expected", value=number, limit=least)


def _missing(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    globs = limits.dump["names"]
    if not isinstance(globs, tuple) or not globs:
        return
    names = [tensor.name for tensor in evidence.named_gradients]
    for glob in globs:
        if not any(map(name_filter([glob], (), evidence.bare), names)):
            hint = nearest_names(glob, names)
            also = f"; {hint}" if hint else ""
            yield Problem(f"is expected, and no gradient has such a name{also}", glob)


def _without_gradient(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for item in evidence.skipped:
        if item.reason == ABSENT and limits(item.name) is not None:
            yield Problem("has no gradient", item.name)


def _differing_copies(evidence: Evidence, limits: Limits) -> Iterator[Problem]:  # noqa: ARG001
    for copy in evidence.measurement.disagreements:
        yield Problem(difference(copy), copy.name, index=copy.first)


RULES = (
    DumpRule(
        code="GT001",
        name="unreadable",
        mandatory=True,
        errors=(GradtoolError,),
        summary="The dump cannot be read, understood or trusted.",
        explanation=(
            "The file is missing, truncated, corrupt, changed while it was read, or in a layout "
            "that gradtool does not know. Nothing is known about its gradients, so that the "
            "verdict cannot be good; gradtool exits with 3."
        ),
        rationale="None: a file can be read or it cannot. The rule cannot be switched off.",
        remedy=(
            "Read the message: it names file, tensor and byte. Write the dump again, and check "
            "that the job that wrote it had ended."
        ),
    ),
    DumpRule(
        code="GT002",
        name="empty-dump",
        mandatory=True,
        errors=(EmptyDumpError,),
        find=_no_gradients,
        summary="The dump holds no gradient.",
        explanation=(
            "A dump of nothing passes every test of norms. It comes from dumping before "
            "backward() or after zero_grad(), from trainers that keep gradients in main_grad or "
            "in flat buffers. A checkpoint of weights or moments is no dump: these are judged by "
            "the integrity and non-finite rules alone."
        ),
        rationale="None: one gradient is enough. The rule cannot be switched off.",
        remedy=(
            "Dump between backward() and zero_grad(), with gradtool.torch.dump_gradients say; "
            "where a checkpoint holds several things, choose with `section`."
        ),
    ),
    DumpRule(
        code="GT003",
        name="missing-shard",
        mandatory=True,
        errors=(MissingShardError,),
        summary="A shard or a rank is missing.",
        explanation=(
            "An index, the numbers in names or the metadata of files tell of a part of the "
            "gradients that is not here, so that no norm of the whole is known."
        ),
        rationale="None. The rule cannot be switched off.",
        remedy="Copy all shards and ranks into the directory, or write the checkpoint again.",
    ),
    DumpRule(
        code="GT004",
        name="unmeasured-tensor",
        per_tensor=True,
        find=_unmeasured,
        alike="not measured",
        summary="A tensor is not measured.",
        explanation=(
            "It is of a sub-byte or scale dtype (F4, F6, E8M0), quantized, nested, or on the meta "
            "device. What was not measured is not called healthy, be it a gradient or what lies "
            "beside the gradients."
        ),
        rationale="None: integers, bools and text are no gradients and are not counted here.",
        remedy=(
            "Dump gradients before quantization, or say that the tensor is none: by `exclude`, or "
            "by an override that ignores GT004 and GT005."
        ),
    ),
    DumpRule(
        code="GT005",
        name="lower-bound",
        per_tensor=True,
        find=_lower_bound,
        summary="Norms are lower bounds: parts of the gradients are not here.",
        explanation=(
            "Tensors were skipped that may be gradients, or gradients are split over ranks and "
            "not every rank's file is here. The true norm is larger by an unknown amount."
        ),
        rationale="None.",
        remedy="Give a directory with the files of all ranks; see GT004 for skipped tensors.",
    ),
    DumpRule(
        code="GT006",
        name="too-few-tensors",
        find=_too_few,
        summary="The dump holds fewer gradients than expected.",
        explanation=(
            "A dump that lost most of its tensors, to a wrong prefix or a module left out, may "
            "look healthy. Names that share memory count once."
        ),
        rationale="min_tensors is 1 unless set: only you know how many there are.",
        remedy="Set `GT006.min_tensors`, or compare with a baseline, which knows names.",
        parameters=(Parameter("min_tensors", 1, "least number of gradients", kind="count", low=1),),
    ),
    DumpRule(
        code="GT007",
        name="missing-name",
        find=_missing,
        summary="No gradient has an expected name.",
        explanation="A layer that must be trained has no gradient in the dump.",
        rationale="names is empty unless set.",
        remedy="Look for a detach(), a no_grad() or requires_grad=False on its way to the loss.",
        parameters=(
            Parameter("names", (), "globs, each of which must match a gradient", kind="names"),
        ),
    ),
    DumpRule(
        code="GT008",
        name="no-gradient",
        severity="warning",
        per_tensor=True,
        find=_without_gradient,
        alike="without a gradient",
        yields_to=frozenset({"GT010", "GT208"}),
        summary="A parameter has no gradient.",
        explanation=(
            "dump_gradients notes parameters that require a gradient and got none: they do not "
            "reach the loss. That is normal for parts that are not used in every step, and a "
            "cut graph otherwise."
        ),
        rationale="None; a warning, because unused parts are common.",
        remedy="See GT007; for parts that are meant to be unused, add an override.",
    ),
    DumpRule(
        code="GT009",
        name="ranks-differ",
        find=_differing_copies,
        alike="different in their copies",
        summary="Ranks that hold copies of a gradient do not hold the same.",
        explanation=(
            "Gradients that data-parallel training has reduced are the same on each rank, bit for "
            "bit. Where they differ an all-reduce was left out, a rank ran other code or read "
            "other data, or memory is broken; the ranks' weights then drift apart."
        ),
        rationale="None: copies are equal or they are not.",
        remedy=(
            "Look at the rank and index in the message; `ranks='each'` has each "
            "rank by itself. Gradients that were not reduced yet are dumps of their own."
        ),
    ),
)
