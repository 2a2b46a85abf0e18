"""Results of commands as text, one folder for each command; nothing here computes a figure."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from gradtool.report.model import (
    CheckReporter,
    ClipReporter,
    DiffReporter,
    FormatsReporter,
    ListingReporter,
    Reporter,
    TrendReporter,
)

REPORTERS: Final = {
    "table": "gradtool.report.inspect.table",
    "json": "gradtool.report.inspect.json",
    "csv": "gradtool.report.inspect.csv",
    "markdown": "gradtool.report.inspect.markdown",
}
"""Every report format that `inspect --format` knows, and the module that renders it."""

CLIP_REPORTERS: Final = {
    "table": "gradtool.report.clip.table",
    "json": "gradtool.report.clip.json",
}
"""The same for `clip --format`."""

CHECK_REPORTERS: Final = {
    "text": "gradtool.report.check.text",
    "json": "gradtool.report.check.json",
    "junit": "gradtool.report.check.junit",
    "github": "gradtool.report.check.github",
    "markdown": "gradtool.report.check.markdown",
}
"""The same for `check --format`."""

DIFF_REPORTERS: Final = {
    "table": "gradtool.report.diff.table",
    "json": "gradtool.report.diff.json",
    "csv": "gradtool.report.diff.csv",
    "markdown": "gradtool.report.diff.markdown",
    "github": "gradtool.report.diff.github",
    "junit": "gradtool.report.diff.junit",
    "html": "gradtool.report.diff.html",
}
"""The same for `diff --format`."""

TREND_REPORTERS: Final = {
    "table": "gradtool.report.trend.table",
    "json": "gradtool.report.trend.json",
    "csv": "gradtool.report.trend.csv",
    "markdown": "gradtool.report.trend.markdown",
    "html": "gradtool.report.trend.html",
}
"""The same for `trend --format`."""

LISTING_REPORTERS: Final = {
    "table": "gradtool.report.listing.table",
    "json": "gradtool.report.listing.json",
    "csv": "gradtool.report.listing.csv",
    "markdown": "gradtool.report.listing.markdown",
}
"""The same for the list of checkpoints that a path holds, in the formats of all that list it."""

FORMATS_REPORTERS: Final = {
    "table": "gradtool.report.formats.table",
    "json": "gradtool.report.formats.json",
    "csv": "gradtool.report.formats.csv",
    "markdown": "gradtool.report.formats.markdown",
}
"""The same for `formats --format`."""


def reporter(name: str) -> Reporter:
    """The function that renders measurements in format `name`, loaded only now: rich is slow."""
    return cast(Reporter, import_module(REPORTERS[name]).render)


def clip_reporter(name: str) -> ClipReporter:
    """The function that renders the outcome of `clip` in format `name`."""
    return cast(ClipReporter, import_module(CLIP_REPORTERS[name]).render)


def check_reporter(name: str) -> CheckReporter:
    """The function that renders the outcome of `check` in format `name`."""
    return cast(CheckReporter, import_module(CHECK_REPORTERS[name]).render)


def diff_reporter(name: str) -> DiffReporter:
    """The function that renders the outcome of `diff` in format `name`."""
    return cast(DiffReporter, import_module(DIFF_REPORTERS[name]).render)


def trend_reporter(name: str) -> TrendReporter:
    """The function that renders the outcome of `trend` in format `name`."""
    return cast(TrendReporter, import_module(TREND_REPORTERS[name]).render)


def listing_reporter(name: str) -> ListingReporter:
    """The function that renders lists of checkpoints in format `name`."""
    return cast(ListingReporter, import_module(LISTING_REPORTERS[name]).render)


def formats_reporter(name: str) -> FormatsReporter:
    """The function that renders what `formats` lists in format `name`."""
    return cast(FormatsReporter, import_module(FORMATS_REPORTERS[name]).render)
