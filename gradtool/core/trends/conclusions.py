"""What the steps of a run say together, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

from gradtool.core.figures import counted, first_of, some
from gradtool.core.judging.quotient import times
from gradtool.core.judging.verdict import Finding
from gradtool.core.judging.weights import makers, percent
from gradtool.core.names import order_name
from gradtool.core.trends.counting import doubled, missing
from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Conclusion
from gradtool.shortening import shortened

_DEAD: Final = frozenset({"GT207", "GT208", "GT209"})
"""Rules that find tensors without a gradient."""

_SPIKE: Final = "GT210"
"""The rule that finds steps whose norm is far above those around them."""

_RAISED: Final = "GT212"
"""The rule that finds smaller ones."""

_LEVEL: Final = "GT213"
"""The rule that says since when the norm is higher than it was."""

_LONGEST: Final = 120
"""Characters of a name in a sentence."""

_SHOWN: Final = 5
"""Numbers of steps that a sentence lists."""


def conclusions_of(
    steps: Sequence[Step], logged: Sequence[Conclusion] = ()
) -> tuple[Conclusion, ...]:
    """All that there is to conclude of steps in their order, besides what a log says of them."""
    return (
        *(*_first_bad(steps), *_spikes(steps), *logged, *_dead(steps), *_shares(steps)),
        *(*_models(steps), *_counts(steps)),
    )


def _first_bad(steps: Sequence[Step]) -> Iterator[Conclusion]:
    bad = [step for step in steps if step.verdict.failed]
    if not bad:
        return
    first = bad[0]
    text, tensor = _what_broke(first)
    more = f"; {counted(len(bad) - 1, 'later step')} failed too" if bad[1:] else ""
    yield _about(first, "first-bad", f"{_label(first)} is the first bad one: {text}{more}", tensor)


def _what_broke(step: Step) -> tuple[str, str | None]:
    """What is wrong with a step, and the first tensor that it is about."""
    finding = step.verdict.findings[0]
    if step.total is None:
        return f"it was not judged, {finding.message}", finding.tensor
    if (broken := step.breakage) is not None:
        if broken.advice:
            text = f"all {broken.among:,} tensors are not finite at once: {broken.advice}"
        else:
            verb = "is" if broken.tensors == 1 else "are"
            among = counted(broken.among, "tensor")
            order = order_name(in_model_order=broken.in_model_order)
            text = f"{broken.tensors:,} of {among} {verb} not finite"
            text += f", {_quoted(broken.first)} {'the first ' * (broken.tensors > 1)}in {order}"
        return text, broken.first
    tensors = [one.tensor for one in finding.each if one.tensor is not None]
    about = "" if finding.tensor is None else f"{_quoted(finding.tensor)}: "
    text = f"{finding.code} {finding.name}: {about}{finding.message}"
    if tensors:
        is_named = finding.tensor is not None or repr(tensors[0]) in text
        return text if is_named else f"{text}; {_quoted(tensors[0])} the first", tensors[0]
    if step.top is None or step.top.share is None:
        return text, None
    return f"{text}; {percent(step.top.share)} of it is {_quoted(step.top.name)}", step.top.name


def _spikes(steps: Sequence[Step]) -> Iterator[Conclusion]:
    """Each step whose norm is far above those around it; those that follow each other are one.

    Where a level follows that stays, they are its first steps, and that is said instead.
    """
    for group in _in_a_row(steps):
        step, worst = max(group, key=lambda pair: pair[1].value or 0.0)
        (first, _), (last, found) = group[0], group[-1]
        where = f"in {_label(first)}"
        if group[1:]:
            where = f"from {_label(first)} to {_label(last)}, largest in {_label(step)}"
        code, text = "spike", f"spike {where}: {times(worst.value or 0.0)} the norm around it"
        if found.code == _LEVEL:
            code, text = "raised-level", found.message
        tensors = makers(step.verdict.heaviest)
        shares = [
            _quoted(one.name) if one.share is None else f"{percent(one.share)} {_quoted(one.name)}"
            for one in tensors
        ]
        text += f"; {', '.join(shares)}" if shares else ""
        name = tensors[0].name if tensors else None
        yield Conclusion(code, text, first.number, first.path, name, tensors)


def _in_a_row(steps: Sequence[Step]) -> Iterator[list[tuple[Step, Finding]]]:
    """The spikes that follow each other; and the steps up to a level's that all stand out."""
    group: list[tuple[Step, Finding]] = []
    for step in (*steps, None):
        found = None if step is None else _outstanding(step)
        if step is not None and found is not None:
            group.append((step, found))
        if found is not None and found.code == _LEVEL:
            yield group
            group = []
        elif found is None:
            for is_spike, row in groupby(group, lambda pair: pair[1].code == _SPIKE):
                if is_spike:
                    yield list(row)
            group = []


def _outstanding(step: Step) -> Finding | None:
    findings = step.verdict.findings
    return next((one for one in findings if one.code in (_SPIKE, _RAISED, _LEVEL)), None)


def _dead(steps: Sequence[Step]) -> Iterator[Conclusion]:
    """Since when tensors have been without a gradient that still are in the last step."""
    judged = [step for step in steps if step.total is not None]
    still = _dead_in(judged[-1]) if judged else []
    since = dict.fromkeys(still, 0)
    waiting = set(still)
    for position in range(len(judged) - 1, -1, -1):
        alive = waiting.difference(_dead_in(judged[position]))
        since.update(dict.fromkeys(alive, position + 1))
        waiting -= alive
        if not waiting:
            break
    for position, names in groupby(sorted(still, key=since.__getitem__), since.__getitem__):
        step, dead = judged[position], list(names)
        when = f"since {_label(step)}" if position else "from the first step on"
        text = f"{some(dead)} {'is' if len(dead) == 1 else 'are'} 0 {when}"
        yield _about(step, "dead", text, dead[0])


def _dead_in(step: Step) -> list[str]:
    findings = (one for one in step.verdict.findings if one.code in _DEAD)
    return [one.tensor for finding in findings for one in finding.each if one.tensor is not None]


def _shares(steps: Sequence[Step]) -> Iterator[Conclusion]:
    """How the largest share of the norm moved, from the first step to the last."""
    known = [(step, step.top) for step in steps if step.top is not None and step.top.share]
    if len(known) < 2:
        return
    first, last = known[0], known[-1]
    largest = max(known, key=lambda pair: pair[1].share or 0.0)
    told = dict.fromkeys(step for step, _ in sorted([first, largest, last], key=known.index))
    tops = {id(step): top for step, top in known}
    words = [
        f"{percent(tops[id(s)].share or 0.0)} {_quoted(tops[id(s)].name)} in {_label(s)}"
        for s in told
    ]
    text = f"largest share of the norm: {first_of(words)}"
    yield _about(largest[0], "largest-share", text, largest[1].name)


def _models(steps: Sequence[Step]) -> Iterator[Conclusion]:
    """Where gradients are not those of the step before."""
    judged = [step for step in steps if step.model]
    changes = [(before, step) for before, step in pairwise(judged) if before.model != step.model]
    if changes:
        before, step = changes[0]
        counts = [one.total.tensors for one in (before, step) if one.total is not None]
        more = f"; so it is {counted(len(changes) - 1, 'time')} more" if changes[1:] else ""
        text = f"{_label(step)} has other tensors than {_label(before)}: {counts[1]:,} "
        text += f"after {counts[0]:,}, not all with the same names and shapes{more}"
        yield _about(step, "other-tensors", text)


def _counts(steps: Sequence[Step]) -> Iterator[Conclusion]:
    """Steps that are missing between others, or twice there."""
    numbers = [step.number for step in steps if step.number is not None]
    gaps, every = missing(numbers)
    if gaps:
        count = sum(gap.steps for gap in gaps)
        lost = [gap.first + at * every for gap in gaps for at in range(min(gap.steps, _SHOWN))]
        verb = "is" if count == 1 else "are"
        interval = "each" if every == 1 else f"every {every:,}"
        text = f"{_steps(lost, count)} {verb} missing: there is one for {interval}"
        yield Conclusion("missing-steps", text, lost[0])
    again = doubled([(step.number, step.path) for step in steps if step.number is not None])
    if again:
        number, paths = next(iter(again.items()))
        verb = "is" if len(again) == 1 else "are"
        text = f"{_steps(list(again), len(again))} {verb} there more than once: {some(paths)}"
        yield Conclusion("doubled-steps", text, number, paths[0])
    if numbers and len(numbers) < len(steps):
        without = [step.path for step in steps if step.number is None]
        yield Conclusion(
            "no-step", f"nothing says of which step {some(without)} is", path=without[0]
        )


def _steps(first: Sequence[int], count: int) -> str:
    """`steps 30, 50 and 3 more`, given the first of `count` steps."""
    shown = ", ".join(str(number) for number in first[:_SHOWN])
    more = f" and {count - _SHOWN:,} more" if count > _SHOWN else ""
    return f"step{'' if count == 1 else 's'} {shown}{more}"


def _about(step: Step, code: str, text: str, tensor: str | None = None) -> Conclusion:
    return Conclusion(code, text, step.number, step.path, tensor)


def _label(step: Step) -> str:
    return shortened(step.label, _LONGEST)


def _quoted(name: str) -> str:
    return shortened(repr(name), _LONGEST)
