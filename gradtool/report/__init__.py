"""Measurements as text; nothing here computes a figure."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from gradtool.report.model import CheckReporter, ClipReporter, Reporter

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

CHECK_REPORTERS: Final = {
    "text": "gradtool.report.check_text",
    "json": "gradtool.report.check_json",
    "junit": "gradtool.report.check_junit",
    "github": "gradtool.report.check_github",
    "markdown": "gradtool.report.check_markdown",
}
"""The same for `check --format`."""


def reporter(name: str) -> Reporter:
    """The function that renders format `name`, its module loaded only now: rich is slow to."""
    return cast(Reporter, import_module(REPORTERS[name]).render)


def clip_reporter(name: str) -> ClipReporter:
    """The function that renders what clipping did in format `name`."""
    return cast(ClipReporter, import_module(CLIP_REPORTERS[name]).render)


def check_reporter(name: str) -> CheckReporter:
    """The function that renders verdicts in format `name`."""
    return cast(CheckReporter, import_module(CHECK_REPORTERS[name]).render)
