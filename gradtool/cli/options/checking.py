"""The options that say how to judge, as arguments for `gradtool.check`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import typer

from gradtool.cli.options import values
from gradtool.cli.options.command import Group, Row, in_panel
from gradtool.cli.options.groups import Arguments
from gradtool.cli.options.help import JUDGING
from gradtool.cli.spelling import THRESHOLDS
from gradtool.core.judging.rule import Severity
from gradtool.errors import UsageError

_ROWS: Final = (
    Row(
        "select",
        list[str] | None,
        typer.Option(
            None,
            "--select",
            metavar="RULES",
            autocompletion=values.completing_rules,
            help="Only these rules: GT101 or nan, or GT1 for all GT1xx.",
        ),
    ),
    Row(
        "ignore",
        list[str] | None,
        typer.Option(
            None,
            "--ignore",
            metavar="RULES",
            autocompletion=values.completing_rules,
            help="Not these rules.",
        ),
    ),
    Row(
        "thresholds",
        list[str] | None,
        typer.Option(
            None,
            "--set",
            metavar="CODE.NAME=VALUE",
            help="A threshold: GT203.max_norm=50. Repeatable.",
        ),
    ),
    Row(
        "fail_on",
        Severity | None,
        typer.Option(
            None, "--fail-on", help="The least severity that fails.", show_default="error"
        ),
    ),
    Row(
        "min_tensors",
        int | None,
        typer.Option(
            None, "--min-tensors", metavar="N", min=1, help="Expect at least N gradients (GT006)."
        ),
    ),
    Row(
        "expect",
        list[str] | None,
        typer.Option(None, "--expect", metavar="GLOB", help="Expect a gradient so named (GT007)."),
    ),
    Row(
        "expect_norm",
        float | None,
        typer.Option(
            None,
            "--expect-norm",
            metavar="X",
            callback=values.expected_norm,
            help="Expect this total norm (GT401).",
        ),
    ),
    Row(
        "expect_zero",
        list[str] | None,
        typer.Option(
            None,
            "--expect-zero",
            metavar="GLOB[i]",
            help="Expect such gradients, or their row i or rows i:j, to be 0 (GT410); repeatable.",
        ),
    ),
    Row(
        "rtol",
        float | None,
        typer.Option(
            None,
            "--rtol",
            metavar="R",
            callback=values.tolerance,
            help="Relative tolerance of --expect-norm, --against and --baseline: GT401.rtol, "
            "GT411.rtol; 1 + R is the factor of GT402 and GT403.",
        ),
    ),
    Row(
        "max_consecutive",
        int | None,
        typer.Option(
            None,
            "--max-consecutive-nonfinite",
            metavar="N",
            min=0,
            help="Up to N non-finite steps in a row are warnings (GT103).",
        ),
    ),
)


def _judging(
    *,
    select: Sequence[str] | None,
    ignore: Sequence[str] | None,
    thresholds: Sequence[str] | None,
    fail_on: Severity | None,
    rtol: float | None,
    **single_thresholds: object,
) -> Arguments:
    """Arguments for `gradtool.check`; those of `single_thresholds` each set one threshold."""
    assigned = _assignments(thresholds or ())
    for key, parameter in THRESHOLDS.items():
        if (value := single_thresholds[parameter]) is not None:
            if key in assigned:
                raise UsageError(f"--set {key}: an option of its own sets it too")
            assigned[key] = value
    return {
        "select": _codes(select),
        "ignore": _codes(ignore) or (),
        "thresholds": assigned,
        "fail_on": fail_on,
        "rtol": rtol,
    }


Judging: TypeAlias = Annotated[Arguments, Group(in_panel(JUDGING, *_ROWS), _judging)]


def _assignments(texts: Sequence[str]) -> dict[str, object]:
    """Thresholds by CODE.NAME from texts CODE.NAME=VALUE, each value in TOML or a bare word."""
    assigned: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r}: give CODE.NAME=VALUE, as GT203.max_norm=50")
        if key in assigned:
            raise UsageError(f"--set {key} is given twice")
        assigned[key] = _value(value)
    return assigned


def _value(text: str) -> object:
    try:
        return float(text) if text.startswith(".") else _toml(text)
    except (ValueError, RecursionError):
        return text


def _toml(text: str) -> object:
    table = tomllib.loads(f"value = {text}")
    return table["value"] if len(table) == 1 else text


def _codes(texts: Sequence[str] | None) -> list[str] | None:
    """The codes of a repeatable option that takes several with commas between."""
    if texts is None:
        return None
    return [code.strip() for text in texts for code in text.split(",")]
