"""Measurements as text; nothing here computes a figure."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from gradtool.report.model import Reporter

REPORTERS: Final = {
    "table": "gradtool.report.table",
    "json": "gradtool.report.json",
    "csv": "gradtool.report.csv",
    "markdown": "gradtool.report.markdown",
}
"""Every report format that `--format` knows, and the module that renders it."""


def reporter(name: str) -> Reporter:
    """The function that renders format `name`, its module loaded only now: rich is slow to."""
    return cast(Reporter, import_module(REPORTERS[name]).render)
