"""`gradtool rules` and `gradtool explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from gradtool.cli import console, options


def rules(color: options.ColorChoice = options.Color.AUTO) -> None:
    """List every rule of `gradtool check`: code, name, severity, and what it finds."""
    from gradtool.report.check.rule_text import listing  # noqa: PLC0415 - loads rich, which is slow to
    from gradtool.rules import RULES  # noqa: PLC0415 - not for --help

    style = console.style(color, None, quiet=False, show_all=True)
    console.write_result(listing(tuple(RULES.values()), style), None)


def explain(
    codes: Annotated[
        list[str], typer.Argument(metavar="CODE", help="Codes or names, such as GT101 or nan.")
    ],
    color: options.ColorChoice = options.Color.AUTO,
) -> None:
    """Explain rules: what a finding means, why the threshold, what to do."""
    from gradtool.report.check.rule_text import explanation  # noqa: PLC0415 - as above
    from gradtool.rules import find_rule  # noqa: PLC0415 - as above

    style = console.style(color, None, quiet=False, show_all=True)
    found = [find_rule(code) for code in codes]
    console.write_result("\n".join(explanation(rule, style) for rule in found), None)
