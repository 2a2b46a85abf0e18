"""Tolerances by name: the first pattern counts, and what none fits is an error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from reports.parsers import validator
from safetensors.numpy import save_file

import gradtool

A = {"embed.w": 1.0, "head.w": 1.0, "layers.0.b": 1.0, "layers.0.w": 1.0, "layers.10.w": 1.0}
B = {**A, "head.w": 1.25, "layers.0.b": 1.5, "layers.10.w": 1.125}


def dump(values: dict[str, float]) -> dict[str, Any]:
    return {name: np.full(4, value, np.float32) for name, value in values.items()}


def same(**call: Any) -> dict[str, bool]:
    difference = gradtool.diff(dump(A), dump(B), **call)
    return {tensor.name: tensor.same for tensor in difference.tensors}


def test_the_first_pattern_that_fits_a_name_counts() -> None:
    tables = [
        {"pattern": "layers.0.*", "rtol": 0.25},
        {"pattern": ["layers.*", "head.*"], "max_rel_l2": 0.25},
        {"pattern": "*"},
    ]
    found = dict.fromkeys(A, True)
    assert same(tolerances=tables) == {**found, "layers.0.b": False}
    # Of the same tables in another order the wide one decides.
    tables[1]["max_rel_l2"] = 0.5
    assert same(tolerances=[tables[1], tables[0], tables[2]]) == found
    tables[1]["max_rel_l2"] = 0.2
    assert same(tolerances=tables) == {**found, "layers.0.b": False, "head.w": False}


def test_each_kind_of_bound_is_that_of_a_call() -> None:
    for name, allowed, refused in (
        ("rtol", 0.5, 0.4999),
        ("atol", 0.5, 0.4999),
        ("max_rel_l2", 0.5, 0.4999),
        ("ulps", 2**22, 2**22 - 1),
    ):
        for bound, wanted in ((allowed, True), (refused, False)):
            by_name = gradtool.diff(dump(A), dump(B), tolerances={"*": {name: bound}})
            given = gradtool.diff(dump(A), dump(B), **{name: bound})  # type: ignore[arg-type]
            assert bool(by_name) == bool(given) == wanted, (name, bound)


def test_a_pattern_without_bounds_asks_for_equal_bits() -> None:
    a, b = {"w": np.zeros(2), "v": np.ones(2)}, {"w": -np.zeros(2), "v": np.ones(2)}
    assert not gradtool.diff(a, b, tolerances={"*": {}})
    assert gradtool.diff(a, b, tolerances={"*": {"atol": 0.0}})


def test_figures_are_the_same_whatever_the_tolerances() -> None:
    random = np.random.default_rng(0)
    a = {f"layers.{n}.w": random.normal(size=50) for n in range(9)}
    b = {name: values * 1.5 for name, values in a.items()}
    plain = gradtool.diff(a, b).to_rows()
    by_name = gradtool.diff(
        a, b, tolerances={f"layers.{n}.*": {"rtol": n / 1e3} for n in range(9)}
    ).to_rows()
    assert len(by_name) == len(plain) == 9
    for one, other in zip(by_name, plain, strict=True):
        for name, value in one.items():  # in the last digit they depend on what is read at once
            wanted = other[name]
            if isinstance(value, float):
                wanted = pytest.approx(wanted, rel=1e-12, abs=1e-12)
            assert value == wanted, name


def test_a_tensor_that_no_pattern_fits_is_an_error_that_names_it() -> None:
    with pytest.raises(gradtool.UsageError, match=r"no tolerance is for 'embed\.w', 'head\.w'"):
        same(tolerances={"layers.*": {"rtol": 1.0}})


def test_wrappers_count_no_more_than_in_any_pattern() -> None:
    a = {f"module.{name}": values for name, values in dump(A).items()}
    assert gradtool.diff(a, dump(B), tolerances={"layers.*": {"rtol": 1}, "*.w": {"atol": 1}})


def test_a_pattern_that_decides_nothing_is_told() -> None:
    tables = {"*.w": {"rtol": 1}, "head.*": {"rtol": 1}, "*": {"rtol": 1}, "tail": {"rtol": 1}}
    notes = gradtool.diff(dump(A), dump(B), tolerances=tables).notes
    assert [note.partition(" decides nothing")[0] for note in notes] == [
        "the tolerance for 'head.*'", "the tolerance for 'tail'"
    ]  # fmt: skip


def test_any_nan_agrees_with_any_if_that_is_said_for_all_or_for_some() -> None:
    a, b = (np.array([1.0, math.nan]) for _ in "ab")
    b.view(np.uint64)[1] ^= 1
    both = {"v": a, "w": a}, {"v": b, "w": b}
    assert gradtool.diff(*both, tolerances={"*": {"rtol": 0}}, equal_nan=True)
    found = gradtool.diff(*both, tolerances={"v": {"equal_nan": True}, "*": {"rtol": 1}})
    assert [tensor.same for tensor in found.tensors] == [True, False]


WRONG = [
    ("rtol", math.nan, "nan"),
    ("rtol", -1.0, "-1.0"),
    ("atol", math.inf, "inf"),
    ("atol", "1", "'1'"),
    ("max_rel_l2", True, "true"),
    ("max_rel_l2", [1], "[1]"),
    ("ulps", 1.5, "1.5"),
    ("ulps", -1, "-1"),
    ("equal_nan", 1, "1"),
    ("rtoll", 1.0, "1.0"),
]


@pytest.mark.parametrize(("key", "value", "text"), WRONG)
def test_what_is_no_bound_is_refused_by_name_in_a_call_and_in_a_file(
    key: str, value: object, text: str, tmp_path: Path
) -> None:
    with pytest.raises(gradtool.UsageError, match=key):
        same(tolerances={"*": {key: value}})
    config = tmp_path / "gradtool.toml"
    config.write_text(f'[[diff.tolerance]]\npattern = "*"\n{key} = {text}\n')
    with pytest.raises(gradtool.UsageError) as error:
        same(config=config)
    assert str(error.value).startswith(f"{config}: [diff] tolerance 1") and key in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[diff]\ntolerance = "x"', "must be a list of tables"),
        ("[diff]\ntolerance = [1]", "must be a table, not 1"),
        ("[diff]\nrtol = 1.0", "there is no such key, only tolerance"),
        ("[[diff.tolerance]]\nrtol = 1.0", "pattern: must be a glob or globs"),
        ("[[diff.tolerance]]\npattern = []\nrtol = 1.0", "needs at least one"),
        ("[[diff.tolerance]]\npattern = ''", "pattern: must be a glob or globs"),
        ("[diffs]", "there is no such table, only check and diff"),
        ("diff = 1", "diff: must be a table, not 1"),
        ("[check]", "has no [diff]"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(text: str, said: str, tmp_path: Path) -> None:
    config = tmp_path / "gradtool.toml"
    config.write_text(text)
    with pytest.raises(gradtool.UsageError) as error:
        same(config=config)
    assert said in str(error.value)


def test_tolerances_and_bounds_of_a_call_exclude_each_other() -> None:
    with pytest.raises(gradtool.UsageError, match="`rtol` and tolerances by name exclude"):
        same(tolerances={"*": {"rtol": 1.0}}, rtol=1.0)


TOML = """
[[{0}diff.tolerance]]
pattern = ["layers.*", "head.*"]
max_rel_l2 = 0.5

[[{0}diff.tolerance]]
pattern = "embed.*"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    for name, values in (("a", A), ("b", B)):
        save_file(dump(values), tmp_path / "below" / name)
    return tmp_path / "below"


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("gradtool.toml", ""),
        ("gradtool.toml", "tool.gradtool."),
        ("pyproject.toml", "tool.gradtool."),
    ],
)
def test_the_nearest_configuration_counts_unless_bounds_are_given(
    name: str, prefix: str, folder: Path
) -> None:
    assert run("diff", "a", "b", cwd=folder).returncode == 1
    (folder.parent / name).write_text(TOML.format(prefix))
    result = run("diff", "a", "b", "-f", "json", cwd=folder)
    found = json.loads(result.stdout)
    validator("diff-1").validate(found)
    assert (result.returncode, found["config"]) == (0, f"../{name}")
    assert [(one["pattern"], one["max_rel_l2"]) for one in found["tolerances"]] == [
        ("layers.*", 0.5), ("head.*", 0.5), ("embed.*", None)
    ]  # fmt: skip
    table = run("diff", "a", "b", cwd=folder).stdout
    assert table.startswith("the same within the tolerances of 3 patterns: 5 tensors")
    assert run("diff", "a", "b", "--isolated", cwd=folder).returncode == 1
    given = run("diff", "a", "b", "--rtol", "0.1", cwd=folder)
    assert given.returncode == 1
    assert f"the tolerances of ../{name} are not in force: others are given" in given.stdout
    assert run("diff", "a", "b", "--equal-nan", cwd=folder).returncode == 0


def test_a_tensor_that_the_configuration_forgets_exits_2(folder: Path) -> None:
    config = folder / "mine.toml"
    config.write_text('[[diff.tolerance]]\npattern = "layers.*"\nrtol = 9.0\n')
    result = run("diff", "a", "b", "--config", "mine.toml", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result)
    assert "mine.toml: no tolerance is for 'embed.w', 'head.w'" in line
    config.write_text("[check]\n")
    (line,) = error_lines(run("diff", "a", "b", "--config", "mine.toml", cwd=folder))
    assert "mine.toml: has no [diff]" in line


def test_a_table_says_what_is_beyond_the_tolerance(folder: Path) -> None:
    said = run("diff", "a", "b", "--max-rel-l2", "0.2", cwd=folder).stdout
    assert "rel L2 0.25000 beyond max-rel-l2 0.2" in said
    said = run("diff", "a", "b", "--rtol", "0.2", cwd=folder).stdout
    assert "4 of them beyond rtol 0.2" in said
