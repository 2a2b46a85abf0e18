"""What each command's reporters are held to: a sample of what they are given, and its figures.

A sample has a word such as `qpath1q` in every place that takes a text from a file or a user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

from gradtool import report
from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.comparing.difference import (
    Conclusion,
    Difference,
    DumpSide,
    TensorDifference,
)
from gradtool.core.comparing.distance import Distance, Largest, Products, Sample
from gradtool.core.comparing.others import OtherDifference
from gradtool.core.comparing.roll_up import by_section
from gradtool.core.comparing.sums import ScaledSum
from gradtool.core.comparing.tolerance import EXACT
from gradtool.core.judging.policy import Override
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.core.judging.weights import Weight
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.tensors import Skipped
from gradtool.core.trends.steps import Step, parts_of
from gradtool.core.trends.trend import Conclusion as TrendConclusion
from gradtool.core.trends.trend import Run, Trend
from gradtool.errors import FoundCheckpoint, SeveralCheckpointsError
from gradtool.formats.about import About
from gradtool.formats.known import KnownFormat
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.model import InspectReport, Picking, Style, TrendReport
from reports.samples import (
    PLAIN,
    Figures,
    clip_of,
    finding,
    measurement_of,
    outcome_of,
    policy_of,
    tensor,
    unreadable,
)

WORD = re.compile(r"q([a-z]+)\d+q")
"""A word of a sample, and the role that it has."""

Three = tuple[Figures, Figures, Figures]
SOME = (PLAIN, Figures(3.0, 1.25, nan=12345), Figures(2.0, 0.75, posinf=2, neginf=1))
"""Figures of a tensor of finite elements, of one with NaN and of one with infinities."""

SKIPPED = (
    Skipped("qskipped1q", "qdtype1q-type", "qreason1q"),
    Skipped("qskipped2q", "qdtype1q-type", "qreason1q"),
)


class Command:
    """A command.

    Attributes:
        table: its reporters, by format.
        left_out: roles of words that a format does not show.
        beside_others: roles of words on one line with others: of a long one one end is shown.
        cut: roles of words that a format for programs cuts where they are long.
        figure_places: where other numbers are than the format's class says, as patterns.
        digits: how many of a norm, where they are others.
    """

    table: ClassVar[Mapping[str, str]]
    left_out: ClassVar[Mapping[str, set[str]]] = {}
    beside_others: ClassVar[set[str]] = set()
    cut: ClassVar[Mapping[str, set[str]]] = {}
    figure_places: ClassVar[Mapping[str, str]] = {}
    digits: ClassVar[Mapping[str, int]] = {}

    def render(self, name: str, made: Any, style: Style) -> str:
        """The report in the format so named."""
        raise NotImplementedError

    def sample(self, figures: Three = SOME) -> Any:
        """What is reported, with a word in every place for a text."""
        raise NotImplementedError

    def of_many(self, names: Sequence[str]) -> Any:
        """A report on as many tensors."""
        raise NotImplementedError

    def figures(self, made: Any) -> dict[str, float | None]:
        """All numbers that a format may promise, by place."""
        raise NotImplementedError


class Inspect(Command):
    table = report.REPORTERS
    left_out: ClassVar = {"csv": {"skipped", "dtype", "reason", "note", "group"}}
    beside_others: ClassVar = {"alias", "dtype", "reason"}

    def render(self, name: str, made: Sequence[InspectReport], style: Style) -> str:
        return report.reporter(name)(made, style)

    def sample(self, figures: Three = SOME) -> Sequence[InspectReport]:
        whole = measurement_of(
            tensor("qtensor1q", figures[0], section="qsection1q"),
            tensor("qtensor2q", figures[1], section="qsection1q"),
            tensor("qalias1q", figures[0], section="qsection1q", alias_of="qtensor1q"),
            tensor("qtensor3q", figures[2], section="other"),
            path="qpath1q.pt",
            skipped=SKIPPED,
            notes=("qnote1q",),
            in_model_order=True,  # or names would move lines
        )
        group = replace(whole.sections[0], name="qgroup1q")
        # Where sections hold different things there is no total, and diagnoses name the section.
        mixed = measurement_of(
            tensor("qtensor4q", Figures(1e10, 6e4), section="qsection2q", dtype="F16"),
            tensor("qtensor5q", section="model"),
            path="qpath2q.pt",
            in_model_order=True,
        )
        grads, model = mixed.sections
        mixed = replace(mixed, total=None, sections=(grads, replace(model, kind="weights")))
        first = replace(report_on(whole, order="file", max_norm=1.0), groups=(group,))
        return first, report_on(mixed, order="file", max_norm=1.0)

    def of_many(self, names: Sequence[str]) -> Sequence[InspectReport]:
        return (report_on(measurement_of(*map(tensor, names)), order="file"),)

    def figures(self, made: Sequence[InspectReport]) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for number, one in enumerate(made):
            measurement = one.measurement
            for at, row in enumerate(one.rows):
                found |= _of_tensor(f"tensors/{number}/{at}", row)
            for at, section in enumerate(measurement.sections):
                found |= _of_summary(f"sections/{number}/{at}", section)
            for at, group in enumerate(one.groups):
                found |= _of_summary(f"groups/{number}/{at}", group)
            if measurement.total is not None:
                found |= _of_summary(f"total/{number}", measurement.total)
            if one.clip is not None:
                found[f"clip/{number}/clip_coef"] = one.clip.clip_coef
        return found


class Clip(Command):
    table = report.CLIP_REPORTERS
    left_out: ClassVar = {
        "json": {"tensor", "alias", "skipped", "dtype", "reason"},
    }
    beside_others: ClassVar = {"dtype", "reason"}
    figure_places: ClassVar = {"json": "(?!tensors/)", "table": "tensors/"}

    def render(self, name: str, made: ClipOutcome, style: Style) -> str:
        return report.clip_reporter(name)(made, style)

    def sample(self, figures: Three = SOME) -> ClipOutcome:
        before, after = (self._measured(some) for some in (figures, (PLAIN,) * 3))
        return clip_of(before, after, output="qoutput1q", note="qnote1q")

    def _measured(self, figures: Three) -> Measurement:
        return measurement_of(
            tensor("qtensor1q", figures[0]),
            tensor("qtensor2q", figures[1]),
            tensor("qalias1q", figures[0], alias_of="qtensor1q"),
            tensor("qtensor3q", figures[2]),
            path="qpath1q.pt",
            skipped=SKIPPED,
        )

    def of_many(self, names: Sequence[str]) -> ClipOutcome:
        measured = measurement_of(*map(tensor, names))
        return clip_of(measured, measured, "out", "a note")

    def figures(self, made: ClipOutcome) -> dict[str, float | None]:
        """Rows of a table are those of the largest tensors first."""
        after = {one.name: one for one in made.after.tensors} if made.after else {}
        rows = sorted(made.before.tensors, key=lambda one: -one.finite_norm)
        found: dict[str, float | None] = {
            key: getattr(made, key)
            for key in ("norm_before", "norm_after", "finite_norm_before", "finite_norm_after")
        }
        for at, row in enumerate(rows):
            found[f"tensors/0/{at}/finite_norm"] = row.finite_norm
            found[f"tensors/0/{at}/finite_norm_after"] = after[row.name].finite_norm
        return found


class Check(Command):
    table = report.CHECK_REPORTERS
    left_out: ClassVar = {
        "github": {
            "healthy",
            "remark",
            "baseline",
            "include",
            "exclude",
            "section",
            "config",
            "pattern",
            "glob",
        },
    }
    beside_others: ClassVar = {"include"}
    cut: ClassVar = {"junit": {"include", "exclude", "section"}}
    figure_places: ClassVar = {"json": "(?!verdict/)", "markdown": "verdict/"}
    digits: ClassVar = {"markdown": 12}

    def render(self, name: str, made: CheckOutcome, style: Style) -> str:
        return report.check_reporter(name)(made, style)

    def sample(self, figures: Three = SOME) -> CheckOutcome:
        dumps = [
            ("qpath1q.pt", [
                finding("GT101", "qtensor1q", message="qmessage1q", value=figures[1].max_abs),
                finding("GT205", "qtensor2q", "warning", "qmessage2q", value=figures[2].power_sum),
            ]),
            ("qhealthy1q.pt", []),
        ]  # fmt: skip
        policy = policy_of(GT007_names=["qglob1q"])
        override = Override(("qpattern1q",), frozenset(["GT204", "GT205", "GT206"]))
        made = outcome_of(
            dumps,
            together=(finding("GT103", None, message="qmessage3q"),),
            policy=replace(policy, config="qconfig1q", overrides=(override,)),
            notes=("qnote1q",),
            figures=figures[0],
        )
        broken = unreadable("qpath3q.pt", "qmessage4q", "qtensor3q", "qfile1q")
        remarked = replace(made.verdicts[1], notes=("qremark1q",))
        return replace(
            made,
            verdicts=(made.verdicts[0], remarked, broken),
            baseline="qbaseline1q",
            include=("qinclude1q", "qinclude2q"),
            exclude=("qexclude1q",),
            section="qsection1q",
        )

    def of_many(self, names: Sequence[str]) -> CheckOutcome:
        return outcome_of([("a.pt", [finding("GT101", name) for name in names])])

    def figures(self, made: CheckOutcome) -> dict[str, float | None]:
        """Rows of a table of verdicts are those of the dumps that failed first."""
        found: dict[str, float | None] = {}
        for at, verdict in enumerate(made.verdicts):
            if verdict.summary is not None:
                found |= _of_summary(f"dumps/{at}/total", verdict.summary)
            for number, one in enumerate(verdict.findings):
                found[f"dumps/{at}/findings/{number}/value"] = one.value
                found[f"dumps/{at}/findings/{number}/limit"] = one.limit
        for row, verdict in enumerate(sorted(made.verdicts, key=lambda one: not one.failed)):
            if verdict.summary is not None:
                found[f"verdict/0/{row}/norm"] = verdict.summary.norm
        return found


class Diff(Command):
    """Two dumps; numbers are those of their pairs, in the order of the first."""

    table = report.DIFF_REPORTERS
    left_out: ClassVar = {
        "csv": {"path", "note", "text", "other"},
        "github": {"section"},
    }
    beside_others: ClassVar = {"alone", "other"}
    figure_places: ClassVar = {
        "json": "(tensors|sections)/[0-9]+/([a-z_][a-z_0-9]*|a/norm)$",
        "csv": "rows/",
        "table": "(tensors|sections)/0/[0-9]+/(rel L2|cosine|max .b-a.)$",
        "markdown": "(tensors|sections)/0/[0-9]+/(rel L2|cosine|max .b-a.)$",
        "html": "(tensors|sections)/0/[0-9]+/(rel L2|cosine|max .b-a.)$",
    }

    def render(self, name: str, made: Difference, style: Style) -> str:
        return report.diff_reporter(name)(made, style)

    def sample(self, figures: Three = SOME) -> Difference:
        pairs = [
            _pair(f"qtensor{at}q", one, figures[0], section="other" if at == 3 else "qsection1q")
            for at, one in enumerate(figures, 1)
        ]
        text = Conclusion("GT999", "a-name", "qtext1q", ("qtensor1q",))
        return _difference(
            (replace(pairs[0], distance=None), *pairs[1:]),
            others=(OtherDifference("qother1q", "", pairs[0].a, pairs[0].b, 3, (0, 1)),),
            only_in_a=("qalone1q",),
            only_in_b=("qalone2q",),
            diagnosis=(text,),
            notes=("qnote1q",),
        )

    def of_many(self, names: Sequence[str]) -> Difference:
        return _difference(tuple(_pair(name, PLAIN, PLAIN) for name in names))

    def figures(self, made: Difference) -> dict[str, float | None]:
        names = ("rel_l2", "cosine", "norm_ratio", "best_scale", "max_abs_diff", "differing")
        shown = {"rel_l2": "rel L2", "cosine": "cosine", "max_abs_diff": "max |b-a|"}
        found: dict[str, float | None] = {}
        of_sections = ("rel_l2", "cosine", "norm_ratio", "max_abs_diff")
        for at, section in enumerate(by_section(made.tensors)):
            found |= {f"sections/{at}/{name}": getattr(section, name) for name in of_sections}
            for name, header in shown.items():
                found[f"sections/0/{at}/{header}"] = getattr(section, name)
        for at, one in enumerate(made.tensors):
            found |= {f"tensors/{at}/{name}": getattr(one, name) for name in names}
            found |= {f"rows/{at}/{name}": getattr(one, name) for name in names}
            for name, header in shown.items():
                found[f"tensors/0/{at}/{header}"] = getattr(one, name)
            if one.stats is not None:
                found[f"rows/{at}/a_norm"] = found[f"tensors/{at}/a/norm"] = one.stats[0].norm
        return found


def _pair(name: str, figures: Figures, of_a: Figures, section: str = "") -> TensorDifference:
    """Two tensors of ten elements; `figures` are of what is between them."""
    one, other = (tensor(name, some, section=section) for some in (of_a, figures))
    aa, dd = ScaledSum(of_a.power_sum), ScaledSum(figures.power_sum)
    distance = Distance(
        10,
        one.stats,
        other.stats,
        Products(aa, dd, aa.times(0.5), dd),
        differing=7,
        samples=(Sample(3, 1.5, -0.25, 9),),
        largest=Largest(figures.max_abs, 4, 1.0, 2.0),
    )
    return TensorDifference(one.spec, other.spec, distance, EXACT)


def _difference(tensors: tuple[TensorDifference, ...], **other: Any) -> Difference:
    a, b = (DumpSide(f"qpath{at}q.pt", "safetensors", ("file",), 999, 1.0, None) for at in (1, 2))
    none: dict[str, Any] = dict.fromkeys(
        ("others", "only_in_a", "only_in_b", "diagnosis", "notes"), ()
    )
    return Difference(
        a,
        b,
        tensors,
        in_model_order=True,
        tolerance=EXACT,
        backend="numpy",
        elapsed_s=0.5,
        **(none | other),
    )


class Trends(Command):
    """A run of three steps; numbers are those of the steps."""

    table = report.TREND_REPORTERS
    left_out: ClassVar = {
        "table": {"culprit", "baseline"},
        "markdown": {"culprit", "baseline"},
        "html": {"culprit", "baseline"},
        "csv": {
            *("message", "text", "note", "remark", "file", "tensor"),
            *("baseline", "culprit", "part", "group"),
        },
    }
    beside_others: ClassVar = {"top", "dump"}
    figure_places: ClassVar = {
        "json": "steps/[0-9]+/[a-z_]+$",
        "csv": "rows/",
        "table": "steps/0/[0-9]+/(norm|max_abs)$",
        "markdown": "steps/0/[0-9]+/(norm|max_abs)$",
        "html": "steps/0/[0-9]+/(norm|max_abs)$",
    }

    def render(self, name: str, made: TrendReport, style: Style) -> str:
        return report.trend_reporter(name)(made, style)

    def sample(self, figures: Three = SOME) -> TrendReport:
        found = [
            finding("GT101", "qtensor1q", message="qmessage1q"),
            finding("GT205", "qtensor2q", "warning", "qmessage2q"),
        ]
        made = outcome_of([("qpath1q.pt", found)], figures=figures[0])
        other = outcome_of([("qdump1q.pt", [])], figures=figures[1])
        first = Step(
            replace(made.verdicts[0], notes=("qremark1q",), heaviest=(Weight("qtop1q", 0.25),)),
            tensors=parts_of([("qpart1q", tensor("w", figures[1]).stats)], None),
            groups=parts_of([("qgroup1q", tensor("w", figures[2]).stats)], None),
        )
        weights = (Weight("qtop2q", None),)
        second = Step(replace(other.verdicts[0], step=None, heaviest=weights))
        broken = unreadable("qpath2q.pt", "qmessage4q", "qtensor3q", "qfile1q")
        third = Step(replace(broken, step=8))
        together = (finding("GT103", None, message="qmessage3q"),)
        conclusion = TrendConclusion("a-code", "qtext1q", 3, "qpath1q.pt", "qculprit1q")
        run = Run("qrun1q", (first, second, third), (conclusion,), together)
        trend = Trend((run,), policy_of(), "qbaseline1q", max_norm=1.0, notes=("qnote1q",))
        return TrendReport(trend)

    def of_many(self, names: Sequence[str]) -> TrendReport:
        verdicts = outcome_of([(name, []) for name in names]).verdicts
        steps = tuple(Step(replace(one, step=None)) for one in verdicts)
        return TrendReport(Trend((Run("run", steps),), policy_of()))

    def figures(self, made: TrendReport) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for at, step in enumerate(made.trend.steps):
            total = step.total
            if total is None:
                continue
            stats = total.stats
            shown = {"norm": total.norm, "max_abs": stats.max_abs}
            every = {
                "norm": total.norm,
                "finite_norm": total.finite_norm,
                "native_norm": total.native_norm,
                "clip_coef": made.trend.clip_coef(step),
                **{name: getattr(stats, name) for name in ("max_abs", "nan", "posinf", "neginf")},
            }
            found |= {f"steps/0/{at}/{name}": value for name, value in shown.items()}
            found |= {f"steps/{at}/{name}": value for name, value in every.items()}
            found |= {f"rows/{at}/{name}": value for name, value in every.items()}
        return found


@dataclass(frozen=True)
class ListMade:
    """What a list of checkpoints is made of: errors cannot be compared."""

    path: str
    kind: str
    found: tuple[FoundCheckpoint, ...]


class Listing(Command):
    """The list of the checkpoints that a path holds, for `inspect` and `clip`."""

    table = report.LISTING_REPORTERS
    left_out: ClassVar = {"csv": {"path"}}
    figure_places: ClassVar = {
        "json": "checkpoints/",
        "csv": "rows/",
        "table": "checkpoints/.*/(step|files)",
        "markdown": "checkpoints/.*/(step|files)",
    }

    def render(self, name: str, made: Sequence[ListMade], style: Style) -> str:
        lists = [SeveralCheckpointsError(one.path, one.kind, one.found) for one in made]
        return report.listing_reporter(name)(lists, style, Picking("read", "inspect"))

    def sample(self, figures: Three = SOME) -> Sequence[ListMade]:
        step, files, nbytes = (int(one.power_sum) % 10**9 for one in figures)
        run = (
            FoundCheckpoint("qtensor1q", 7, "safetensors", 1, 123456789),
            FoundCheckpoint("qpicked1q", step, "torch_dcp", 1 + files, nbytes),
            FoundCheckpoint("qtensor2q", None, None, 0, 0),
        )
        ranks = (FoundCheckpoint("qtensor3q", None, None, 1, 7),)
        ranks += (FoundCheckpoint("qpicked2q", 0, "npz", 1, 1234),)
        return ListMade("qpath1q", "run", run), ListMade("qpath2q", "ranks", ranks)

    def of_many(self, names: Sequence[str]) -> Sequence[ListMade]:
        # Only the first can be read, or a name that the table leaves out would be picked.
        found = tuple(
            FoundCheckpoint(name, None, None if at else "torch", 1, 9)
            for at, name in enumerate(names)
        )
        return (ListMade("run", "checkpoints", found),)

    def figures(self, made: Sequence[ListMade]) -> dict[str, float | None]:
        """By list and row, and for what has one table of all lists by row."""
        rows = [
            (f"checkpoints/{number}/{at}", row)
            for number, one in enumerate(made)
            for at, row in enumerate(one.found)
        ]
        rows += [(f"rows/{at}", row) for at, (_, row) in enumerate(rows)]
        return {
            f"{place}/{name}": number
            for place, row in rows
            for name, number in (("step", row.step), ("files", row.files), ("bytes", row.nbytes))
        }


class Formats(Command):
    """The list of formats, which has no number."""

    table = report.FORMATS_REPORTERS
    figure_places: ClassVar = dict.fromkeys(report.FORMATS_REPORTERS, "(?!)")

    def render(self, name: str, made: Sequence[KnownFormat], style: Style) -> str:
        return report.formats_reporter(name)(made, style)

    def sample(self, figures: Three = SOME) -> Sequence[KnownFormat]:  # noqa: ARG002
        about = About("qwords1q", ("qmarker1q", "qmarker2q"), clips=False, extra="qextra1q")
        other = About("qwords2q", ("qmarker3q",), reads=False, clips=False)
        return (
            KnownFormat("qtensor1q", "file", ("qsuffix1q",), about),
            KnownFormat("qtensor2q", "directory", (), other),
        )

    def of_many(self, names: Sequence[str]) -> Sequence[KnownFormat]:
        return tuple(KnownFormat(name, "set", (), About("words", ("*",))) for name in names)

    def figures(self, made: Sequence[KnownFormat]) -> dict[str, float | None]:  # noqa: ARG002
        return {}


COMMANDS: dict[str, Command] = {
    "inspect": Inspect(),
    "clip": Clip(),
    "check": Check(),
    "diff": Diff(),
    "trend": Trends(),
    "listing": Listing(),
    "formats": Formats(),
}


def _of_tensor(place: str, row: TensorMeasurement) -> dict[str, float | None]:
    names = ("norm", "finite_norm", "native_norm")
    return {f"{place}/{name}": getattr(row, name) for name in names} | _of_stats(place, row.stats)


def _of_summary(place: str, summary: Summary) -> dict[str, float | None]:
    names = ("norm", "finite_norm", "native_norm", "tensors")
    found = {f"{place}/{name}": getattr(summary, name) for name in names}
    return found | _of_stats(place, summary.stats)


def _of_stats(place: str, stats: Any) -> dict[str, float | None]:
    names = ("numel", "max_abs", "nan", "posinf", "neginf", "zeros")
    return {f"{place}/{name}": getattr(stats, name) for name in names}


def words_in(made: object) -> list[str]:
    """The words of a sample, all that `retold` finds."""
    return sorted({found[0] for text in _texts(made) for found in WORD.finditer(text)})


def _texts(made: Any) -> Iterator[str]:
    if isinstance(made, str):
        yield made
    elif is_dataclass(made) and not isinstance(made, type):
        for one in fields(made):
            yield from _texts(getattr(made, one.name))
    elif isinstance(made, dict):
        yield from _texts([*made.items()])
    elif isinstance(made, list | tuple | frozenset):
        for item in made:
            yield from _texts(item)
    else:
        yield repr(made)


def role(word: str) -> str:
    """What a word stands for: `path`, say."""
    return word.strip("q0123456789")


def retold(made: Any, texts: Mapping[str, str]) -> Any:
    """The same with other texts for words, wherever they stand."""
    if isinstance(made, str):
        return WORD.sub(lambda found: texts.get(found[0], found[0]), made)
    if is_dataclass(made) and not isinstance(made, type):
        values = {one.name: getattr(made, one.name) for one in fields(made) if one.init}
        changed = {name: new for name, old in values.items() if (new := retold(old, texts)) != old}
        return replace(made, **changed) if changed else made
    if isinstance(made, dict):
        return {retold(key, texts): retold(value, texts) for key, value in made.items()}
    if isinstance(made, tuple) and hasattr(made, "_fields"):
        return type(made)(*(retold(one, texts) for one in made))
    if isinstance(made, list | tuple | frozenset):
        return type(made)(retold(one, texts) for one in made)
    return made
