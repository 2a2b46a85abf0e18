"""The norms of a run as a line, drawn in SVG: the logarithm of each over the steps.

What was found has marks, whose shape tells it as well as their colour. However many steps there
are, no column of pixels has more than the least and the largest norm of those that fall into it,
and one mark of each kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal, NamedTuple, TypeAlias

from gradtool.core.figures import counted, norm_name, significant
from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Run, Trend
from gradtool.report.trend.words import label

_WIDTH: Final = 720
_HEIGHT: Final = 260
_LEFT: Final = 70
_TOP: Final = 24
_RIGHT: Final = _WIDTH - 20
_BOTTOM: Final = _HEIGHT - 44
_MOST_TICKS: Final = 6

Kind: TypeAlias = Literal["not-read", "not-finite", "error", "warning"]


class _Shape(NamedTuple):
    """A mark: an SVG path around 0, 0, its class, and what it stands for."""

    path: str
    style: str
    words: str


_SHAPES: Final[Mapping[Kind, _Shape]] = {
    "not-read": _Shape("M-4-4H4V4H-4Z", "mark full alarming", "not read"),
    "not-finite": _Shape("M-4-4 4 4M-4 4 4-4", "mark alarming", "not finite"),
    "error": _Shape("M0-6 6 5H-6Z", "mark full alarming", "with an error"),
    "warning": _Shape("M0-6 6 0 0 6-6 0Z", "mark notable", "with a warning"),
}
"""A square and a cross, at the upper edge; a full triangle and an empty diamond, at the norm."""


def picture(trend: Trend, run: Run) -> str:
    """The picture and what its marks are; "" for a run of which fewer than two norms can be drawn.

    It is for readers that see: what it shows is in words and figures beside it.
    """
    logs = [_log(step) for step in run.steps]
    norms = [norm for _, norm in run.norms if 0.0 < norm < math.inf]
    if len(norms) < 2:
        return ""
    frame = _frame(run.steps, (min(norms), max(norms)))
    marks = _marks(frame, run.steps, logs)
    low, high = (significant(end, 3) for end in frame.ends)
    name = f"{norm_name(trend.norm_type)} over {counted(len(run.steps), 'step')}"
    said = escape(f"{name}, on a logarithmic scale, from {low} to {high}")
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    lines = (
        f'<svg class="picture" {size} role="img" aria-label="{said}">',
        f'<text x="{_LEFT}" y="14">{escape(norm_name(trend.norm_type))}</text>',
        *_axes(frame, run.steps),
        f'<path class="norm" d="{_line(frame, logs)}"/>',
        *_drawn(marks),
        "</svg>",
        *_key(run.steps, marks),
    )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where steps are, from left to right, and which logarithms are at the lower and upper edge.

    `ends` are the least and the largest norm, which lie between them.
    """

    columns: Sequence[float]
    low: float
    high: float
    ends: tuple[float, float]

    def y(self, log: float) -> float:
        """How far down a logarithm is."""
        return _BOTTOM - (log - self.low) / (self.high - self.low) * (_BOTTOM - _TOP)


def _frame(steps: Sequence[Step], ends: tuple[float, float]) -> _Frame:
    """Steps at their numbers, where all have one; else each as far from the next."""
    numbers = [step.number for step in steps if step.number is not None]
    places = numbers if len(numbers) == len(steps) else list(range(len(steps)))
    first, last = min(places), max(places)
    span = max(last - first, 1)
    columns = [_LEFT + (place - first) / span * (_RIGHT - _LEFT) for place in places]
    low, high = map(math.log10, ends)
    margin = max(0.05 * (high - low), 0.02)
    return _Frame(columns, low - margin, high + margin, ends)


def _log(step: Step) -> float | None:
    """The logarithm of its norm, to base ten; None where that is none to draw."""
    norm = 0.0 if step.total is None else step.total.norm
    return math.log10(norm) if 0.0 < norm < math.inf else None


def _line(frame: _Frame, logs: Sequence[float | None]) -> str:
    """A path through all norms that breaks where a step has none; one by itself is a dot."""
    parts: list[str] = []
    is_broken = True
    for at, low, high in _columns(frame, logs):
        if low is None or high is None:
            is_broken = True
            continue
        for log in dict.fromkeys((low, high)):
            place = f"{at:.1f} {frame.y(log):.1f}"
            parts.append(f"M{place}h0" if is_broken else f"L{place}")
            is_broken = False
    return "".join(parts)


def _columns(
    frame: _Frame, logs: Sequence[float | None]
) -> Iterator[tuple[float, float | None, float | None]]:
    """Each place with a step: the least and the largest logarithm there; None for a gap.

    Steps of one column of pixels are one place, unless all columns are wider than that.
    """
    found: dict[float, list[float | None]] = {}
    are_many = len(logs) > _RIGHT - _LEFT
    for at, log in zip(frame.columns, logs, strict=True):
        found.setdefault(float(round(at)) if are_many else at, []).append(log)
    for at, of_column in found.items():
        known = [log for log in of_column if log is not None]
        yield at, min(known, default=None), max(known, default=None)


def _axes(frame: _Frame, steps: Sequence[Step]) -> Iterator[str]:
    for log, text in _ticks(frame):
        y = f"{frame.y(log):.1f}"
        yield f'<path class="axis" d="M{_LEFT} {y}H{_RIGHT}"/>'
        yield f'<text class="end" x="{_LEFT - 8}" y="{frame.y(log) + 4:.1f}">{text}</text>'
    are_numbers = all(step.number is not None for step in steps)
    ends = [label(steps[0]), label(steps[-1])] if are_numbers else ["1", f"{len(steps):,}"]
    word = "step" if are_numbers else "dump"
    y = str(_BOTTOM + 22)
    yield f'<text x="{_LEFT}" y="{y}">{word} {ends[0]}</text>'
    yield f'<text class="end" x="{_RIGHT}" y="{y}">{word} {ends[1]}</text>'


def _ticks(frame: _Frame) -> Iterator[tuple[float, str]]:
    """Powers of ten, so many decades apart; both ends, if there are fewer than two of them."""
    first, last = math.ceil(frame.low), math.floor(frame.high)
    if last <= first:
        for norm in dict.fromkeys(frame.ends):
            yield math.log10(norm), significant(norm, 3)
        return
    every = -(-(last - first + 1) // _MOST_TICKS)
    for power in range(first, last + 1, every):
        yield float(power), f"1e{power}"


class _Mark(NamedTuple):
    """A mark at a place, and the first step that it is of."""

    kind: Kind
    x: float
    y: float
    step: Step


def _marks(frame: _Frame, steps: Sequence[Step], logs: Sequence[float | None]) -> Sequence[_Mark]:
    """The marks from left to right, of each kind one in a column of pixels: the uppermost."""
    found: dict[tuple[Kind, int], _Mark] = {}
    for x, step, log in zip(frame.columns, steps, logs, strict=True):
        kind = _kind(step)
        if kind is None:
            continue
        y = _TOP if log is None else frame.y(log)
        known = found.get((kind, round(x)))
        if known is None or y < known.y:
            found[kind, round(x)] = _Mark(kind, x, y, step)
    return list(found.values())


def _kind(step: Step) -> Kind | None:
    verdict = step.verdict
    if not verdict.is_judged:
        return "not-read"
    if verdict.has_nonfinite:
        return "not-finite"
    if not verdict.findings:
        return None
    return "error" if any(one.severity == "error" for one in verdict.findings) else "warning"


def _drawn(marks: Iterable[_Mark]) -> Iterator[str]:
    for mark in marks:
        shape = _SHAPES[mark.kind]
        codes = " ".join(dict.fromkeys(one.code for one in mark.step.verdict.findings))
        said = escape(f"{label(mark.step)} {codes}".strip())
        yield (
            f'<path class="{shape.style}" transform="translate({mark.x:.1f} {mark.y:.1f})" '
            f'd="{shape.path}"><title>{said}</title></path>'
        )


def _key(steps: Sequence[Step], marks: Sequence[_Mark]) -> Iterator[str]:
    """What the marks stand for, of those that are there, with the number of such steps."""
    kinds = [_kind(step) for step in steps]
    there = {mark.kind for mark in marks}
    if not there:
        return
    yield '<ul class="key">'
    for kind, shape in _SHAPES.items():
        if kind in there:
            yield (
                '<li><svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">'
                f'<path class="{shape.style}" d="{shape.path}"/></svg> '
                f"{escape(counted(kinds.count(kind), 'step'))} {shape.words}</li>"
            )
    yield "</ul>"
