"""What is said of trends, in the same words in every format for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from gradtool.core.figures import counted, first_of, norm_name, significant, tally
from gradtool.core.judging.verdict import Finding, Verdict
from gradtool.core.trends.steps import Part, Step
from gradtool.core.trends.trend import Run, Trend
from gradtool.report.check.words import sentence as finding_sentence
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS, Grid, Mood, Row
from gradtool.report.model import DEFAULT_ROWS, Style
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME

NONE: Final = "-"
_BLOCKS: Final = tuple(map(chr, range(0x2581, 0x2589)))
_NOT_FINITE: Final = "!"

MOST_ALIKE: Final = 5
"""Conclusions of one kind that are told without --all."""


def sentence(run: Run) -> str:
    """How many steps there are, and how many of them failed."""
    numbers = [step.number for step in run.steps if step.number is not None]
    span = f", {min(numbers)} to {max(numbers)}" if len(numbers) > 1 else ""
    failed = sum(step.verdict.failed for step in run.steps)
    unread = sum(not step.verdict.is_judged for step in run.steps)
    state = f"{failed:,} failed" if failed else "ok"
    if unread:
        state += f", {unread:,} of them not judged"
    return f"{brief(run.name)}: {counted(len(run.steps), 'step')}{span}: {state}"


def conclusions(run: Run, style: Style) -> Iterator[str]:
    """What the steps say together, the gravest first; of many of a kind the first."""
    counts = Counter(one.code for one in run.conclusions)
    told: Counter[str] = Counter()
    for one in run.conclusions:
        told[one.code] += 1
        if style.show_all or told[one.code] <= MOST_ALIKE:
            yield brief(one.text)
        elif told[one.code] == counts[one.code]:
            yield f"{counts[one.code] - MOST_ALIKE:,} more like that (--all shows them)"


def shown(run: Run, style: Style) -> Sequence[Step]:
    """The steps to list for people, as `chosen` has them."""
    if style.quiet:
        return ()
    return run.steps if style.show_all else chosen(run, DEFAULT_ROWS)


def chosen(run: Run, most: int) -> Sequence[Step]:
    """At most so many steps: of more the first that failed and the newest, in their order."""
    if len(run.steps) <= most:
        return run.steps
    failed = [n for n, step in enumerate(run.steps) if step.verdict.failed]
    found = {*failed[: most // 2]}
    newest = (n for n in range(len(run.steps) - 1, -1, -1) if n not in found)
    found |= {n for n, _ in zip(newest, range(most - len(found)), strict=False)}
    return [run.steps[n] for n in sorted(found)]


def steps_grid(trend: Trend, steps: Sequence[Step]) -> Grid:
    """A row for each step: its figures, what was found, and the tensor that weighs most.

    Columns that say nothing of any step are left out: a native norm that is the norm, say.
    """
    return _grid([one for one in _columns(trend) if one.says or _says(one, steps)], steps)


def whole_grid(trend: Trend, steps: Sequence[Step]) -> Grid:
    """The same with all columns but those of a log, whatever they say of these steps."""
    return _grid([one for one in _columns(trend) if not one.header.startswith("logged")], steps)


def _grid(columns: Sequence[_Column], steps: Sequence[Step]) -> Grid:
    rows = (Row(tuple(column.cell(step) for column in columns), _mood(step)) for step in steps)
    are_numbers = all(step.number is not None for step in steps)
    return Grid(
        tuple(column.header for column in columns),
        tuple(column.numeric and (at > 0 or are_numbers) for at, column in enumerate(columns)),
        tuple(rows),
        (0, len(columns) - 1),
    )


class _Column(NamedTuple):
    """A column: its header, the cell of a step, and whether it is there in any case."""

    header: str
    cell: Callable[[Step], str]
    numeric: bool = True
    says: bool = False


def _columns(trend: Trend) -> Iterator[_Column]:
    yield _Column("step", label, says=True)
    yield _Column(norm_name(trend.norm_type), _norm, says=True)
    yield _Column("native", _native)
    yield _Column("logged", lambda step: _figure(step.logged_norm))
    yield _Column("logged / true", lambda step: _figure(step.log_quotient))
    yield _Column("max |g|", _max_abs, says=True)
    yield _Column("non-finite", _nonfinite)
    if trend.max_norm is not None:
        yield _Column("clip_coef", lambda step: _figure(trend.clip_coef(step)), says=True)
    yield _Column("findings", _codes, numeric=False)
    yield _Column("share", lambda step: _percent(None if step.top is None else step.top.share))
    yield _Column("largest", _top, numeric=False, says=True)


def _says(column: _Column, steps: Sequence[Step]) -> bool:
    """Whether a column says anything that the others do not."""
    cells = [(column.cell(step), step) for step in steps]
    if column.header == "native":
        return any(cell not in (NONE, _norm(step)) for cell, step in cells)
    return any(cell != NONE for cell, _ in cells)


def _norm(step: Step) -> str:
    return _figure(None if step.total is None else step.total.norm)


def _native(step: Step) -> str:
    return _figure(None if step.total is None else step.total.native_norm)


def _max_abs(step: Step) -> str:
    return _figure(None if step.total is None else step.total.stats.max_abs)


def _nonfinite(step: Step) -> str:
    return NONE if step.total is None else tally(step.total.stats.nonfinite)


def _codes(step: Step) -> str:
    """The code of the gravest finding, and how many others there are."""
    codes = dict.fromkeys(one.code for one in step.verdict.findings)
    if not codes:
        return NONE
    more = f"+{len(codes) - 1}" if len(codes) > 1 else ""
    return f"{next(iter(codes))}{more}"


def _top(step: Step) -> str:
    return NONE if step.top is None else brief(step.top.name, LONGEST_NAME)


def _figure(value: float | None) -> str:
    return NONE if value is None else significant(value, CELL_DIGITS)


def label(step: Step) -> str:
    """The number of a step, or the path of a dump that has none."""
    if step.number is not None:
        return str(step.number)
    return brief(step.path, LONGEST_NAME)


def alike(run: Run, style: Style) -> list[list[Step]]:
    """The steps with findings, those together of which the very same is said; or each by itself."""
    found = [step for step in run.steps if step.verdict.findings]
    if style.show_all:
        return [[step] for step in found]
    groups: dict[object, list[Step]] = {}
    for step in found:
        said = tuple(
            (one.code, one.severity, one.pattern, one.tensor, one.message)
            for one in step.verdict.findings
        )
        groups.setdefault(said, []).append(step)
    return list(groups.values())


def findings(run: Run, style: Style) -> Iterator[str]:
    """What was found about steps together and about each, a sentence for each rule."""
    for one in run.findings:
        yield _finding("all steps together", one, None)
    found = alike(run, style)
    listed = found if style.show_all else found[:DEFAULT_ROWS]
    for steps in listed:
        for one in steps[0].verdict.findings:
            yield _finding(title(steps), one, steps[0].verdict)
    if left_out := sum(map(len, found[len(listed) :])):
        yield f"{counted(left_out, 'more step')} with findings {verb(left_out)} not listed"


def _finding(where: str, finding: Finding, verdict: Verdict | None) -> str:
    said = finding_sentence(finding, verdict, LONGEST_LINE)
    return f"{where}: {finding.severity} {finding.code} {said}"


def verb(count: int) -> str:
    """Of a sentence about so many."""
    return "is" if count == 1 else "are"


def title(steps: Sequence[Step]) -> str:
    """The first of some steps and its path, how many others there are, and the last of them."""
    first, others = steps[0], steps[1:]
    path = brief(first.path, LONGEST_NAME)
    text = path if first.number is None else f"step {first.number} ({path})"
    if not others:
        return text
    last = "" if others[-1].number is None else f", the last of them step {others[-1].number}"
    return f"{text} and {counted(len(others), 'more step')}{last}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100.0 * share:.1f}%"


def _mood(step: Step) -> Mood:
    return "alarming" if step.verdict.failed else "plain"


def parts_grid(run: Run, header: str, parts: Sequence[tuple[str, Sequence[Part]]]) -> Grid:
    """A row for each tensor or group: its norm at first, at last and at most, and its share."""
    headers = (header, "steps", "first norm", "last", "largest", "in", "last share")
    rows = []
    for name, found in parts:
        norms = [one.stats.norm for one in found]
        worst = max(range(len(norms)), key=lambda n: _size(norms[n]))
        cells = (
            brief(name),
            f"{len(found):,}",
            *(significant(norm, CELL_DIGITS) for norm in (norms[0], norms[-1], norms[worst])),
            _step_of(run, header, name, worst),
            _percent(found[-1].share),
        )
        is_bad = any(one.stats.nonfinite for one in found)
        rows.append(Row(cells, "alarming" if is_bad else "plain"))
    return Grid(headers, (False, *(True,) * 6), tuple(rows))


def _size(norm: float) -> float:
    return math.inf if math.isnan(norm) else norm


def _step_of(run: Run, header: str, name: str, nth: int) -> str:
    """The step that has the tensor or group of that name for the nth time."""
    having = (
        step
        for step in run.steps
        for one in (step.tensors if header == "tensor" else step.groups)
        if one.name == name
    )
    return label(next(step for n, step in enumerate(having) if n == nth))


def followed(run: Run, header: str) -> list[tuple[str, list[Part]]]:
    """The tensors or groups of a run by name, each as it was step by step."""
    found: dict[str, list[Part]] = {}
    for step in run.steps:
        for one in step.tensors if header == "tensor" else step.groups:
            found.setdefault(one.name, []).append(one)
    return list(found.items())


def sparkline(run: Run, width: int) -> str:
    """The norms in one line of blocks, on a logarithmic scale; "" where there is none to see.

    Of more steps than columns, each block is the largest of several, and `!` one that is not
    finite.
    """
    norms = [norm for _, norm in run.norms]
    size = -(-len(norms) // max(width, 1))
    columns = [max(norms[at : at + size], key=_size) for at in range(0, len(norms), max(size, 1))]
    logs = [math.log(norm) for norm in columns if 0.0 < norm < math.inf]
    if len(logs) < 2:
        return ""
    low, high = min(logs), max(logs)
    return "".join(_block(norm, low, high) for norm in columns)


def _block(norm: float, low: float, high: float) -> str:
    if not math.isfinite(norm):
        return _NOT_FINITE
    height = (math.log(norm) - low) / (high - low) if norm > 0.0 and high > low else 0.0
    return _BLOCKS[min(int(height * len(_BLOCKS)), len(_BLOCKS) - 1)]


def remarks(run: Run) -> Iterator[tuple[str, str]]:
    """What was assumed of steps, each note once, with the steps that it is about."""
    noted: dict[str, list[Step]] = {}
    for step in run.steps:
        for note in step.verdict.notes:
            noted.setdefault(note, []).append(step)
    for note, steps in noted.items():
        about = f"all {counted(len(steps), 'step')}"
        if len(steps) < len(run.steps):
            about = first_of([brief(one.label, LONGEST_NAME) for one in steps])
        yield "note", f"{about}: {brief(note)}"
