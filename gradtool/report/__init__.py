"""Measurements as text; nothing here computes a figure."""

from __future__ import annotations

from typing import Final

from gradtool.report import csv, json, markdown, table
from gradtool.report.model import Reporter

REPORTERS: Final[dict[str, Reporter]] = {
    "table": table.render,
    "json": json.render,
    "csv": csv.render,
    "markdown": markdown.render,
}
"""Every report format that `--format` knows."""
