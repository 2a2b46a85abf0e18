"""Checkpoints that the frameworks wrote hold for gradtool what they hold for the frameworks.

What `tests/writers/run.py` wrote lies in `tests/fixtures/checkpoints`, or in the directory that
GRADTOOL_TEST_CHECKPOINTS names, where frameworks are installed.
"""

from __future__ import annotations

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from oracle import close
from writers.loaders import load
from writers.oracles import DTYPES, norm

import gradtool
from gradtool.core.clipping import TORCH_EPS

FIXTURES: Final = Path(__file__).parents[1] / "fixtures" / "checkpoints"
CHECKPOINTS: Final = Path(os.environ.get("GRADTOOL_TEST_CHECKPOINTS", FIXTURES))

NOT_YET: Final = {
    "torchscript:*": ("clip", "TorchScript is a program: it is measured only"),
}
"""What gradtool cannot do yet: patterns of `layout:path`, which tests those fail, and why.

All else is supported. A row has to go when what it says is no longer so.
"""


def _oracles() -> dict[str, dict[str, Any]]:
    files = sorted(CHECKPOINTS.glob("*/oracle.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


ORACLES: Final = _oracles()


def _marked(test: str, layout: str, path: str, *arguments: object) -> Any:
    """A case of a test, which has to fail as long as the table says so."""
    name = f"{layout}:{path}"
    marks = [
        pytest.mark.xfail(strict=True, reason=why)
        for pattern, (tests, why) in NOT_YET.items()
        if test in tests.split() and fnmatchcase(name, pattern)
    ]
    return pytest.param(str(CHECKPOINTS / layout / path), *arguments, id=name, marks=marks)


def _each(test: str) -> pytest.MarkDecorator:
    """Over every checkpoint: its path, and what the framework says of it."""
    cases = [
        _marked(test, layout, each["path"], each)
        for layout, oracle in ORACLES.items()
        for each in oracle["checkpoints"]
    ]
    return pytest.mark.parametrize(("path", "truth"), cases)


@_each("load")
def test_the_framework_reads_back_what_it_gathered(path: str, truth: dict[str, Any]) -> None:
    found = {
        name: (list(each.shape), DTYPES[each.dtype], norm([each]))
        for name, each in load(path, truth["loader"]).items()
        if each.dtype in DTYPES
    }
    rows = truth["tensors"].items()
    assert found == {name: (row["shape"], row["dtype"], float(row["norm"])) for name, row in rows}


@_each("measure")
def test_measured_as_the_framework_gathers_it(path: str, truth: dict[str, Any]) -> None:
    found = gradtool.measure(path)
    rows = truth["tensors"]
    assert {each.name for each in found.tensors} == rows.keys()
    for each in found.tensors:
        row = rows[each.name]
        assert (list(each.spec.shape), each.spec.dtype.name) == (row["shape"], row["dtype"])
        assert close(each.norm, float(row["norm"])), each.name
    norms = {each.name: each.norm for each in found.sections}
    if len(truth["sections"]) == 1 and found.total is not None:
        norms = dict.fromkeys(truth["sections"], found.total.norm)
    for section, true in truth["sections"].items():
        assert close(norms[section], true), section
    assert "step" not in truth or found.step in (None, truth["step"])


def test_the_trainer_s_own_note_of_the_step_is_read() -> None:
    folder = CHECKPOINTS / "hf_trainer" / "checkpoint"
    noted = ORACLES["hf_trainer"]["checkpoints"]
    steps = {one["path"]: one["step"] for one in noted if "step" in one}
    assert steps
    for path, step in steps.items():
        assert gradtool.measure(folder.parent / path, section="model").step == step


@_each("clip")
def test_clipped_and_read_back_by_the_framework(
    path: str, truth: dict[str, Any], tmp_path: Path
) -> None:
    section = next(each for each in ("grads", "model", "") if each in truth["sections"])
    true = truth["sections"][section]
    out = str(tmp_path / os.path.basename(path))
    known = {each.name for each in gradtool.measure(path).sections}
    chosen: dict[str, Any] = {"section": section} if section in known else {"include": "*"}
    gradtool.clip(path, out, max_norm=true / 3, **chosen)
    before, after = load(path, truth["loader"]), load(out, truth["loader"])
    assert before.keys() == after.keys()
    coef = true / 3 / (true + TORCH_EPS)
    for name, whole in before.items():
        row = truth["tensors"].get(name)
        if row is None or row["section"] != section:
            assert torch.equal(whole, after[name]), name
        else:
            wanted = whole.double() * coef
            info = torch.finfo(whole.dtype)
            # The norm and coef are rounded too.
            room = 4 * info.eps * wanted.abs() + info.tiny
            assert ((after[name].double() - wanted).abs() <= room).all(), name


def test_every_row_of_the_table_is_about_something() -> None:
    names = {
        f"{layout}:{each['path']}" for layout, one in ORACLES.items() for each in one["checkpoints"]
    }
    names |= {f"{layout}:{path}" for layout, one in ORACLES.items() for path in one["refused"]}
    assert [
        pattern for pattern in NOT_YET if not any(fnmatchcase(name, pattern) for name in names)
    ] == []


@pytest.mark.parametrize(
    "path",
    [
        _marked("refuse", layout, path)
        for layout, oracle in ORACLES.items()
        for path in oracle["refused"]
    ],
)
def test_several_checkpoints_are_not_one(path: str) -> None:
    with pytest.raises(gradtool.GradtoolError) as refusal:
        gradtool.measure(path)
    assert refusal.value.exit_code == 2
