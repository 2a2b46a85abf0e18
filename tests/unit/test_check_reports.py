"""Laws of the reports of `check`: what is in them, and what no name from a file can do to them."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import numpy as np
import pytest
import xmlschema
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors.numpy import save_file

import gradtool
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import Severity
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict
from gradtool.report import CHECK_REPORTERS, check_reporter
from gradtool.report.check.github import MOST
from gradtool.report.check.markdown import MOST_DUMPS
from gradtool.report.escaping import visible
from gradtool.report.model import Style
from gradtool.rules import RULES
from gradtool.rules.evidence import DumpRule
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings, read_call
from gradtool.shortening import LONGEST_LINE

SAMPLES = Path(__file__).parents[2] / "sample_ckpts"
JUNIT = xmlschema.XMLSchema(Path(__file__).parents[1] / "report_schemas" / "junit-10.xsd")
HOSTILE = [
    "::error::unique",
    "##[error]unique",
    "a\n::error file=x::unique\r\n::stop-commands::x",
    "%0A::error::unique",
    "a,title=b:c=d",
    "a|b`c`<b>&amp;*_[x](y)@me",
    "]]>&<![CDATA[",
    "</details>",
    "\x00\x08\x1b[31m\x7f\x85",
    "\u202e\u2028\ufffe\uffff\U0001fffe",
    "\ud800\udfff",
    "\udcff.pt",
    " ",
    "\t",
    "-f",
    "\\x00",
    "中é😀",
]
names = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=[]), min_size=1)
)


def schema(name: str) -> Any:
    return json.loads((files("gradtool.report") / "schemas" / name).read_text("utf-8"))


VALIDATOR = jsonschema.Draft202012Validator(schema("check-1.schema.json"))


def render(name: str, outcome: CheckOutcome) -> str:
    return check_reporter(name)(outcome, Style())


def strict_json(outcome: CheckOutcome) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(render("json", outcome), parse_constant=refuse)


def junit(outcome: CheckOutcome) -> ET.Element:
    text = render("junit", outcome)
    assert text.isascii()
    JUNIT.validate(text)
    root = ET.fromstring(text)  # noqa: S314 - our own text
    assert_ant_takes(root)
    return root


def assert_ant_takes(root: ET.Element) -> None:
    """What the schema of Ant's reports (windyroad's JUnit.xsd) asks for beyond Jenkins's."""
    assert root.attrib == {}
    for number, suite in enumerate(root):
        assert suite.attrib.keys() == {
            "name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors",
            "skipped", "time",
        }  # fmt: skip
        assert suite.get("id") == str(number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        assert suite.get("name", "").strip()
        assert float(suite.get("time", "")) >= 0.0
        kinds = [child.tag for child in suite]
        cases = kinds.count("testcase")
        assert kinds == ["properties", *["testcase"] * cases, "system-out", "system-err"]
        for case in suite.iter("testcase"):
            assert case.attrib.keys() == {"name", "classname", "time"}
            assert [child.tag for child in case] in ([], ["failure"], ["skipped"])
        for failure in suite.iter("failure"):
            assert failure.attrib.keys() == {"type", "message"}


def check(*samples: str, **options: Any) -> CheckOutcome:
    return gradtool.check(*(str(SAMPLES / name) for name in samples), **options)


ALL_SAMPLES = (
    "healthy.pt", "nonfinite.safetensors", "truncated.pt", "empty.safetensors", "sharded",
    "exploded.safetensors", "overflow_f16.safetensors", "training.pt", "nowhere.npz",
)  # fmt: skip


@pytest.fixture(scope="module")
def real() -> CheckOutcome:
    """Verdicts of all kinds: good, sick, and on what cannot be read."""
    outcome = check(*ALL_SAMPLES, fail_on="error")
    assert {verdict.exit_code for verdict in outcome.verdicts} == {0, 1, 3}
    return outcome


def policy_of(*, fail_on: Severity = "error", **thresholds: object) -> Policy:
    found = {key.replace("_", ".", 1): value for key, value in thresholds.items()}
    call = read_call(thresholds=found, fail_on=fail_on)
    return resolve(Settings(), call, has_baseline=False)


def finding(
    code: str, tensor: str | None = None, severity: Severity = "error", message: str = "is sick"
) -> Finding:
    return Finding(
        code, RULES[code].name, severity, message, tensor, value=math.nan, limit=-math.inf
    )


HEALTHY = check("healthy.npy").verdicts[0]


def outcome_of(
    dumps: Iterable[tuple[str, Iterable[Finding]]],
    *,
    together: tuple[Finding, ...] = (),
    policy: Policy | None = None,
    notes: tuple[str, ...] = (),
) -> CheckOutcome:
    """An outcome with such findings of dumps at such paths; all dumps could be read."""
    policy = policy or policy_of()
    verdicts = []
    for path, found in dumps:
        findings = tuple(found)
        failed = any(policy.fails(one.severity) for one in findings)
        verdicts.append(
            replace(HEALTHY, path=path, findings=findings, failed=failed, exit_code=int(failed))
        )
    return CheckOutcome(tuple(verdicts), together, policy, None, notes=notes)


def unreadable(path: str, message: str) -> Verdict:
    one = Finding("GT001", "unreadable", "error", message, tensor=path, file=path, byte=7)
    return Verdict(path, None, None, None, (one,), (), failed=True, exit_code=3, elapsed_s=0.0)


def hostile(path: str, tensor: str, message: str) -> CheckOutcome:
    """An outcome with the texts in every place that takes one from a file or from a user."""
    dumps = [
        (path, [finding("GT101", tensor, message=message), finding("GT205", tensor, "warning")]),
        (path, []),
    ]
    made = outcome_of(dumps, together=(finding("GT103", None, message=message),), notes=(path,))
    noted = replace(made.verdicts[1], notes=(message,))
    return replace(
        made,
        verdicts=(made.verdicts[0], noted, unreadable(path, message)),
        baseline=path,
        include=(path, tensor),
        exclude=(message,),
        section=tensor,
        policy=replace(made.policy, config=path),
    )


def commands_in(text: str) -> list[str]:
    """Lines that GitHub's runner obeys, blanks before them or not."""
    return [
        line for line in re.split("[\r\n]", text) if re.match(r"\s*::.*::", line) or "##[" in line
    ]


# --- JSON


def test_json_obeys_its_schema(real: CheckOutcome) -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    result = strict_json(real)
    VALIDATOR.validate(result)
    assert result["gradtool"] == gradtool.__version__
    assert (result["verdict"], result["exit_code"]) == ("fail", 3)
    assert [dump["path"] for dump in result["dumps"]] == [one.path for one in real.verdicts]
    healthy = strict_json(check("healthy.pt"))
    VALIDATOR.validate(healthy)
    assert (healthy["verdict"], healthy["exit_code"]) == ("pass", 0)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("verdict", "pass"),
        ("exit_code", 0),
        ("rules", []),
        ("dumps", [{}]),
        ("findings", None),
        ("norm_type", "NaN"),
        ("norm_type", None),
        ("include", "*.w"),
        ("exclude", [1]),
        ("section", 3),
        ("counts", {"dumps": -1}),
        ("elapsed_s", "NaN"),
    ],
)
def test_the_schema_refuses_what_reports_never_hold(
    real: CheckOutcome, key: str, wrong: object
) -> None:
    result = strict_json(real)
    assert VALIDATOR.is_valid({**result, "added": 1}), "fields may be added"
    assert not VALIDATOR.is_valid({**result, key: wrong})
    del result[key]
    assert not VALIDATOR.is_valid(result)


def test_totals_are_those_of_inspect() -> None:
    ours, theirs = (schema(f"{name}-1.schema.json")["$defs"] for name in ("check", "inspect"))
    assert ours["figures"] == theirs["figures"]


def test_json_holds_every_rule_and_every_threshold_in_force(tmp_path: Path) -> None:
    config = tmp_path / "gradtool.toml"
    config.write_text(
        '[[check.overrides]]\npattern = ["embed.*", "*.bias"]\nignore = ["GT205"]\n'
        "GT204 = { max_norm = inf }\n"
    )
    outcome = check("healthy.pt", config=config, thresholds={"GT007.names": ["a*"]}, ignore=["GT3"])
    result = strict_json(outcome)
    VALIDATOR.validate(result)
    rules = {one["code"]: one for one in result["rules"]}
    assert list(rules) == list(outcome.policy.rules)
    for code, in_force in outcome.policy.rules.items():
        assert rules[code]["severity"] == in_force.severity
        assert rules[code]["thresholds"].keys() == in_force.thresholds.keys()
    assert rules["GT007"]["thresholds"] == {"names": ["a*"]}
    assert rules["GT204"]["thresholds"] == {"min_norm": None, "max_norm": None}
    (override,) = result["overrides"]
    assert override["patterns"] == ["embed.*", "*.bias"]
    assert override["ignore"] == ["GT205"]
    assert override["thresholds"] == {"GT204": {"max_norm": "Infinity"}}


def test_json_counts_findings(real: CheckOutcome) -> None:
    result = strict_json(real)
    found = [one for dump in result["dumps"] for one in dump["findings"]] + result["findings"]
    counts = Counter(one["severity"] for one in found)
    assert result["counts"] == {
        "dumps": len(ALL_SAMPLES),
        "failed": sum(dump["verdict"] == "fail" for dump in result["dumps"]),
        "errors": counts["error"],
        "warnings": counts["warning"],
    }


@given(names, names, names)
def test_json_keeps_every_text_exactly(path: str, tensor: str, message: str) -> None:
    result = strict_json(hostile(path, tensor, message))
    first, _, broken = result["dumps"]
    path, tensor, message = map(paired, (path, tensor, message))
    assert (first["path"], broken["findings"][0]["file"]) == (path, path)
    assert [one["tensor"] for one in first["findings"]] == [tensor, tensor]
    assert first["findings"][0]["message"] == message
    (streak,) = result["findings"]
    assert (streak["value"], streak["limit"]) == ("NaN", "-Infinity")
    assert (result["include"], result["exclude"]) == ([path, tensor], [message])
    assert result["section"] == tensor


def paired(text: str) -> str:
    """`text` as JSON can hold it, in which two halves of a character are that character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


# --- JUnit


def cases(suite: ET.Element) -> dict[str, ET.Element]:
    found = {case.get("name", ""): case for case in suite.iter("testcase")}
    assert len(found) == len(suite.findall("testcase"))
    return found


def test_junit_has_a_case_for_each_dump_and_rule_in_force(real: CheckOutcome) -> None:
    *suites, together = junit(real)
    judging = [
        f"{code} {rule.rule.name}"
        for code, rule in real.policy.rules.items()
        if isinstance(rule.rule, DumpRule)
    ]
    assert [suite.get("name") for suite in suites] == [one.path for one in real.verdicts]
    assert all(list(cases(suite)) == judging for suite in suites)
    assert (together.get("name"), list(cases(together))) == (
        "all dumps",
        ["GT103 nonfinite-streak"],
    )


def test_a_rule_judges_dumps_together_or_one_by_one() -> None:
    assert all(rule.together != isinstance(rule, DumpRule) for rule in RULES.values())


def test_junit_has_a_failure_where_a_rule_failed_a_dump_and_nowhere_else(
    real: CheckOutcome,
) -> None:
    for suite, verdict in zip(junit(real), real.verdicts, strict=False):
        failing = {f"{one.code} {one.name}" for one in verdict.findings if one.severity == "error"}
        failed = {name for name, case in cases(suite).items() if case.find("failure") is not None}
        assert failed == failing
        assert bool(failed) == (verdict.exit_code != 0)


def test_junit_counts_are_true(real: CheckOutcome) -> None:
    for suite in junit(real):
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))
        assert suite.get("errors") == "0"


def test_a_dump_that_was_not_judged_passes_no_case(real: CheckOutcome) -> None:
    seen = 0
    for suite, verdict in zip(junit(real), real.verdicts, strict=False):
        if verdict.summary is None:
            seen += 1
            assert all(len(case) == 1 for case in cases(suite).values())
            assert all(one.get("message") for one in suite.iter("skipped"))
        else:
            assert suite.get("skipped") == "0"
    assert seen == 3


def test_all_findings_of_a_rule_are_one_failure() -> None:
    tensors = [f"layers.{layer}" for layer in range(30)]
    found = [finding("GT101", tensor) for tensor in tensors]
    suite = junit(outcome_of([("a.pt", found)]))[0]
    (failure,) = suite.iter("failure")
    assert failure.get("message", "").startswith("layers.0: is sick")
    assert (failure.text or "").split("\n") == [f"GT101: {one}: is sick" for one in tensors]


def test_what_does_not_fail_is_output_unless_it_is_told_to_fail() -> None:
    dumps = [("a.pt", [finding("GT205", "w", "warning")])]
    suite = junit(outcome_of(dumps))[0]
    assert (suite.get("failures"), suite.findtext("system-out")) == (
        "0",
        "warning GT205 zeros: w: is sick",
    )
    suite = junit(outcome_of(dumps, policy=policy_of(fail_on="warning")))[0]
    assert (suite.get("failures"), suite.findtext("system-out")) == ("1", "")


def test_a_streak_fails_all_dumps_together(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        np.save(tmp_path / f"step{step}.npy", np.float32([1.0, np.inf if step > 1 else 2.0]))
    paths = [str(tmp_path / f"step{step}.npy") for step in (1, 2, 3)]
    for most, outcomes in ((0, ["skipped"]), (1, ["failure"]), (2, [])):
        outcome = gradtool.check(*paths, thresholds={"GT103.max_consecutive": most})
        (case,) = junit(outcome)[-1].iter("testcase")
        assert [child.tag for child in case] == outcomes
        # Each infinite step is a failure of its own, but for those in a streak short enough.
        found = [len(suite.findall("testcase/failure")) for suite in junit(outcome)[:-1]]
        assert found == ([0, 0, 0] if most == 2 else [0, 1, 1])


def test_junit_has_the_thresholds_in_force_as_properties() -> None:
    suite = junit(check("healthy.pt", thresholds={"GT203.max_norm": 50}))[0]
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties["GT203.max_norm"] == "50"
    assert properties["GT203.min_norm"] == "1e-08"
    assert properties["GT204.max_norm"] == "none"
    assert properties["GT202.severity"] == "warning"


def test_every_report_says_what_was_judged_and_compared_with(tmp_path: Path) -> None:
    baseline, config = tmp_path / "known.json", tmp_path / "gradtool.toml"
    config.write_text('[[check.overrides]]\npattern = "embed.*"\nignore = ["GT205"]\n')
    chosen: dict[str, Any] = {"include": ["*.weight", "*"], "exclude": ["*.odd"], "norm_type": 3.0}
    sample = SAMPLES / "training.pt"
    gradtool.save_baseline([sample], baseline, section="grads", **chosen)
    outcome = check(
        "training.pt", "training.pt", section="grads", config=config, baseline=baseline,
        thresholds={"GT007.names": ["*", "*.weight"]}, **chosen,
    )  # fmt: skip
    result = strict_json(outcome)
    VALIDATOR.validate(result)
    assert {key: result[key] for key in chosen} == chosen
    assert (result["section"], result["baseline"]) == ("grads", str(baseline))
    *suites, together = junit(outcome)
    assert len(suites) == 2
    for suite in (*suites, together):
        properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
        assert properties["baseline"] == str(baseline)
        assert properties["norm type"] == "3"
        assert properties["section"] == "'grads'"
        assert (properties["include"], properties["exclude"]) == ("*.weight *", "*.odd")
        assert properties["override 1"] == "embed.*: ignore GT205"
        assert ("GT007.names" in properties) == (suite is not together)
        assert properties.get("GT007.names", "* *.weight") == "* *.weight"
    details = render("markdown", outcome).replace("\\", "").partition("<details>")[2]
    text = " ".join(render("text", outcome).split())
    for word in ("*.weight *", "*.odd", "'grads'", str(baseline), "norm type"):
        assert word in text
        assert word in details


def test_where_all_was_judged_nothing_is_said_of_that() -> None:
    outcome = check("healthy.pt")
    result = strict_json(outcome)
    wanted = {"norm_type": 2.0, "include": [], "exclude": [], "section": None}
    assert {key: result[key] for key in wanted} == wanted
    properties = {one.get("name") for one in junit(outcome).iter("property")}
    assert not properties & {"include", "exclude", "section", "baseline", "norm type"}
    for p, said in ((math.inf, "Infinity"), (-math.inf, "-Infinity")):
        result = strict_json(check("healthy.pt", norm_type=p))
        VALIDATOR.validate(result)
        assert result["norm_type"] == said


def test_junit_is_the_same_for_the_same_outcome_but_for_the_time(real: CheckOutcome) -> None:
    texts = {re.sub(r'timestamp="[^"]*"', "", render("junit", real)) for _ in range(2)}
    assert len(texts) == 1


def test_the_schema_of_junit_can_refuse(real: CheckOutcome) -> None:
    text = render("junit", real)
    assert JUNIT.is_valid(text)
    assert not JUNIT.is_valid(text.replace("<testcase name=", "<testcase title="))
    assert not JUNIT.is_valid(text.replace('time="0.', 'time="x'))


@given(names, names, names)
def test_junit_holds_any_text(path: str, tensor: str, message: str) -> None:
    first, _, broken, together = junit(hostile(path, tensor, message))
    said = f"GT101: {visible(tensor)}: {visible(message)}"
    assert first.findtext("testcase/failure") == said
    assert (first.findtext("system-out") or "").endswith(f"{visible(tensor)}: is sick")
    assert visible(message) in (broken.findtext("testcase/failure") or "")
    assert together.findtext("testcase/failure") == f"GT103: {visible(message)}"
    assert first.get("name") == (visible(path) if visible(path).strip() else repr(path))


def test_a_dump_without_a_name_has_a_suite_with_one() -> None:
    assert junit(outcome_of([("", [])]))[0].get("name") == "''"


# --- GitHub

_COMMAND = re.compile(r"::(\w+) ([^\r\n]*?)::([^\r\n]*)")
_ESCAPES = {"%25": "%", "%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ","}


def unescaped(text: str) -> str:
    return re.sub("%25|%0D|%0A|%3A|%2C", lambda found: _ESCAPES[found[0]], text)


def commands(outcome: CheckOutcome) -> list[tuple[str, dict[str, str], str]]:
    """What a runner makes of the report: each line that begins with `::` up to the next `::`.

    The last line is for people, and no command.
    """
    text = render("github", outcome)
    assert text.endswith("\n")
    *lines, last = text[:-1].split("\n")
    assert last == last.strip()
    assert not last.startswith("::")
    assert "##[" not in last
    found = []
    for line in lines:
        match = _COMMAND.fullmatch(line)
        assert match is not None, line
        assert match[1] in ("error", "warning", "notice")
        assert line.isprintable()
        pairs = [pair.split("=", 1) for pair in match[2].split(",")]
        found.append((match[1], {k: unescaped(v) for k, v in pairs}, unescaped(match[3])))
    return found


@given(names, names, names)
def test_no_report_for_people_holds_a_command_to_the_runner(
    path: str, tensor: str, message: str
) -> None:
    outcome = hostile(path, tensor, message)
    for name in ("text", "junit", "markdown"):
        assert commands_in(render(name, outcome)) == []
    *_, last = render("github", outcome)[:-1].split("\n")
    assert commands_in(last) == []


@given(names, names, names)
@example("::error::unique", ":", "::error::unique")
def test_no_name_gives_the_runner_another_command(path: str, tensor: str, message: str) -> None:
    outcome = hostile(path, tensor, message)
    found = commands(outcome)
    assert [kind for kind, _, _ in found] == ["error", "error", "error", "warning", "notice"]
    for kind, properties, _ in found[:4]:
        assert kind != "notice"
        assert properties.keys() <= {"file", "title"}
        assert re.fullmatch(r"GT\d{3} [a-z-]+", properties["title"])
        assert properties.get("file", visible(path)) == visible(path)
    about = {properties["title"]: said for _, properties, said in found[:4]}
    # The two together may begin a line as neither does: a tensor named ":", say.
    assert about["GT101 nan"] == visible(f"{visible(tensor)}: {visible(message)}")
    assert about["GT103 nonfinite-streak"] == visible(message)


def test_annotations_are_the_most_important_ones_first() -> None:
    found = [finding(code) for code in ("GT005", "GT101", "GT203")]
    dumps = [("w.pt", [finding("GT101", "w", "warning")]), ("a.pt", found)]
    made = outcome_of(dumps, together=(finding("GT103"),))
    outcome = replace(made, verdicts=(*made.verdicts, unreadable("b.pt", "is cut")))
    codes = [(kind, properties["title"][:5]) for kind, properties, _ in commands(outcome)]
    errors = ["GT001", "GT103", "GT101", "GT005", "GT203"]
    assert codes == [*(("error", code) for code in errors), ("warning", "GT101")]


def test_annotations_are_capped_and_the_rest_is_counted() -> None:
    many = [(f"{at}.pt", [finding("GT203"), finding("GT101")] * 20) for at in range(4)]
    warned = [("w.pt", [finding("GT205", f"w{at}", "warning") for at in range(15)])]
    outcome = outcome_of([*many, *warned], together=(finding("GT103"),))
    found = commands(outcome)
    assert Counter(kind for kind, _, _ in found) == {"error": MOST, "warning": MOST, "notice": 1}
    left_out = len(list(outcome.all_findings)) - 2 * MOST
    assert f"{left_out} more findings" in found[-1][2]
    assert found[0][1]["title"] == "GT103 nonfinite-streak"
    named = {properties.get("file") for _, properties, _ in found[1:MOST]}
    assert named == {path for path, _ in many}, "of each dump one before of any another one"


def test_a_healthy_run_has_no_annotation() -> None:
    text = render("github", check("healthy.pt", "healthy.npz"))
    assert text == "gradtool check: 2 dumps ok\n"


# --- Markdown

MARKDOWN = MarkdownIt("commonmark").enable("table")
TAGS = {"<code>", "</code>"}


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells of each table, as a reader sees them; no markup but ours is in them."""
    found: list[list[list[str]]] = []
    for token in MARKDOWN.parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "html_block":
            assert token.content.strip() in (
                "<details><summary>Judged by</summary>",
                "</details>",
            )
        elif token.type == "inline":
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "code_inline", "html_inline", "strong_open", "strong_close"}
            html = {one.content for one in token.children or () if one.type == "html_inline"}
            assert html <= TAGS
            if found and found[-1] and token.level >= 4:
                seen = [c.content for c in token.children or () if c.type != "html_inline"]
                found[-1][-1].append("".join(seen))
    return found


@given(names, names, names)
def test_markdown_shows_any_text_and_does_nothing_else(
    path: str, tensor: str, message: str
) -> None:
    dumps, findings, rules = tables(render("markdown", hostile(path, tensor, message)))
    assert [len(row) for row in dumps] == [6] * 4
    assert [row[1] for row in dumps[1:]] == [visible(path)] * 3
    assert [len(row) for row in findings] == [5] * 5
    (nan,) = [row for row in findings if row[1].startswith("GT101")]
    assert nan[3] == visible(tensor)
    assert " ".join(nan[4].split()) == " ".join(visible(message).split())
    assert [row[0][:5] for row in rules[1:]] == list(policy_of().rules)


def test_markdown_lists_every_dump_finding_and_threshold(real: CheckOutcome) -> None:
    text = render("markdown", real)
    dumps, findings, rules = tables(text)
    assert {row[1] for row in dumps[1:]} == {one.path for one in real.verdicts}
    assert len(findings) - 1 == len(list(real.all_findings))
    assert ["GT203 total-norm", "error", "min_norm=1e-08 max_norm=10000"] in rules
    failed = [row[0] != "ok" for row in dumps[1:]]
    assert failed == sorted(failed, reverse=True), "those that failed come first"


def test_markdown_says_what_was_judged_by_once(tmp_path: Path) -> None:
    config = tmp_path / "gradtool.toml"
    config.write_text('[[check.overrides]]\npattern = "embed.*"\nignore = ["GT205"]\n')
    baseline = tmp_path / "known.json"
    gradtool.save_baseline([SAMPLES / "healthy.pt"], baseline)
    outcome = check("healthy.pt", config=config, baseline=baseline, fail_on="warning")
    _, details = render("markdown", outcome).replace("\\", "").split("<details>")
    assert [details.count(str(file)) for file in (config, baseline)] == [1, 1]
    assert "**fail on**: warning" in details
    assert "embed.*: ignore GT205" in details
    assert [details.count(code) for code in outcome.policy.rules if code != "GT205"] == [1] * (
        len(outcome.policy.rules) - 1
    )


def test_markdown_says_what_it_leaves_out() -> None:
    healthy = [(f"healthy{at}.pt", []) for at in range(MOST_DUMPS)]
    sick = [(f"sick{at}.pt", [finding("GT203")]) for at in range(3)]
    text = render("markdown", outcome_of([*healthy, *sick]))
    listed = [row[1] for row in tables(text)[0][1:]]
    assert len(listed) == MOST_DUMPS
    assert listed[:3] == [path for path, _ in sick]
    assert "Not listed: 3 more dumps, of which 0 failed." in text


@pytest.mark.parametrize("letter", ["x", "`", "\U00010000", "\ue000", "é", "|", "\U0010ffff"])
def test_summaries_stay_within_what_github_takes(letter: str) -> None:
    name = letter * 3_000
    found = [finding("GT101", name, message=name) for _ in range(60)]
    dumps = [(name + str(at), found) for at in range(MOST_DUMPS + 50)]
    outcome = replace(outcome_of(dumps), notes=(name,) * 500)
    text = render("markdown", outcome)
    assert len(text.encode()) < 900_000
    assert "Not listed: 50 more dumps, of which 50 failed." in text
    shown = len(tables(text)[1]) - 1
    assert shown > 10
    assert f"Not listed: {len(found) * len(dumps) - shown:,} more findings." in text
    annotations = render("github", outcome)
    assert len(annotations.encode()) < 1_000_000


# --- all of them, on real files


@pytest.mark.parametrize("name", CHECK_REPORTERS)
def test_real_files_with_hostile_names_are_reported(name: str, tmp_path: Path) -> None:
    sick = {
        text: np.float32([math.nan]) for text in HOSTILE if text.isprintable() or "\x1b" in text
    }
    paths = [
        os.fsencode(tmp_path) + file
        for file in (b"/a\n::error::unique.safetensors", b"/\xff|]]>.safetensors", b"/cut\x1b.npz")
    ]
    for path in paths[:2]:
        save_file(sick, os.fsdecode(path))
    Path(os.fsdecode(paths[2])).write_bytes(b"PK\x03\x04")
    outcome = gradtool.check(*paths)
    assert [one.exit_code for one in outcome.verdicts] == [1, 1, 3]
    text = render(name, outcome)
    assert text.endswith("\n")
    text.encode()  # no lone surrogate is left
    assert all(line.isprintable() for line in text.split("\n"))
    if name in ("text", "junit", "markdown"):
        assert commands_in(text) == []
    else:
        assert not [line for line in text.split("\n") if line.startswith(("::error::", "##["))]
    if name == "json":
        VALIDATOR.validate(json.loads(text))
    elif name == "junit":
        assert len(junit(outcome)) == 4
    elif name == "github":
        assert len(commands(outcome)) == MOST + 1
    elif name == "markdown":
        assert len(tables(text)[0]) == 4


@pytest.mark.parametrize("letter", ["n", "\x1b", "%", ":", "\U000e0001", "`", "#["])
def test_lines_for_people_stay_short_and_show_both_ends(letter: str) -> None:
    path, tensor, message = (f"<{word}{letter * 5_000}{word}>" for word in ("path", "w", "said"))
    outcome = hostile(path, tensor, message)
    in_another_file = replace(outcome.verdicts[2], path="directory")
    outcome = replace(outcome, verdicts=(*outcome.verdicts, in_another_file))
    for kind in ("text", "github"):
        lines = render(kind, outcome).splitlines()
        (line,) = [line for line in lines if "GT101" in line and "<w" in line]
        assert len(line) <= LONGEST_LINE
        assert line.endswith("said>")
        if (letter, kind) != ("%", "github"):  # where three characters stand for each
            assert "w>: <said" in line
        assert max(map(len, lines)) <= LONGEST_LINE * (1 if kind == "github" else 1.1)
    for suite in junit(outcome):
        for one in suite.iter("failure"):
            assert len(one.get("message", "").removesuffix(" (and 1 more finding)")) <= LONGEST_LINE
        for one in suite.iter("skipped"):
            assert len(one.get("message", "")) <= LONGEST_LINE


def test_a_colon_escaped_at_the_start_costs_no_room() -> None:
    outcome = outcome_of([("a.pt", [finding("GT101", ":", message="m" * 5_000)])])
    assert max(map(len, render("text", outcome).splitlines())) == LONGEST_LINE


def test_a_name_of_a_megabyte_is_cut_where_people_read_it() -> None:
    name = "head" + "x" * 1_000_000 + "tail"
    outcome = outcome_of([("a.pt", [finding("GT101", name)])])
    assert strict_json(outcome)["dumps"][0]["findings"][0]["tensor"] == name
    assert junit(outcome)[0].findtext("testcase/failure") == f"GT101: {name}: is sick"
    for kind in ("github", "markdown"):
        text = render(kind, outcome)
        assert len(text) < 10_000
        assert "head" in text
