"""`gradtool inspect`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli.console import Display
from gradtool.cli.options import groups
from gradtool.cli.options.command import command
from gradtool.cli.options.help import SHOWING
from gradtool.cli.paths import expand_all, for_each
from gradtool.cli.reports import Reports
from gradtool.cli.spelling import with_options
from gradtool.errors import RanksQuestionError, SeveralCheckpointsError, UsageError
from gradtool.report import REPORTERS, listing_reporter, reporter
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.model import InspectReport, Picking

if TYPE_CHECKING:  # it loads all readers, which --help does not need
    from gradtool.core.measurement import Measurement
    from gradtool.places import Place

EPILOG = """\
\b
Examples:
  gradtool inspect grads.safetensors
  gradtool inspect grads.pt --max-norm 1.0
  gradtool inspect run/ -g 'layers.*'
  gradtool inspect 'step_*.safetensors' -q
  gradtool inspect grads.npz -f json | jq '.reports[0].total.norm'
"""


Order: TypeAlias = Literal["model", "file", "name", "norm", "max", "nonfinite"]
"""The keys of `report.inspect.arrangement.ORDERS`."""

Sort: TypeAlias = Annotated[
    Order,
    typer.Option(
        "--sort",
        help=(
            "As the model has them, by name, with layer 9 before 10, as the file lists them, or "
            "the worst first. Where nothing tells the model's order it is that of names."
        ),
        rich_help_panel=SHOWING,
    ),
]
Top: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--top",
        metavar="N",
        min=1,
        help="List the first N tensors only, and rows.",
        rich_help_panel=SHOWING,
    ),
]
Clipping: TypeAlias = Annotated[
    groups.Arguments, groups.clipping_to(SHOWING, "Say what clipping to X would do.")
]
Digest: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--digest",
        help="A SHA-256 of each tensor's elements, the same however they are stored.",
        rich_help_panel=SHOWING,
    ),
]
Rms: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--rms",
        help="Show root mean squares too: norm / sqrt(elements).",
        rich_help_panel=SHOWING,
    ),
]
Rows: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--rows",
        metavar="GLOB",
        help="List the rows of such tensors too, of an embedding say, the largest first; "
        "repeatable. Not in csv.",
        rich_help_panel=SHOWING,
    ),
]
ReportOptions: TypeAlias = Annotated[Reports, groups.reports_in(REPORTERS)]
DisplayOptions: TypeAlias = Annotated[Display, groups.display(groups.ALL_TENSORS)]


@command
def inspect(
    *,
    paths: groups.Paths,
    clipping: Clipping,
    grouping: groups.Grouping,
    sort: Sort = "model",
    top: Top = None,
    digest: Digest = False,
    rms: Rms = False,
    rows: Rows = None,
    measuring: groups.Measuring,
    reports: ReportOptions,
    display: DisplayOptions,
) -> None:
    """Show how large gradients are, and where they broke.

    Exits 0 whatever the gradients are like, and 3 if a PATH could not be read.
    """
    if top is not None and display.show_all:
        raise UsageError("--top and --all exclude each other")
    if "max_norm" in clipping and measuring["norm_type"] <= 0.0:
        raise UsageError("--max-norm needs a --norm-type above 0: no scaling reaches a count")
    if rms and measuring["norm_type"] != 2.0:
        raise UsageError("--rms needs --norm-type 2: it is made of squares")
    reports.refuse_to_replace(expand_all(paths))

    from gradtool.places import places_among  # noqa: PLC0415 - not for --help

    measurer = _Measurer({**measuring, "digest": digest, "rows": rows or ()}, display)

    def report(place: Place) -> InspectReport:
        measurement = measurer.measure(place)
        return report_on(measurement, order=sort, top=top, group_by=grouping, rms=rms, **clipping)

    outcome = for_each(places_among(paths), report)
    if results := outcome.results:
        reports.refuse_to_replace(file for result in results for file in result.measurement.files)
        reports.write(lambda name, style: reporter(name)(results, style), display)
    elif outcome.several:
        picking = Picking("read", "inspect")
        reports.write(
            lambda name, style: listing_reporter(name)(outcome.several, style, picking), display
        )
    raise typer.Exit(outcome.exit_code)


@dataclass(slots=True)
class _Measurer:
    """Measures as was asked, and knows of ranks that stay apart why they do."""

    arguments: groups.Arguments
    display: Display
    questions: dict[str, str] = field(default_factory=dict)

    def measure(self, place: Place) -> Measurement:
        """The figures of a place.

        Of ranks that were named file by file, and that nothing tells to be pieces or copies, a
        SeveralCheckpointsError: they stay apart. What is open about a directory is an error.
        """
        try:
            measurement = self._measure(place)
        except RanksQuestionError as question:
            if not isinstance(place, str):
                self._set_apart(place, question)
            raise
        if isinstance(place, str) and place in self.questions:
            open_question = (self.questions[place],)
            return replace(
                measurement,
                notes=measurement.notes + open_question,
                essential_notes=measurement.essential_notes + open_question,
            )
        return measurement

    def _measure(self, place: Place, **changed: str) -> Measurement:
        from gradtool.places import label_of  # noqa: PLC0415 - not for --help

        with self.display.progress(label_of(place)) as progress:
            return gradtool.measure(place, **{**self.arguments, **changed}, progress=progress)

    def _set_apart(self, place: Place, question: RanksQuestionError) -> None:
        """SeveralCheckpointsError with the ranks, of which each gets the question as a note."""
        try:
            self._measure(place, ranks="each")
        except SeveralCheckpointsError as ranks:
            note = with_options(f"a rank by itself: {question}")
            self.questions |= {one.path: note for one in ranks.found}
            raise
