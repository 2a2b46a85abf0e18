"""Steps beside a trainer's log: what it says of each, and what the two say together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gradtool.core.figures import counted, first_of, significant
from gradtool.core.judging.quotient import TOLERANCE, Known, explained, plain, times
from gradtool.core.trends.log import Log
from gradtool.core.trends.relations import Relation, halves, relation_of
from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Conclusion

_SHIFTS: Final = (-1, 1)
"""What a log's number of a step may be off by: it counts from 0, or after the step."""

_LEAST_SHIFTED: Final = 3
"""Steps that have to agree for a shift to be no chance."""

_DIGITS: Final = 5


@dataclass(frozen=True, slots=True)
class _Beside:
    """The steps with their logged norms, those that have both, and how these are related."""

    log: Log
    shift: int
    steps: tuple[Step, ...]
    pairs: tuple[Step, ...]
    relation: Relation | None

    @property
    def is_whole(self) -> bool:
        """Whether all pairs are related in one way."""
        return self.relation is not None and self.relation.is_whole


def beside_log(steps: Sequence[Step], log: Log) -> tuple[tuple[Step, ...], tuple[Conclusion, ...]]:
    """The steps with the norms that were logged for them, and what is to be said of these.

    Where the numbers of steps lead to nothing, and shifted by one all agree, they are shifted.
    """
    found = _beside(steps, log, 0)
    if not found.is_whole:
        shifted = (_beside(steps, log, shift) for shift in _SHIFTS)
        found = next((one for one in shifted if _is_sure(one)), found)
    return found.steps, tuple(_conclusions(found))


def _beside(steps: Sequence[Step], log: Log, shift: int) -> _Beside:
    def logged(step: Step) -> Step:
        norm = None if step.number is None else log.norms.get(step.number + shift)
        return step if norm is None else replace(step, logged_norm=norm)

    with_norms = tuple(map(logged, steps))
    both = (step for step in with_norms if step.logged_norm is not None and step.total is not None)
    pairs = tuple(both)
    return _Beside(log, shift, with_norms, pairs, relation_of(pairs))


def _is_sure(found: _Beside) -> bool:
    """Whether enough steps agree, and norms that are not all the same."""
    relation = found.relation
    if relation is None or not relation.is_whole:
        return False
    norms = [step.total.norm for step in found.pairs if step.total is not None]
    finite = [norm for norm in norms if math.isfinite(norm)]
    free = len(finite) - relation.bounded
    return free >= _LEAST_SHIFTED and max(finite) > min(finite) * (1.0 + 10.0 * TOLERANCE)


def _conclusions(found: _Beside) -> Iterator[Conclusion]:
    if not found.pairs:
        yield _nothing(found)
        return
    yield from _related(found)
    if found.shift:
        off = "lower" if found.shift < 0 else "higher"
        first = found.pairs[0]
        text = f"the log numbers each step one {off} than the dumps: its step "
        text += f"{(first.number or 0) + found.shift} is {first.label}"
        yield _about(first, "log-shifted", text)


def _nothing(found: _Beside) -> Conclusion:
    numbers = sorted(found.log.norms)
    span = f"step {numbers[0]}" if not numbers[1:] else f"steps {numbers[0]} to {numbers[-1]}"
    text = f"the log has no norm of any of these steps: it has {counted(len(numbers), 'norm')} "
    return Conclusion("log-elsewhere", f"{text}of {span}")


def _related(found: _Beside) -> Iterator[Conclusion]:
    relation, pairs = found.relation, found.pairs
    what = f"the logged {found.log.key!r:.80}"
    if not found.is_whole and (parts := halves(pairs)) is not None:
        at, *factors = parts
        yield _about(pairs[at], "log-quotient", f"{what} is {_changed(pairs, at, factors)}")
    elif relation is None:
        yield _about(pairs[0], "log-quotient", f"{what} is no one multiple of {_range(pairs)}")
    else:
        text = f"{what} {_sentence(found, relation)}"
        yield _about(pairs[0], "log-quotient", text)
        yield from _parting(pairs, relation)


def _sentence(found: _Beside, relation: Relation) -> str:
    where = _where(found, relation)
    value = plain(relation.value)
    if relation.kind == "times":
        return f"is {_multiple(relation.value, found.pairs[0], where)}"
    steps = counted(relation.bounded, "step")
    if relation.kind == "log-clipped":
        is_it = f"is the true norm, and {value} in {steps} where that is larger, {where}"
        return f"{is_it}: was it logged after clipping to {value}?"
    is_it = f"is the true norm, and larger in {steps} where that is {value}, {where}"
    return f"{is_it}: were the dumps made after clipping to {value}?"


def _changed(pairs: Sequence[Step], at: int, factors: Sequence[float]) -> str:
    """`8 times the true norm up to step 9, and 4 times the true norm from step 10 on: ...`."""
    ends = (pairs[0], f"up to {pairs[at - 1].label}"), (pairs[at], f"from {pairs[at].label} on")
    texts, reasons = [], []
    for factor, (step, when) in zip(factors, ends, strict=True):
        texts.append(f"{'' if _is_one(factor) else times(factor) + ' '}the true norm {when}")
        reasons.append(_explained(factor, step))
    may_be = " then ".join(filter(None, reasons))
    return f"{', and '.join(texts)}{may_be and ': ' + may_be}"


def _multiple(factor: float, step: Step, where: str) -> str:
    """`8 times the true norm in all 3 steps: 8, the number of ...?`."""
    if _is_one(factor):
        return f"the true norm {where}"
    may_be = _explained(factor, step)
    return f"{times(factor)} the true norm {where}{may_be and ': ' + may_be}"


def _is_one(factor: float) -> bool:
    return abs(factor - 1.0) <= TOLERANCE


def _explained(factor: float, step: Step) -> str:
    """What a quotient may be; "" if nothing."""
    known = Known() if step.total is None else Known(numel=step.total.stats.numel)
    return explained(factor, known) or ""


def _where(found: _Beside, relation: Relation) -> str:
    pairs = found.pairs
    if not pairs[1:]:
        return f"in {pairs[0].label}"
    logged = " logged" if len(pairs) < len(found.steps) else ""
    of = f"all {len(pairs):,}" if relation.is_whole else f"{relation.count:,} of {len(pairs):,}"
    return f"in {of}{logged} steps"


def _parting(pairs: Sequence[Step], relation: Relation) -> Iterator[Conclusion]:
    """The steps of which it is not so."""
    others = [step for step, so in zip(pairs, relation.agreeing, strict=True) if not so]
    if others:
        text = f"the log parts from that in {first_of(list(map(_both, others)))}"
        yield _about(others[0], "log-parts", text)


def _range(pairs: Sequence[Step]) -> str:
    known = sorted((one, n) for n, step in enumerate(pairs) if (one := step.log_quotient))
    ends = dict.fromkeys([n for _, n in known[:1] + known[-1:]])
    return f"the true norm: {' to '.join(_both(pairs[n]) for n in ends or [0])}"


def _both(step: Step) -> str:
    """`step 9 (0.5 times)`, or both norms where they have no quotient."""
    if step.log_quotient:
        return f"{step.label} ({times(step.log_quotient)})"
    true = math.nan if step.total is None else step.total.norm
    norms = (math.nan if step.logged_norm is None else step.logged_norm, true)
    logged, true_text = (significant(norm, _DIGITS) for norm in norms)
    return f"{step.label} ({logged} for {true_text})"


def _about(step: Step, code: str, text: str) -> Conclusion:
    return Conclusion(code, text, step.number, step.path)
