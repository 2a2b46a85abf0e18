"""Lists of checkpoints as RFC 4180 CSV, a row for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from gradtool.errors import SeveralCheckpointsError
from gradtool.report.inspect.csv import literal
from gradtool.report.model import Picking, Style

HEADER: Final = ("path", "step", "layout", "files", "bytes")


def render(
    lists: Sequence[SeveralCheckpointsError],
    style: Style,  # noqa: ARG001
    picking: Picking,  # noqa: ARG001
) -> str:
    """The checkpoints of all lists under one header."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    for several in lists:
        for one in several.found:
            step = "" if one.step is None else one.step
            writer.writerow([literal(one.path), step, one.layout or "", one.files, one.nbytes])
    return out.getvalue()
