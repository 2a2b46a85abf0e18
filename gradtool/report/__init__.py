"""Measurements as text; nothing here computes a figure."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from gradtool.report.model import ClipReporter, Reporter

REPORTERS: Final = {
    "table": "gradtool.report.table",
    "json": "gradtool.report.json",
    "csv": "gradtool.report.csv",
    "markdown": "gradtool.report.markdown",
}
"""Every report format that `inspect --format` knows, and the module that renders it."""

CLIP_REPORTERS: Final = {
    "table": "gradtool.report.clip_table",
    "json": "gradtool.report.clip_json",
}
"""The same for `clip --format`."""


def reporter(name: str) -> Reporter:
    """The function that renders format `name`, its module loaded only now: rich is slow to."""
    return cast(Reporter, import_module(REPORTERS[name]).render)


def clip_reporter(name: str) -> ClipReporter:
    """The function that renders what clipping did in format `name`."""
    return cast(ClipReporter, import_module(CLIP_REPORTERS[name]).render)
