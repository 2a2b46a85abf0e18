"""`gradtool rules` and `gradtool explain`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from gradtool.cli.console import write_result
from gradtool.cli.options import groups
from gradtool.cli.options.command import command
from gradtool.cli.options.values import completing_explained
from gradtool.cli.spelling import with_options

if TYPE_CHECKING:
    from gradtool.core.judging.rule import Explained

EPILOG = """\
\b
Examples:
  gradtool rules
  gradtool explain GT203
  gradtool explain nan inf
  gradtool explain transposed
"""

Codes: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="RULE...",
        autocompletion=completing_explained,
        help="Codes or names, such as GT101 or nan.",
    ),
]


@command
def rules(*, display: groups.ColorOption) -> None:
    """List the rules of `gradtool check`, and what each finds.

    `gradtool explain` knows those of `gradtool diff` too, which say why dumps differ.
    """
    from gradtool.report.check.rule_text import listing  # noqa: PLC0415 - loads rich, which is slow to
    from gradtool.rules import RULES  # noqa: PLC0415 - not for --help

    write_result(listing(tuple(RULES.values()), display.style()))


@command
def explain(*, codes: Codes, display: groups.ColorOption) -> None:
    """Explain rules of `check` and `diff`: what a finding means, and what to do."""
    import gradtool.cli.commands.check  # noqa: PLC0415 - registers the options that texts name
    import gradtool.cli.commands.diff  # noqa: F401, PLC0415 - as above
    from gradtool.report.check.rule_text import explanation  # noqa: PLC0415 - as above
    from gradtool.rules.diagnosing import find_explained  # noqa: PLC0415 - as above

    named = [_with_options(find_explained(code)) for code in codes]
    write_result("\n".join(explanation(rule, display.style()) for rule in named))


def _with_options(rule: Explained) -> Explained:
    """The rule, its texts naming options instead of the library's arguments."""
    return replace(
        rule,
        explanation=with_options(rule.explanation),
        rationale=with_options(rule.rationale),
        remedy=with_options(rule.remedy),
    )
