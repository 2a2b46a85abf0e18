"""What is in the reports of `check`; what all reports promise is in `reporter_suite`."""

from __future__ import annotations

import html
import math
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import numpy as np
import pytest
from reports.formats import FORMATS
from reports.parsers import (
    JUNIT,
    junit_root,
    markdown_tables,
    strict_json,
    validator,
    workflow_commands,
)
from reports.samples import finding, outcome_of, policy_of, unreadable
from reports.texts import HOSTILE
from safetensors.numpy import save_file

import gradtool
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.report import CHECK_REPORTERS, check_reporter
from gradtool.report.check.github import MAX_ANNOTATIONS
from gradtool.report.check.markdown import MOST_DUMPS
from gradtool.report.model import Style
from gradtool.rules import RULES
from gradtool.rules.evidence import DumpRule
from gradtool.shortening import LONGEST_LINE

SAMPLES = Path(__file__).parents[3] / "sample_ckpts"
VALIDATOR = validator("check-1")


def render(name: str, outcome: CheckOutcome, **style: Any) -> str:
    return check_reporter(name)(outcome, Style(**style))


def as_json(outcome: CheckOutcome) -> Any:
    return strict_json(render("json", outcome))


def junit(outcome: CheckOutcome) -> ET.Element:
    return junit_root(render("junit", outcome))


def commands(outcome: CheckOutcome) -> list[tuple[str, dict[str, str], str]]:
    return workflow_commands(render("github", outcome))


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


# --- JSON


def test_json_obeys_its_schema(real: CheckOutcome) -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    result = as_json(real)
    VALIDATOR.validate(result)
    assert result["gradtool"] == gradtool.__version__
    assert (result["verdict"], result["exit_code"]) == ("fail", 3)
    assert [dump["path"] for dump in result["dumps"]] == [one.path for one in real.verdicts]
    healthy = as_json(check("healthy.pt"))
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
    result = as_json(real)
    assert VALIDATOR.is_valid({**result, "added": 1}), "fields may be added"
    assert not VALIDATOR.is_valid({**result, key: wrong})
    del result[key]
    assert not VALIDATOR.is_valid(result)


def test_totals_are_those_of_inspect() -> None:
    ours, theirs = (validator(name).schema["$defs"] for name in ("check-1", "inspect-1"))
    assert ours["figures"] == theirs["figures"]


def test_json_holds_every_rule_and_every_threshold_in_force(tmp_path: Path) -> None:
    config = tmp_path / "gradtool.toml"
    config.write_text(
        '[[check.overrides]]\npattern = ["embed.*", "*.bias"]\nignore = ["GT205"]\n'
        "GT204 = { max_norm = inf }\n"
    )
    outcome = check("healthy.pt", config=config, thresholds={"GT007.names": ["a*"]}, ignore=["GT3"])
    result = as_json(outcome)
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
    result = as_json(real)
    found = [one for dump in result["dumps"] for one in dump["findings"]] + result["findings"]
    counts = Counter(one["severity"] for one in found)
    assert result["counts"] == {
        "dumps": len(ALL_SAMPLES),
        "failed": sum(dump["verdict"] == "fail" for dump in result["dumps"]),
        "errors": counts["error"],
        "warnings": counts["warning"],
    }


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
        if isinstance(rule.rule, DumpRule) or code in {"GT210", "GT212", "GT213"}
    ]
    assert [suite.get("name") for suite in suites] == [one.path for one in real.verdicts]
    assert all(list(cases(suite)) == judging for suite in suites)
    assert (together.get("name"), list(cases(together))) == (
        "all dumps",
        ["GT103 nonfinite-streak"],
    )


def test_a_rule_judges_dumps_together_or_one_by_one() -> None:
    assert all(rule.across_dumps != isinstance(rule, DumpRule) for rule in RULES.values())


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
        if not verdict.is_judged:
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
    result = as_json(outcome)
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
    text = " ".join(render("text", outcome, verbose=True).split())
    for word in ("*.weight *", "*.odd", "'grads'", str(baseline), "norm type"):
        assert word in text
        assert word in details


def test_where_all_was_judged_nothing_is_said_of_that() -> None:
    outcome = check("healthy.pt")
    result = as_json(outcome)
    wanted = {"norm_type": 2.0, "include": [], "exclude": [], "section": None}
    assert {key: result[key] for key in wanted} == wanted
    properties = {one.get("name") for one in junit(outcome).iter("property")}
    assert not properties & {"include", "exclude", "section", "baseline", "norm type"}
    for p, said in ((math.inf, "Infinity"), (-math.inf, "-Infinity")):
        result = as_json(check("healthy.pt", norm_type=p))
        VALIDATOR.validate(result)
        assert result["norm_type"] == said


def test_the_schema_of_junit_can_refuse(real: CheckOutcome) -> None:
    text = render("junit", real)
    assert JUNIT.is_valid(text)
    assert not JUNIT.is_valid(text.replace("<testcase name=", "<testcase title="))
    assert not JUNIT.is_valid(text.replace('time="0.', 'time="x'))


def test_a_dump_without_a_name_has_a_suite_with_one() -> None:
    assert junit(outcome_of([("", [])]))[0].get("name") == "''"


# --- GitHub


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
    assert Counter(kind for kind, _, _ in found) == {
        "error": MAX_ANNOTATIONS,
        "warning": MAX_ANNOTATIONS,
        "notice": 1,
    }
    left_out = len(list(outcome.all_findings)) - 2 * MAX_ANNOTATIONS
    assert f"{left_out} more findings" in found[-1][2]
    assert found[0][1]["title"] == "GT103 nonfinite-streak"
    named = {properties.get("file") for _, properties, _ in found[1:MAX_ANNOTATIONS]}
    assert named == {path for path, _ in many}, "of each dump one before of any another one"


def test_a_healthy_run_has_no_annotation() -> None:
    text = render("github", check("healthy.pt", "healthy.npz"))
    assert text == "gradtool check: 2 dumps ok\n"


# --- Markdown


def test_markdown_lists_every_dump_finding_and_threshold(real: CheckOutcome) -> None:
    text = render("markdown", real)
    dumps, findings, rules = markdown_tables(text)
    assert {row[1] for row in dumps[1:]} == {one.path for one in real.verdicts}
    assert len(findings) - 1 == len(list(real.all_findings))
    assert ["GT203 total-norm", "error", "min_norm=1e-08 max_norm=10000"] in rules
    failed = [row[0] != "ok" for row in dumps[1:]]
    assert failed == sorted(failed, reverse=True), "those that failed come first"


def test_names_in_markdown_are_code_of_which_github_makes_no_links() -> None:
    outcome = outcome_of([("www.a.org", [finding("GT101", "GH-12")])])
    broken = unreadable("b.pt", "is cut", file="https://example.com")
    text = render("markdown", replace(outcome, verdicts=(*outcome.verdicts, broken)))
    for name in ("www.a.org", "GH-12", "https://example.com"):
        assert name in html.unescape(text)
        assert name not in re.sub("`[^`]*`|<code>.*?</code>", "", text)


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
    listed = [row[1] for row in markdown_tables(text)[0][1:]]
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
    shown = len(markdown_tables(text)[1]) - 1
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
    said = [str(value) for _, value in FORMATS[name].read(render(name, outcome, show_all=True))]
    for verdict in outcome.verdicts:
        assert any(FORMATS[name].spelled(verdict.path) in value for value in said)
    if name != "github":  # which has ten at most
        for text in sick:
            assert any(FORMATS[name].spelled(text).strip() in value for value in said)


@pytest.mark.parametrize("letter", ["n", "\x1b", "%", ":", "\U000e0001", "`", "#["])
def test_lines_for_people_stay_short_and_show_both_ends(letter: str) -> None:
    path, tensor, message = (f"<{word}{letter * 5_000}{word}>" for word in ("path", "w", "said"))
    made = outcome_of([(path, [finding("GT101", tensor, message=message)])])
    in_another_file = unreadable("directory", message, tensor, file=path)
    outcome = replace(made, verdicts=(*made.verdicts, in_another_file))
    for kind in ("text", "github"):
        lines = render(kind, outcome).splitlines()
        (line,) = [line for line in lines if "GT101" in line and "<w" in line]
        assert len(line) <= LONGEST_LINE
        assert line.endswith("said>")
        if (letter, kind) != ("%", "github"):  # where three characters stand for each
            assert "w>: <said" in line
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
    assert as_json(outcome)["dumps"][0]["findings"][0]["tensor"] == name
    assert junit(outcome)[0].findtext("testcase/failure") == f"GT101: {name}: is sick"
    for kind in ("github", "markdown"):
        text = render(kind, outcome)
        assert len(text) < 10_000
        assert "head" in text
