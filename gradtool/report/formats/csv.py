"""The formats as RFC 4180 CSV, a row for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from gradtool.report.inspect.csv import literal
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.formats.known import KnownFormat

HEADER: Final = ("name", "kind", "about", "markers", "suffixes", "reads", "clips", "extra")


def render(known: Sequence[KnownFormat], style: Style) -> str:  # noqa: ARG001
    """All formats; several markers or suffixes are one text."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    writer.writerows(map(_row, known))
    return out.getvalue()


def _row(one: KnownFormat) -> Iterator[str]:
    about = one.about
    yield literal(one.name)
    yield one.kind
    yield literal(about.words)
    yield literal(", ".join(about.markers))
    yield literal(" ".join(one.suffixes))
    yield "yes" if about.reads else "no"
    yield "yes" if about.clips else "no"
    yield literal(about.extra or "")
