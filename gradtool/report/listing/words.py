"""What lists of checkpoints say, in the same words in every format for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from gradtool.core.figures import byte_size, counted
from gradtool.errors import FoundCheckpoint, SeveralCheckpointsError
from gradtool.report.escaping import brief
from gradtool.report.grid import Grid, Row
from gradtool.report.model import Picking, Style

MOST_ROWS = 20
"""Checkpoints that people are shown without --all."""

_UNREADABLE = "cannot be read"
_KINDS = {
    "run": ("step of a run", "steps of a run"),
    "ranks": ("rank", "ranks"),
    "checkpoints": ("checkpoint below it", "checkpoints"),
}


def holds(several: SeveralCheckpointsError) -> str:
    """How many there are, and what they are together."""
    return counted(len(several.found), *_KINDS[several.kind])


def grid(several: SeveralCheckpointsError, style: Style) -> Grid:
    """A row for each checkpoint that is shown; those that cannot be read stand out."""
    return Grid(
        ("path", "step", "layout", "files", "size"),
        (False, True, False, True, True),
        tuple(
            Row(_cells(one), "alarming" if one.layout is None else "plain")
            for one in _shown(several, style)
        ),
    )


def left_out(several: SeveralCheckpointsError, style: Style) -> str:
    """What the grid does not show, as `5 more` or `5 more, 1 of which cannot be read`; or ""."""
    others = several.found[len(_shown(several, style)) :]
    unreadable = sum(one.layout is None for one in others)
    which = f", {unreadable:,} of which cannot be read" if unreadable else ""
    return f"{len(others):,} more{which}" if others else ""


def command_for_one(several: SeveralCheckpointsError, picking: Picking) -> str:
    """The command that takes one of them alone, for a shell; "" where none can be read."""
    if several.likely is None:
        return ""
    words = ("gradtool", picking.command, brief(shlex.quote(several.likely.path)), picking.options)
    return " ".join(filter(None, words))


def _shown(several: SeveralCheckpointsError, style: Style) -> Sequence[FoundCheckpoint]:
    return several.found if style.show_all else several.found[:MOST_ROWS]


def _cells(one: FoundCheckpoint) -> tuple[str, ...]:
    return (
        brief(one.path),
        "-" if one.step is None else str(one.step),
        one.layout or _UNREADABLE,
        f"{one.files:,}" if one.files else "-",
        byte_size(one.nbytes) if one.files else "-",
    )
