"""What lists of checkpoints say, in the same words in every format for people."""

from __future__ import annotations

import shlex

from gradtool.core.figures import byte_size, counted
from gradtool.errors import FoundCheckpoint, SeveralCheckpointsError
from gradtool.report.escaping import brief
from gradtool.report.grid import Grid, Row

MOST_ROWS = 20
"""Checkpoints that people are shown without --all."""

_KINDS = {"run": ("step of a run", "steps of a run"), "ranks": ("rank", "ranks")}


def heading(several: SeveralCheckpointsError) -> str:
    """How many there are, and what they are together."""
    words = _KINDS.get(several.kind, ("checkpoint", "checkpoints"))
    return f"{brief(several.path)}: {counted(len(several.found), *words)}"


def grid(several: SeveralCheckpointsError, *, show_all: bool) -> Grid:
    """A row for each checkpoint, or for the first of them."""
    found = several.found if show_all else several.found[:MOST_ROWS]
    return Grid(
        ("path", "step", "layout", "files", "size"),
        (False, True, False, True, True),
        tuple(Row(_cells(one), "plain" if one.layout else "alarming") for one in found),
    )


def left_out(several: SeveralCheckpointsError, *, show_all: bool) -> int:
    """How many of them the grid does not show."""
    return 0 if show_all else max(len(several.found) - MOST_ROWS, 0)


def picking(several: SeveralCheckpointsError) -> str:
    """The line that picks one: the last, which is what is mostly meant."""
    readable = [one for one in several.found if one.layout is not None] or several.found
    return f"gradtool inspect {shlex.quote(brief(readable[-1].path))}"


def _cells(one: FoundCheckpoint) -> tuple[str, ...]:
    return (
        brief(one.path),
        "-" if one.step is None else str(one.step),
        one.layout or "cannot be read",
        str(one.files) if one.files else "-",
        byte_size(one.nbytes) if one.files else "-",
    )
