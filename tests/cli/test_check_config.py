"""Configuration of `gradtool check`: where it is found, what it may say, and that it counts."""

import json
import math
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nobody import as_nobody
from safetensors.numpy import save_file

import gradtool
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import Parameter
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.errors import UsageError
from gradtool.report import CHECK_REPORTERS, check_reporter
from gradtool.report.model import Style
from gradtool.rules import RULES
from gradtool.rules.config_file import find_config, load_config
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings, read_call, read_settings

LOUD = "[check.GT203]\nmax_norm = 1"
"""What the dump, of norm 5, fails."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories in each other, with a healthy dump of norm 5 in the innermost."""
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    save_file({"w": np.float32([3, 4])}, str(tmp_path / "a" / "b" / "c" / "dump"))
    return tmp_path / "a"


def report(folder: Path, *options: str) -> dict[str, Any]:
    result = run("check", "dump", "-f", "json", *options, cwd=folder)
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exit_code"] == result.returncode
    return found


def in_pyproject(text: str) -> str:
    return text.replace("[check", "[tool.gradtool.check").replace(
        "[[check", "[[tool.gradtool.check"
    )


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"b/c/gradtool.toml": LOUD}, "gradtool.toml"),
        ({"b/gradtool.toml": LOUD}, "../gradtool.toml"),
        ({"gradtool.toml": LOUD}, "../../gradtool.toml"),
        ({"gradtool.toml": LOUD, "b/gradtool.toml": "[check]"}, "../gradtool.toml"),
        ({"b/gradtool.toml": LOUD, "gradtool.toml": "not TOML"}, "../gradtool.toml"),
        ({"b/c/pyproject.toml": in_pyproject(LOUD)}, "pyproject.toml"),
        ({"pyproject.toml": in_pyproject(LOUD)}, "../../pyproject.toml"),
        (
            {"b/gradtool.toml": LOUD, "b/pyproject.toml": in_pyproject("[check]")},
            "../gradtool.toml",
        ),
        (
            {"gradtool.toml": "[check]", "b/c/pyproject.toml": in_pyproject(LOUD)},
            "pyproject.toml",
        ),
        (
            {"b/pyproject.toml": "[project]\nname = 'x'", "gradtool.toml": LOUD},
            "../../gradtool.toml",
        ),
        ({"b/c/pyproject.toml": LOUD}, None),
        ({"b/c/pyproject.toml": "tool = 3", "b/gradtool.toml": LOUD}, "../gradtool.toml"),
        ({"b/c/gradtool.toml": ""}, "gradtool.toml"),
        ({"b/c/other.toml": LOUD, "b/c/check.toml": LOUD}, None),
    ],
)
def test_the_nearest_configuration_counts(
    files: dict[str, str], wanted: str | None, tree: Path
) -> None:
    for name, text in files.items():
        (tree / name).write_text(text)
    found = report(tree / "b" / "c")
    assert found["config"] == wanted
    loud = wanted is not None and "max_norm" in (tree / "b" / "c" / wanted).read_text()
    assert found["exit_code"] == loud


def test_a_named_configuration_counts_and_no_other(tree: Path) -> None:
    folder = tree / "b" / "c"
    (folder / "gradtool.toml").write_text("[check]\nselect = 3")
    (tree / "mine.toml").write_text(LOUD)
    found = report(folder, "--config", "../../mine.toml")
    assert (found["config"], found["exit_code"]) == ("../../mine.toml", 1)


@pytest.mark.parametrize("name", ["any.toml", "gradtool.toml", "no-extension", "pyproject.toml"])
@pytest.mark.parametrize("shape", [str, in_pyproject])
def test_a_named_configuration_may_have_either_shape(
    name: str, shape: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(shape(LOUD))
    if name == "pyproject.toml" and shape is str:
        with pytest.raises(UsageError, match=r"has no \[tool.gradtool.check\]"):
            load_config(str(tmp_path / name))
    else:
        settings = load_config(str(tmp_path / name)).settings
        assert settings.thresholds == {"GT203": {"max_norm": 1.0}}


def test_isolated_looks_for_none(tree: Path) -> None:
    (tree / "b" / "c" / "gradtool.toml").write_text("not TOML")
    found = report(tree / "b" / "c", "--isolated")
    assert (found["config"], found["exit_code"]) == (None, 0)


def test_what_is_found_is_that_of_the_working_directory_not_of_the_dump(tree: Path) -> None:
    (tree / "b" / "c" / "gradtool.toml").write_text(LOUD)
    assert run("check", "b/c/dump", cwd=tree).returncode == 0


@pytest.mark.parametrize("where", ["gradtool.toml", "pyproject.toml"])
@pytest.mark.parametrize("option", [False, True])
def test_a_baseline_is_looked_for_beside_its_configuration(
    where: str, option: bool, tree: Path
) -> None:
    folder = tree / "b" / "c"
    (tree / "kept").mkdir()
    run("baseline", "save", "dump", "-o", "../../kept/base.json", cwd=folder)
    text = '[check]\nbaseline = "kept/base.json"'
    (tree / where).write_text(in_pyproject(text) if where == "pyproject.toml" else text)
    found = report(folder, *(["--config", f"../../{where}"] if option else []))
    assert os.path.samefile(folder / found["baseline"], tree / "kept" / "base.json")
    assert "GT403" in {rule["code"] for rule in found["rules"]}


def test_a_baseline_may_be_anywhere(tree: Path) -> None:
    folder = tree / "b" / "c"
    run("baseline", "save", "dump", "-o", "base.json", cwd=folder)
    path = json.dumps(str(folder / "base.json"))
    (tree / "gradtool.toml").write_text(f"[check]\nbaseline = {path}")
    assert report(folder)["baseline"] == str(folder / "base.json")


def test_a_configured_baseline_that_is_missing_is_no_pass(tree: Path) -> None:
    (tree / "gradtool.toml").write_text('[check]\nbaseline = "gone.json"')
    result = run("check", "dump", cwd=tree / "b" / "c")
    assert (result.returncode, result.stdout) == (3, "")
    assert "gone.json" in error_lines(result)[0]


def configured(text: str, folder: Path, **call: Any) -> Policy:
    """The policy of a configuration and a call."""
    path = folder / "gradtool.toml"
    path.write_text(text)
    config = load_config(str(path))
    return resolve(config.settings, read_call(**call), has_baseline=False, config=config.path)


@pytest.mark.parametrize(
    ("text", "call", "expected"),
    [
        ("max_norm = 7", {}, 7.0),
        ("max_norm = 7", {"thresholds": {"GT203.max_norm": 50}}, 50.0),
        ("min_norm = 1", {"thresholds": {"GT203.max_norm": 50}}, 50.0),
        ("min_norm = 1", {}, 1e4),
    ],
)
def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(
    text: str, call: dict[str, Any], expected: float, tmp_path: Path
) -> None:
    policy = configured(f"[check.GT203]\n{text}", tmp_path, **call)
    assert policy.rules["GT203"].thresholds["max_norm"] == expected
    assert policy.rules["GT203"].thresholds["min_norm"] == (1.0 if "min" in text else 1e-8)


def test_the_command_line_wins_over_overrides_threshold_by_threshold(tmp_path: Path) -> None:
    text = '[[check.overrides]]\npattern = "w"\nGT204 = {max_norm = 1, min_norm = 2}\n'
    text += "GT202.factor = 3"
    policy = configured(text, tmp_path, thresholds={"GT204.max_norm": 50})
    assert policy.thresholds("GT204", "w") == {"min_norm": 2.0, "max_norm": 50.0}
    assert policy.thresholds("GT204", "v") == {"min_norm": None, "max_norm": 50.0}
    assert policy.thresholds("GT202", "w") == {"factor": 3.0}
    assert policy.thresholds("GT202", "v") == {"factor": 2.0}


def test_the_first_override_that_matches_is_the_one(tmp_path: Path) -> None:
    text = """
        [[check.overrides]]
        pattern = ["a.*", "b"]
        ignore = ["GT204"]
        [[check.overrides]]
        pattern = "*"
        GT204.max_norm = 1
        [[check.overrides]]
        pattern = "b"
        GT204.max_norm = 2
    """
    policy = configured(text, tmp_path)
    assert policy.thresholds("GT204", "a.w") is None
    assert policy.thresholds("GT204", "b") is None
    assert policy.thresholds("GT204", "c") == {"min_norm": None, "max_norm": 1.0}
    assert policy.thresholds("GT205", "a.w") == {"max_share": 0.999}


def test_overrides_reach_the_verdict(tree: Path) -> None:
    config = tree / "gradtool.toml"
    override = '[[check.overrides]]\npattern = "{}"\nGT204.max_norm = 1'
    config.write_text(override.format("w"))
    assert report(tree / "b" / "c")["exit_code"] == 1
    assert report(tree / "b" / "c", "--set", "GT204.max_norm=6")["exit_code"] == 0
    config.write_text(override.format("v"))
    found = report(tree / "b" / "c")
    assert found["exit_code"] == 0
    assert any("'v'" in note for note in found["notes"])


def family(*digits: str) -> set[str]:
    return {code for code in RULES if code[2] in digits}


@pytest.mark.parametrize(
    ("text", "call", "chosen"),
    [
        ("", {}, {*RULES}),
        ('select = ["GT2"]', {}, family("2")),
        ('select = ["GT2"]\nignore = ["GT203"]', {}, family("2") - {"GT203"}),
        ('select = ["GT101"]', {}, {"GT101"}),
        ('select = ["GT101"]', {"select": ["GT102"]}, {"GT102"}),
        ('ignore = ["GT101"]', {}, {*RULES} - {"GT101"}),
        ('ignore = ["GT101"]', {"select": ["GT101"]}, {"GT101"}),
        ('ignore = ["GT101"]', {"ignore": ["GT102"]}, {*RULES} - {"GT101", "GT102"}),
        ('select = ["GT101", "GT102"]', {"ignore": ["GT102"]}, {"GT101"}),
        ('select = ["ALL"]', {"ignore": ["GT1", "GT2"]}, family("0", "3")),
        ('select = ["GT101", "GT403"]', {"ignore": ["GT403"]}, {"GT101"}),
        ('select = ["GT1", "GT4"]', {}, family("1")),
        ('select = ["GT403"]', {"select": "GT1"}, family("1")),
        ('ignore = ["GT0"]', {}, family("1", "2", "3")),
    ],
)
def test_rules_are_chosen_and_those_that_must_be_are_always(
    text: str, call: dict[str, Any], chosen: set[str], tmp_path: Path
) -> None:
    policy = configured(f"[check]\n{text}", tmp_path, **call)
    comparing = family("4")  # nothing to compare with is given
    assert policy.rules.keys() == (chosen - comparing) | {"GT001", "GT002", "GT003"}


@pytest.mark.parametrize(
    ("text", "call", "said"),
    [
        ('ignore = ["ALL"]', {}, "toml: no rule is in force but those"),
        ('ignore = ["GT0", "GT1", "GT2", "GT3"]', {}, "toml: no rule is in force but those"),
        ('select = ["GT4"]', {}, "toml: no rule is in force but those"),
        ('select = ["GT101"]', {"ignore": ["GT101"]}, "^no rule is in force but those"),
        ('select = ["GT403"]', {}, r"gradtool\.toml: GT403 is selected and needs a baseline"),
        ('select = ["GT1", "GT403"]', {}, r"gradtool\.toml: GT403 .* needs a baseline"),
        ('select = ["GT401"]', {}, r"gradtool\.toml: GT401 .* needs an expected norm"),
        ("", {"select": ["GT1", "GT4"]}, "^GT4 is selected, and none of its rules is in force"),
        ("", {"select": ["GT403"]}, "^GT403 needs a baseline"),
        ("", {"select": []}, "names no rule"),
        ('select = ["GT4"]', {"select": []}, "names no rule"),
    ],
)
def test_what_would_judge_nothing_is_refused(
    text: str, call: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        configured(f"[check]\n{text}", tmp_path, **call)
    assert re.search(said, str(caught.value).removeprefix(f"{tmp_path}/")), caught.value


def test_what_is_set_in_vain_is_noted(tree: Path) -> None:
    (tree / "gradtool.toml").write_text(
        "[check.GT403]\nmax_factor = 5\n[check.GT203]\nmin_norm = 1"
    )
    found = report(tree / "b" / "c")
    assert found["exit_code"] == 0
    (note,) = found["notes"]
    assert note.startswith("GT403 is set in the configuration and not in force")


@pytest.mark.parametrize("text", ['"none"', "inf"])
def test_a_file_may_set_no_limit(text: str, tmp_path: Path) -> None:
    policy = configured(f"[check.GT203]\nmax_norm = {text}", tmp_path)
    wanted = {"min_norm": 1e-8, "max_norm": None if "none" in text else math.inf}
    assert policy.rules["GT203"].thresholds == wanted


def test_tensors_are_chosen_by_the_file_unless_by_the_command_line(tmp_path: Path) -> None:
    tensors = {"grads.w": [3, 4], "grads.b": [0, 5], "model.w": [5, 12]}
    save_file({name: np.float32(values) for name, values in tensors.items()}, tmp_path / "dump")

    def norm(text: str, *options: str) -> float:
        (tmp_path / "gradtool.toml").write_text(f"[check]\n{text}")
        (dump,) = report(tmp_path, *options)["dumps"]
        return dump["total"]["norm"]

    both = math.sqrt(50)
    assert norm("") == pytest.approx(both)
    assert norm('include = ["*.w"]') == 5
    assert norm('exclude = ["*.b"]') == 5
    assert norm('section = "model"') == 13
    assert norm('section = "model"', "--section", "grads") == pytest.approx(both)
    assert norm('include = ["*.w"]', "-i", "grads.*") == pytest.approx(both)
    assert norm('exclude = ["*.b"]', "-x", "*.w") == 5


def test_a_baseline_is_made_of_the_tensors_that_are_judged(tmp_path: Path) -> None:
    save_file({"a.w": np.float32([3, 4]), "a.b": np.float32([1])}, str(tmp_path / "dump"))
    (tmp_path / "gradtool.toml").write_text('[check]\nexclude = ["*.b"]\nbaseline = "base.json"')
    assert run("baseline", "save", "dump", "-o", "base.json", cwd=tmp_path).returncode == 0
    assert [*json.loads((tmp_path / "base.json").read_text())["tensors"]] == ["a.w"]
    assert report(tmp_path)["exit_code"] == 0
    assert run("baseline", "update", "dump", cwd=tmp_path).returncode == 0
    assert report(tmp_path)["exit_code"] == 0


def test_fail_on_is_configured_unless_given(tmp_path: Path) -> None:
    text = '[check]\nfail_on = "warning"'
    assert configured("[check]", tmp_path).fail_on == "error"
    assert configured(text, tmp_path).fail_on == "warning"
    assert configured(text, tmp_path, fail_on="error").fail_on == "error"


LONG_HEX = f"0x{'f' * 5_000}"
HUGE = "1" + "0" * 400

WRONG = [
    # the text of gradtool.toml, and what the error names besides the file
    # keys, tables and codes that do not exist
    ('selct = ["GT101"]', "selct.*did you mean select"),
    ('Select = ["GT101"]', "Select.*did you mean select"),
    ('fail-on = "error"', "fail-on.*did you mean fail_on"),
    ("exit_zero = true", "exit_zero: there is no such key"),
    ('GT999 = "x"', "GT999: there is no such key.*GT"),
    ("gt203.max_norm = 1", "gt203.*did you mean GT203"),
    ("GT2.max_norm = 1", "GT2: there is no such key.*did you mean GT"),
    ("total-norm.max_norm = 1", "total-norm: there is no such key"),
    ('"" = 1', "there is no such key"),
    ("thresholds.GT203 = 1", "thresholds: there is no such key"),
    ("override = []", "override.*did you mean overrides"),
    ('patterns = ["a"]', "patterns: there is no such key"),
    # codes that do not exist
    ('select = ["GT119"]', "select GT119: there is no such rule.*GT10"),
    ('select = ["GT"]', "select GT: there is no such rule"),
    ('select = ["G"]', "select G: there is no such rule"),
    ('select = ["GT1011"]', "select GT1011.*did you mean GT101"),
    ('select = ["GT101 "]', "select GT101 : .*did you mean GT101"),
    ('select = ["GT101,GT102"]', "select GT101,GT102: there is no such rule"),
    ('select = ["nann"]', "select nann: there is no such rule; did you mean nan?"),
    ('ignore = ["al"]', "ignore al: there is no such rule$"),
    ('ignore = ["GT9"]', "ignore GT9: there is no such rule"),
    ('select = ["nan", "GT101"]', "select: 'GT101' is there twice"),
    ('ignore = ["GT299"]', "ignore GT299: there is no such rule"),
    # wrong types of keys
    ('select = "GT101"', "select: must be a list of texts, not 'GT101'"),
    ("select = 101", "select: must be a list of texts, not 101"),
    ("select = [101]", r"select: must be a list of texts, not \[101\]"),
    ('select = ["GT101", 102]', "select: must be a list of texts"),
    ('select = [["GT101"]]', "select: must be a list of texts"),
    ('select = [""]', "select: must be a list of texts"),
    ("select = []", "select: names no rule"),
    ("select = true", "select: must be a list of texts, not True"),
    ("select = {}", "select: must be a list of texts"),
    ("select = 1979-05-27", "select: must be a list of texts"),
    (f"select = {LONG_HEX}", "select: must be a list of texts"),
    (f"select = [{LONG_HEX}]", "select: must be a list of texts"),
    ("ignore = false", "ignore: must be a list of texts, not False"),
    ('ignore = "GT101"', "ignore: must be a list of texts"),
    ('include = "w"', "include: must be a list of texts"),
    ("include = [1]", "include: must be a list of texts"),
    ("exclude = 3", "exclude: must be a list of texts"),
    ('exclude = ["a", ""]', "exclude: must be a list of texts"),
    ("section = 3", "section: must be a text, not 3"),
    ('ranks = "shards"', "ranks: must be one of auto, shard, replica, each, not 'shards'"),
    ('ranks = ["shard"]', "ranks: must be one of auto"),
    ("ranks = 1", "ranks: must be one of auto, shard, replica, each, not 1"),
    ('replicated = "b"', "replicated: must be a list of texts, not 'b'"),
    ("replicated = [1]", "replicated: must be a list of texts"),
    ('strip_prefix = "net."', "strip_prefix: must be a list of texts, not 'net.'"),
    ('section = ["grads"]', "section: must be a text"),
    ("baseline = 3", "baseline: must be a text, not 3"),
    ("baseline = false", "baseline: must be a text, not False"),
    ('baseline = ""', "baseline: must be a text, not ''"),
    ('baseline = ["a.json"]', "baseline: must be a text"),
    (f"baseline = {LONG_HEX}", "baseline: must be a text"),
    ('fail_on = "fatal"', "fail_on: must be 'error' or 'warning', not 'fatal'"),
    ('fail_on = "Error"', "fail_on: must be 'error' or 'warning', not 'Error'"),
    ('fail_on = ["error"]', "fail_on: must be 'error' or 'warning'"),
    ("fail_on = 1", "fail_on: must be 'error' or 'warning', not 1"),
    ("fail_on = nan", "fail_on: must be 'error' or 'warning', not nan"),
    (f"fail_on = {LONG_HEX}", "fail_on: must be 'error' or 'warning'"),
    ("GT203 = 50", "GT203: must be a table, not 50"),
    ("GT203 = [50]", "GT203: must be a table"),
    ("GT203 = [{max_norm = 50}]", "GT203: must be a table"),
    ('GT203 = "max_norm=50"', "GT203: must be a table"),
    (f"GT203 = {LONG_HEX}", "GT203: must be a table"),
    ("overrides = 3", "overrides: must be a list of tables"),
    ("overrides = {}", "overrides: must be a list of tables"),
    ('overrides.pattern = "w"', "overrides: must be a list of tables"),
    ("overrides = [3]", "overrides: must be a table, not 3"),
    ('overrides = ["w"]', "overrides: must be a table, not 'w'"),
    (f"overrides = [{LONG_HEX}]", "overrides: must be a table"),
    # things given twice, and contradictions
    ('select = ["GT101", "GT101"]', "select: 'GT101' is there twice"),
    ('ignore = ["GT101", "GT102", "GT101"]', "ignore: 'GT101' is there twice"),
    ('include = ["w", "w"]', "include: 'w' is there twice"),
    ('select = ["GT101"]\nignore = ["GT101"]', "GT101 is both selected and ignored"),
    ('select = ["GT2"]\nignore = ["GT2"]', "GT2 is both selected and ignored"),
    ('select = ["GT203"]\nignore = ["GT2"]', "GT203 is both selected and ignored"),
    ('select = ["GT203", "GT1"]\nignore = ["ALL"]', "GT203 is both selected and ignored"),
    ('select = ["ALL"]\nignore = ["ALL"]', "ALL is both selected and ignored"),
    ('ignore = ["GT001"]', "GT001 cannot be ignored"),
    ('ignore = ["GT101", "GT003"]', "GT003 cannot be ignored"),
    # thresholds that do not exist
    ("GT203.max_nrom = 1", "GT203.max_nrom.*did you mean max_norm"),
    ("GT203.min = 1", "GT203.min.*did you mean min_norm"),
    ("GT203.Max_norm = 1", "GT203.Max_norm.*did you mean max_norm"),
    ("GT205.share = 0.5", "GT205.share.*did you mean max_share"),
    ('GT203.severty = "error"', "GT203.severty.*did you mean severity"),
    ('GT101.severty = "error"', "GT101.severty.*did you mean severity"),
    ("GT101.max = 3", "GT101.max"),
    ("GT001.max = 3", "GT001.max.*no thresholds"),
    # severities
    ('GT101.severity = "fatal"', "GT101.severity: must be 'error' or 'warning', not 'fatal'"),
    ('GT101.severity = "off"', "GT101.severity: must be"),
    ("GT101.severity = 1", "GT101.severity: must be"),
    ("GT101.severity = true", "GT101.severity: must be"),
    ("GT101.severity = nan", "GT101.severity: must be"),
    ('GT101.severity = ["error"]', "GT101.severity: must be"),
    ('GT001.severity = "warning"', "GT001.severity: GT001 is an error always"),
    ('GT002.severity = "error"', "GT002.severity: GT002 is an error always"),
    # thresholds of wrong types
    ('GT203.max_norm = "50"', "GT203.max_norm: must be a number.*'50'"),
    ('GT203.max_norm = "inf"', "GT203.max_norm: must be a number"),
    ("GT203.max_norm = true", "GT203.max_norm: must be a number, not True"),
    ("GT203.max_norm = [50]", "GT203.max_norm: must be a number"),
    ("GT203.max_norm = {}", "GT203.max_norm: must be a number"),
    ("GT203.max_norm = 1979-05-27", "GT203.max_norm: must be a number"),
    ("GT203.max_norm = 07:32:00", "GT203.max_norm: must be a number"),
    ("GT006.min_tensors = 2.0", "GT006.min_tensors: must be a whole number.*2.0"),
    ('GT006.min_tensors = "2"', "GT006.min_tensors: must be a whole number"),
    ("GT006.min_tensors = true", "GT006.min_tensors: must be a whole number, not True"),
    ("GT006.min_tensors = inf", "GT006.min_tensors: must be a whole number"),
    ("GT103.max_consecutive = 1e0", "GT103.max_consecutive: must be a whole number"),
    ("GT007.names = 3", "GT007.names: must be a name or a list of names"),
    ("GT007.names = [3]", "GT007.names: must be a name or a list of names"),
    ('GT007.names = ["a", ""]', "GT007.names: must be a name or a list of names"),
    ('GT007.names = ""', "GT007.names: must be a name or a list of names"),
    ("GT007.names = true", "GT007.names: must be a name or a list of names"),
    ("GT007.names = {}", "GT007.names: must be a name or a list of names"),
    # thresholds out of their range
    ("GT203.max_norm = nan", "GT203.max_norm: must be a number of at least 0, not nan"),
    ("GT203.max_norm = -nan", "GT203.max_norm: must be a number of at least 0, not nan"),
    ("GT203.max_norm = -1", "GT203.max_norm: must be a number of at least 0, not -1"),
    ("GT203.max_norm = -1e-300", "GT203.max_norm: must be a number of at least 0"),
    ("GT203.max_norm = -inf", "GT203.max_norm: must be a number of at least 0, not -inf"),
    (f"GT203.max_norm = {HUGE}", "GT203.max_norm: must be a number"),
    (f"GT203.max_norm = -{HUGE}", "GT203.max_norm: must be a number"),
    (f"GT203.max_norm = {LONG_HEX}", "GT203.max_norm: "),
    (f"GT006.min_tensors = {HUGE}", "GT006.min_tensors: must be a whole number"),
    (f"GT006.min_tensors = {2**63}", "GT006.min_tensors: must be a whole number"),
    ("GT006.min_tensors = 0", "GT006.min_tensors: must be a whole number of at least 1, not 0"),
    ("GT006.min_tensors = -5", "GT006.min_tensors: must be a whole number of at least 1"),
    ("GT103.max_consecutive = -1", "GT103.max_consecutive: must be a whole number of at least 0"),
    ("GT202.factor = 0.5", "GT202.factor: must be a number of at least 1, not 0.5"),
    ("GT205.max_share = 1.01", "GT205.max_share: must be a number from 0 to 1, not 1.01"),
    ("GT205.max_share = 99.9", "GT205.max_share: must be a number from 0 to 1"),
    ("GT205.max_share = inf", "GT205.max_share: must be a number from 0 to 1, not inf"),
    ("GT205.max_share = -0.1", "GT205.max_share: must be a number from 0 to 1"),
    ("GT205.max_share = nan", "GT205.max_share: must be a number from 0 to 1, not nan"),
    ("GT206.max_share = 2", "GT206.max_share: must be a number from 0 to 1, not 2"),
    ("GT301.max_share = inf", "GT301.max_share: must be a number from 0 to 1"),
    ("GT302.max_z = nan", "GT302.max_z: must be a number"),
    ("GT302.min_spread = 0", "GT302.min_spread: must be a number of at least 1e-06, and finite"),
    ("GT401.norm = nan", "GT401.norm: must be a number"),
    ("GT401.norm = inf", "GT401.norm: must be a number of at least 0, and finite, not inf"),
    ("GT401.rtol = inf", "GT401.rtol: must be a number of at least 0, and finite, not inf"),
    ("GT302.min_spread = inf", "GT302.min_spread: must be a number of at least 1e-06, and finite"),
    ('GT203.max_norm = "None"', "GT203.max_norm: must be a number"),
    ('GT006.min_tensors = "none"', "GT006.min_tensors: must be a whole number"),
    ("GT401.rtol = -1e-9", "GT401.rtol: must be a number of at least 0"),
    ("GT402.max_factor = 0.1", "GT402.max_factor: must be a number of at least 1"),
    ("GT403.max_factor = 0", "GT403.max_factor: must be a number of at least 1"),
    ("GT409.max_share = 1.5", "GT409.max_share: must be a number from 0 to 1"),
    ("GT409.before = -1", "GT409.before: must be a number from 0 to 1"),
    # overrides
    ("[[check.overrides]]", "overrides 1 pattern"),
    ('[[check.overrides]]\nignore = ["GT101"]', "overrides 1 pattern"),
    ('[[check.overrides]]\npattern = []\nignore = ["GT101"]', "overrides 1 pattern"),
    ('[[check.overrides]]\npattern = ""\nignore = ["GT101"]', "overrides 1 pattern"),
    ('[[check.overrides]]\npattern = 3\nignore = ["GT101"]', "overrides 1 pattern"),
    ('[[check.overrides]]\npattern = [3]\nignore = ["GT101"]', "overrides 1 pattern"),
    ('[[check.overrides]]\npattern = ["w", "w"]\nignore = ["GT101"]', "'w' is there twice"),
    ('[[check.overrides]]\npattern = "w"', "overrides 1: it changes nothing"),
    ('[[check.overrides]]\npattern = "w"\nignore = []', "overrides 1: it changes nothing"),
    ('[[check.overrides]]\npattern = "w"\nGT204 = {}', "overrides 1: it changes nothing"),
    ('[[check.overrides]]\npatern = "w"\nignore = ["GT101"]', "patern.*did you mean pattern"),
    ('[[check.overrides]]\npattern = "w"\nignored = ["GT101"]', "ignored.*did you mean ignore"),
    ('[[check.overrides]]\npattern = "w"\nselect = ["GT101"]', "overrides 1 select"),
    ('[[check.overrides]]\npattern = "w"\nignore = "GT101"', "overrides 1 ignore: must be a list"),
    ('[[check.overrides]]\npattern = "w"\nignore = ["GT119"]', "overrides 1 ignore GT119.*GT10"),
    ('[[check.overrides]]\npattern = "w"\nignore = ["GT101", "GT101"]', "'GT101' is there twice"),
    ('[[check.overrides]]\npattern = "w"\nignore = ["GT203"]', "GT203 judges whole dumps"),
    ('[[check.overrides]]\npattern = "w"\nignore = ["GT103"]', "GT103 judges whole dumps"),
    ('[[check.overrides]]\npattern = "w"\nignore = ["GT001"]', "GT001 judges whole dumps"),
    ('[[check.overrides]]\npattern = "w"\nGT203.max_norm = 5', "GT203 judges whole dumps"),
    ('[[check.overrides]]\npattern = "w"\nGT103.max_consecutive = 5', "GT103 judges whole dumps"),
    ('[[check.overrides]]\npattern = "w"\nGT204 = 5', "overrides 1 GT204: must be a table"),
    ('[[check.overrides]]\npattern = "w"\nGT204.max_norm = nan', "overrides 1 GT204.max_norm"),
    ('[[check.overrides]]\npattern = "w"\nGT204.max = 5', "GT204.max.*did you mean max_norm"),
    ('[[check.overrides]]\npattern = "w"\nGT999.max = 5', "overrides 1 GT999"),
    ('[[check.overrides]]\npattern = "w"\nGT202.severity = "error"', "overrides 1"),
    (
        '[[check.overrides]]\npattern = "w"\nGT202 = {factor = 3, severity = "error"}',
        "GT202.severity: one rule has one severity",
    ),
    (
        '[[check.overrides]]\npattern = "w"\nignore = ["GT101"]\nGT202.severity = "error"',
        "GT202.severity: one rule has one severity",
    ),
    (
        '[[check.overrides]]\npattern = "v"\nignore = ["GT101"]\n[[check.overrides]]',
        "overrides 2 pattern",
    ),
    # tables, and what is no TOML
    ("[chekc]", r"\[chekc\].*only check"),
    ("[tool.gradtol.check]", r"\[tool\].*only check"),
    ("[check.GT203]\nmax_norm = 1\nmax_norm = 2", "is no TOML"),
    ("select = []\nselect = []", "is no TOML"),
    ("[check]\n[check]", "is no TOML"),
    ("[check.GT203]\n[check.GT203]", "is no TOML"),
    ("GT203.max_norm = ", "is no TOML"),
    ("GT203.max_norm = 1e", "is no TOML"),
    ("GT203.max_norm = NaN", "is no TOML"),
    ("GT203.max_norm = 01", "is no TOML"),
    (f"GT203.max_norm = 1{'0' * 5_000}", "is no TOML"),
    (f"select = {'[' * 100_000}", "is no TOML"),
    ("{}", "is no TOML"),
    ("\ufeff[check]", "is no TOML"),
    ("[check]\nselect = []\n[tool.gradtool.check]", "has both"),
    ("[tool]\ngradtool = 3", "tool.gradtool: must be a table, not 3"),
    ("[[tool.gradtool]]", "tool.gradtool: must be a table"),
    ("[tool.gradtool.inspect]", r"tool.gradtool.inspect\].*only check"),
    ("[[check]]", "check: must be a table"),
    ("[[tool.gradtool.check]]", "tool.gradtool.check: must be a table"),
]


def document(text: str) -> str:
    """The text of a file: under [check], unless tables are in it."""
    if re.match(r"\[|{|\ufeff", text):
        return text
    return f"[check]\n{text}"


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_refused_by_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "gradtool.toml"
    path.write_text(document(text), "utf-8")
    for read in (lambda: find_config(str(tmp_path)), lambda: load_config(str(path))):
        with pytest.raises(UsageError) as caught:
            config = read()
            resolve(config.settings, Settings(), has_baseline=False, config=config.path)
        message = str(caught.value)
        assert caught.value.exit_code == 2
        assert path.name in message
        assert re.search(said, message), message
        assert len(message) < 600


def test_the_tables_of_others_are_left_alone(tmp_path: Path) -> None:
    others = "[project]\nname = 'x'\n[tool.ruff]\nselect = 3\n[check]\nselect = 3\n"
    (tmp_path / "pyproject.toml").write_text(others + in_pyproject(LOUD))
    assert find_config(str(tmp_path)).settings.thresholds == {"GT203": {"max_norm": 1.0}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[check]\n# \xff", "is no TOML"),
        (b"\xff\xfe[\x00c\x00", "is no TOML"),
        (b"[check]\n\x00", "is no TOML"),
        (b"#" * (1 << 20) + b"\n[check]", "too large"),
        (b"", r"has no \[check\]"),
        (b"# a template\n", r"has no \[check\]"),
        (b"[tool.gradtool]", r"has no \[tool.gradtool.check\]"),
        (b'[check]\nselect = ["' + b"x" * 100_000 + b'"]', "select"),
        (b"[check]\n" + b"k" * 100_000 + b" = 1", "no such key"),
        (b'[check]\nsection = ["' + b"x" * 100_000 + b'"]', "section"),
        (b'[check]\n"a\\nb\\u001b" = 1', "no such key"),
        (b"[check.GT203]\nmax_norm = -1", "GT203.max_norm"),
        (b'[check]\nselect = ["GT203"]\nignore = ["GT203"]', "GT203"),
    ],
)
def test_a_wrong_file_exits_2_with_one_line(content: bytes, said: str, tree: Path) -> None:
    (tree / "own.toml").write_bytes(content)
    result = run("check", "b/c/dump", "--config", "own.toml", "-f", "json:out", cwd=tree)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result)
    assert result.stderr.count("\n") == 1
    assert line.startswith("gradtool: error: own.toml: ")
    assert re.search(said, line), line[:300]
    assert not (tree / "out").exists()


@pytest.mark.parametrize("name", ["gradtool.toml", "pyproject.toml"])
def test_a_configuration_that_is_there_and_cannot_be_read_is_not_passed_over(
    name: str, anyones: Path
) -> None:
    path = anyones / name
    path.mkdir()
    with pytest.raises(UsageError, match=f"{name}: cannot be read"):
        find_config(str(anyones))
    path.rmdir()
    path.symlink_to("nowhere")
    with pytest.raises(UsageError, match=f"{name}: cannot be read"):
        find_config(str(anyones))
    path.unlink()
    path.touch(mode=0)
    with as_nobody(), pytest.raises(UsageError, match=f"{name}: cannot be read"):
        find_config(str(anyones))


# Documents of anything: whatever is in them, a policy comes of it or a UsageError.

KEYS = [
    *("select", "ignore", "overrides", "fail_on", "baseline"),
    *("include", "exclude", "section", "ranks", "replicated", "strip_prefix"),
]
NAMES = sorted({one.name for rule in RULES.values() for one in rule.parameters} | {"severity"})
words = st.one_of(
    st.sampled_from(
        [*KEYS, *RULES, *NAMES, "pattern", "ALL", "GT2", "GT", "error", "warning", "*", "none"]
    ),
    st.text(max_size=5),
)
scalars = st.one_of(
    words,
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, 10**400]),
    st.floats(),
    st.dates(),
    st.times(),
    st.datetimes(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
rule_tables = st.dictionaries(st.sampled_from(NAMES), values, max_size=2)
code_lists = st.lists(st.sampled_from([*RULES, "GT1", "GT2", "ALL"]), max_size=3)
overrides = st.lists(
    st.fixed_dictionaries(
        {"pattern": st.sampled_from(["w", "*", ["a", "b"]])},
        optional={"ignore": code_lists, **dict.fromkeys(RULES, rule_tables)},
    ),
    max_size=2,
)
tables = st.one_of(
    st.dictionaries(words, values, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "select": code_lists,
            "ignore": code_lists,
            "overrides": overrides,
            **dict.fromkeys(RULES, st.one_of(rule_tables, values)),
        },
    ),
)


@settings(max_examples=400)
@given(tables, st.booleans())
@example({"overrides": [{"pattern": "w", "ignore": ["GT101"], "GT202": {"severity": 3}}]}, False)
def test_any_table_gives_a_policy_or_a_usage_error(
    table: dict[str, Any], has_baseline: bool
) -> None:
    try:
        policy = resolve(
            read_settings(table, "gradtool.toml: [check]"), Settings(), has_baseline=has_baseline
        )
    except UsageError as error:
        assert str(error)
        return
    assert {"GT001", "GT002", "GT003"} <= policy.rules.keys()
    for code, rule in policy.rules.items():
        for name, value in table.get(code, {}).items():
            asked = (value,) if name == "names" and isinstance(value, str) else value
            found = rule.severity if name == "severity" else rule.thresholds[name]
            if value == "none" and name != "names":
                asked = None
            assert found == (tuple(asked) if isinstance(asked, list) else asked)


def toml(value: Any) -> str:
    """A value as TOML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str | float | int):
        return json.dumps(value) if isinstance(value, str) else repr(value)
    return str(value.isoformat())


@settings(max_examples=200)
@given(st.one_of(tables.map(lambda table: f"check = {toml(table)}"), st.text(), st.binary()))
def test_any_file_gives_a_policy_or_a_usage_error(scratch: Path, content: str | bytes) -> None:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path = scratch / "gradtool.toml"
    path.write_bytes(data)
    try:
        config = load_config(str(path))
        resolve(config.settings, Settings(), has_baseline=True, config=config.path)
    except UsageError as error:
        assert str(path) in str(error)


def test_junk_never_exits_4(tree: Path) -> None:
    source = random.Random(5)
    alphabet = ["[check]\n", "[[check.overrides]]\n", "GT203", ".max_norm", " = ", "nan", "1", "\n"]
    alphabet += ['"w"', "select", "pattern", "[", "]", "{", "}", ",", "'", "\x00", "\udcff"]
    for _ in range(12):
        text = "[check]\n" + "".join(source.choices(alphabet, k=12))
        (tree / "own.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
        result = run("check", "b/c/dump", "--config", "own.toml", cwd=tree)
        assert result.returncode in range(4), text
        assert "Traceback" not in result.stderr


# Nothing is silently disarmed: what is accepted is in force, and the report says so.

NUMBERS = [
    pytest.param(code, parameter, id=f"{code}.{parameter.name}")
    for code, rule in RULES.items()
    for parameter in rule.parameters
    if parameter.kind != "names"
]


def numbers(parameter: Parameter) -> st.SearchStrategy[float | int]:
    if parameter.kind == "count":
        return st.integers(int(parameter.low), 2**63 - 1)
    high = None if parameter.high == math.inf else parameter.high
    floats = st.floats(parameter.low, high, allow_nan=False)
    whole = st.integers(math.ceil(parameter.low), int(min(high or 2**53, 2**53)))
    return st.one_of(floats, whole)


def echoed(text: str, code: str, name: str) -> list[str]:
    """The values of a threshold that a text report says are in force."""
    found = re.findall(rf"\b{code}((?: \w+=[^,\s]*)+)", " ".join(text.split()))
    return [value for one in found for value in re.findall(rf" {name}=(\S+)", one)]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A baseline that the gradients of the tests below meet."""
    folder = tmp_path_factory.mktemp("baseline")
    save_file(GRADIENTS, str(folder / "dump"))
    gradtool.save_baseline([str(folder / "dump")], folder / "base.json")
    return str(folder / "base.json")


GRADIENTS = {"w": np.float32([3, 4])}


def outcome_with(key: str, value: float, baseline: str) -> CheckOutcome:
    """What comes of a check with every rule in force, and a threshold set."""
    thresholds = {"GT401.norm": 5.0, key: value}
    return gradtool.check(GRADIENTS, baseline=baseline, against=GRADIENTS, thresholds=thresholds)


@pytest.mark.parametrize(("code", "parameter"), NUMBERS)
def test_what_is_accepted_is_in_force_and_echoed(
    code: str, parameter: Parameter, baseline: str
) -> None:
    @settings(max_examples=30)
    @given(numbers(parameter))
    def law(value: float) -> None:
        outcome = outcome_with(f"{code}.{parameter.name}", value, baseline)
        assert outcome.policy.rules[code].thresholds[parameter.name] == value
        text = check_reporter("text")(outcome, Style(verbose=True))
        (said,) = echoed(text, code, parameter.name)
        assert float(said) == pytest.approx(float(value), rel=1e-11, abs=0)
        rules = json.loads(check_reporter("json")(outcome, Style()))["rules"]
        (found,) = (rule["thresholds"][parameter.name] for rule in rules if rule["code"] == code)
        assert float(found) == float(value)

    law()


@pytest.mark.parametrize(
    ("key", "value"),
    [("GT203.max_norm", 1234.567890123456), ("GT006.min_tensors", 1_234_567_890_123_456)],
)
def test_every_digit_of_a_threshold_is_echoed(key: str, value: float, baseline: str) -> None:
    text = check_reporter("text")(outcome_with(key, value, baseline), Style(verbose=True))
    (said,) = echoed(text, *key.split("."))
    assert said == str(value)


@pytest.mark.parametrize(
    "name",
    sorted(CHECK_REPORTERS.keys() - {"github"}),  # no room; its step summary echoes them
)
def test_every_rule_in_force_and_every_override_is_echoed(name: str, tree: Path) -> None:
    text = """
        [check]
        ignore = ["GT206"]
        [check.GT203]
        max_norm = 1234.5
        [[check.overrides]]
        pattern = ["w", "v.*"]
        ignore = ["GT101"]
        GT204.max_norm = 4321.5
    """
    (tree / "gradtool.toml").write_text(text)
    asked = ("check", "dump", "-f", name, "--verbose")
    shown = run(*asked, cwd=tree / "b" / "c").stdout.replace("\\", "")
    for word in ("1234.5", "4321.5", "v.*", "0.999", "gradtool.toml"):
        assert word in shown, word
    for code in RULES:
        in_force = not code.startswith("GT4") and code != "GT206"
        assert (code in shown) == in_force, code


def test_what_sets_no_limit_is_echoed_as_none(baseline: str) -> None:
    outcome = outcome_with("GT203.max_norm", 50.0, baseline)
    text = check_reporter("text")(outcome, Style(verbose=True))
    assert echoed(text, "GT204", "max_norm") == echoed(text, "GT204", "min_norm") == ["none"]


def test_names_are_echoed_one_beside_the_other(baseline: str) -> None:
    names = {"GT007.names": ["w", "w*"]}
    outcome = gradtool.check(GRADIENTS, baseline=baseline, thresholds=names)
    text = " ".join(check_reporter("text")(outcome, Style(verbose=True)).split())
    assert "GT007 names=w w*, " in text


@pytest.mark.parametrize("name", sorted(CHECK_REPORTERS.keys() - {"github"}))
def test_which_tensors_were_judged_is_echoed(name: str, tree: Path) -> None:
    folder = tree / "b" / "c"
    save_file({"grads.w": np.float32([3]), "model.w": np.float32([4])}, str(folder / "dump"))
    plain = run("check", "dump", "-f", name, cwd=folder).stdout
    options = ["-i", "*.w", "-i", "m?del.*", "-x", "*.odd", "--section", "model"]
    shown = run("check", "dump", "-f", name, *options, cwd=folder).stdout.replace("\\", "")
    for word in ("*.w", "m?del.*", "*.odd"):
        assert word not in plain
        assert word in shown
    assert re.search(r"section\W+(value=.)?'?model", shown)
