"""Differences as annotations of a GitHub workflow: commands to its runner, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from gradtool.core.comparing.words import details, sentence
from gradtool.core.figures import counted
from gradtool.report.annotations import MAX_ANNOTATIONS, begun, command
from gradtool.report.diff.grids import worst_first
from gradtool.report.diff.words import remarks
from gradtool.report.escaping import visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE, fitted

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference

_TITLE: Final = "gradtool diff"

_NAMES: Final = ("only in A", "only in B", "not compared")
"""Labels of what has no figures."""


def render(difference: Difference, style: Style) -> str:  # noqa: ARG001
    """What differs as errors, the worst tensors first, what may be why, and a conclusion."""
    return "\n".join(_lines(difference)) + "\n"


def _lines(difference: Difference) -> Iterator[str]:
    said = [*remarks(difference, with_reading=True)]
    errors = [] if difference.same else [*_errors(difference, said)]
    for parts in errors[:MAX_ANNOTATIONS]:
        yield _annotation("error", difference, *parts)
    for text in [text for label, text in said if label == "diagnosis"][:MAX_ANNOTATIONS]:
        yield _annotation("warning", difference, text)
    notices = [text for label, text in said if label == "note"]
    if (left_out := len(errors) - MAX_ANNOTATIONS) > 0:
        more = counted(left_out, "more difference")
        notices.insert(0, f"{more}: see the step summary, or -f table")
    for text in notices[:MAX_ANNOTATIONS]:
        yield command(begun("notice", {"title": _TITLE}), visible(text))
    yield f"{_TITLE}: {sentence(difference)}"


def _errors(difference: Difference, said: list[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """What differs, the most important first, each in parts of which a long one may be cut."""
    yield f"{sentence(difference)}, compared with ", difference.a.path
    yield from ((f"{label}: ", text) for label, text in said if label in _NAMES)
    for tensor in worst_first(difference):
        yield tensor.name, f": {details(tensor)}"
    yield from ((f"{label}: ", text) for label, text in said if label == "other")


def _annotation(severity: str, difference: Difference, *parts: str) -> str:
    start = begun(severity, {"file": difference.b.path, "title": _TITLE})
    # Once joined, parts may begin like a command though none of them does alone.
    message = visible("".join(fitted([*map(visible, parts)], LONGEST_LINE - len(start))))
    return command(start, message)
