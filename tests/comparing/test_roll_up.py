"""Pairs together: figures of sections and layers, and how a table tells which layers differ."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

import gradtool
from gradtool.core.comparing.roll_up import PairSummary, by_layer, by_section
from gradtool.report import DIFF_REPORTERS, diff_reporter
from gradtool.report.model import Style

KINDS = ("attn.weight", "mlp.weight", "norm.bias")
LAYERS = 6
RED, YELLOW, DIM = "\x1b[31m", "\x1b[33m", "\x1b[2m"


def model(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    names = [f"model.layers.{n}.{kind}" for n in range(LAYERS) for kind in KINDS]
    return {name: random.normal(size=12).astype(np.float32) for name in [*names, "head.weight"]}


def shown(difference: gradtool.Difference, name: str = "table", **style: Any) -> str:
    return diff_reporter(name)(difference, Style(**style))


def exact(pairs: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> list[float]:
    """`|b - a| / |a|`, cosine and `|b| / |a|` of all elements together."""
    a, b = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    aa, bb, ab = (math.fsum(one * other) for one, other in ((a, a), (b, b), (a, b)))
    dd = math.fsum((b - a) ** 2)
    return [math.sqrt(dd / aa), ab / math.sqrt(aa * bb), math.sqrt(bb / aa)]


def figures(summary: PairSummary) -> list[float | None]:
    return [summary.rel_l2, summary.cosine, summary.norm_ratio]


def test_pairs_together_have_the_figures_of_all_their_elements() -> None:
    a, b = model(0), model(1)
    difference = gradtool.diff(a, b)
    (whole,) = by_section(difference.tensors)
    assert figures(whole) == pytest.approx(exact([(a[n], b[n]) for n in a]), rel=1e-12)
    elements = np.concatenate([*a.values()], dtype=np.float64)
    assert whole.sides[0].norm == pytest.approx(math.sqrt(math.fsum(elements**2)), rel=1e-12)
    layers = by_layer(difference.tensors)
    assert [one.name for one in layers] == [
        *(f"model.layers.{n}" for n in range(LAYERS)), "head.weight"
    ]  # fmt: skip
    for one in layers:
        names = [name for name in a if name.startswith(one.name)]
        assert [pair.name for pair in one.pairs] == names
        assert figures(one) == pytest.approx(exact([(a[n], b[n]) for n in names]), rel=1e-12)
        largest = max(np.abs(b[n].astype(float) - a[n]).max() for n in names)
        assert one.max_abs_diff == pytest.approx(largest, rel=1e-12)


def test_sections_are_totalled_apart(tmp_path: Any) -> None:
    for name, factor in (("a.pt", 1.0), ("b.pt", 2.0)):
        grads, weights = torch.full((4,), 1.5), torch.full((4,), 3.0) * factor
        torch.save({"grads": {"w": grads}, "model": {"w": weights}}, tmp_path / name)
    difference = gradtool.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    found = {one.name: one for one in by_section(difference.tensors)}
    assert {name: one.rel_l2 for name, one in found.items()} == {"grads": 0.0, "model": 1.0}
    assert {name: one.sides[1].norm for name, one in found.items()} == {"grads": 3.0, "model": 12.0}
    told = {one["name"]: one for one in difference.to_dict()["sections"]}
    assert told["model"]["a"]["norm"] == 6.0 and told["model"]["not_same"] == 1
    table = shown(difference)
    assert re.search(r"^grads +1 +- +0 ", table, re.MULTILINE)
    assert re.search(r"^model +1 +1 +1\.0", table, re.MULTILINE)


def test_tied_tensors_count_once_together(tmp_path: Any) -> None:
    for name, value in (("a.pt", 1.0), ("b.pt", 2.0)):
        tied = torch.full((9,), value)
        torch.save({"embed": tied, "head": tied, "w": torch.ones(16)}, tmp_path / name)
    difference = gradtool.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    (whole,) = by_section(difference.tensors)
    assert (len(whole.pairs), whole.apart, whole.sides[0].norm) == (3, 2, 5.0)
    assert whole.rel_l2 == 3.0 / 5.0


def test_what_cannot_be_compared_is_counted_and_in_no_figure() -> None:
    a, b = {"v": np.ones(4), "w": np.ones(9)}, {"v": np.full(4, 2.0), "w": np.ones(8)}
    (whole,) = by_section(gradtool.diff(a, b).tensors)
    assert (whole.apart, whole.compared, whole.rel_l2) == (2, 1, 1.0)
    assert "1 tensor not comparable" in shown(gradtool.diff(a, b))


def test_a_table_tells_in_which_layers_what_differs_and_where_most() -> None:
    a, b = model(), model()
    for n, factor in ((3, 1.001), (4, 1.01), (5, 3.0)):
        for kind in KINDS[:2]:
            b[f"model.layers.{n}.{kind}"] *= np.float32(factor)
    difference = gradtool.diff(a, b)
    for name in ("table", "markdown"):
        text = shown(difference, name).replace("\\", "")
        assert "layers.*.{attn,mlp}.weight in 3 of 6 layers (layers 3 to 5)" in text
        assert "most in layer 5: 2.0000" in text
    every = shown(difference, show_all=True)
    assert re.search(r"^model\.layers\.3 +3 +2 +0\.00", every, re.MULTILINE)
    assert re.search(r"^model\.layers\.2 +3 +- +0 ", every, re.MULTILINE)


def test_three_tensors_are_told_by_themselves() -> None:
    a, b = model(), model()
    for kind in KINDS:
        b[f"model.layers.1.{kind}"] *= np.float32(2.0)
    assert "layers.*" not in shown(gradtool.diff(a, b))


def test_a_difference_is_coloured_by_its_size() -> None:
    a, b = model(), model()
    for n, factor in ((1, 1.0 + 1e-5), (2, 1.01), (3, 2.0)):
        b[f"model.layers.{n}.attn.weight"] *= np.float32(factor)
    b["head.weight"][3] = np.nan
    lines = shown(gradtool.diff(a, b), colour=True, show_all=True).splitlines()
    found = {
        line.split("model.", 1)[-1].split(".attn", 1)[0]: line
        for line in lines
        if ".attn.weight " in line and "first" not in line
    }
    assert found["layers.0"].startswith(DIM)
    assert not found["layers.1"].startswith("\x1b")
    assert found["layers.2"].startswith(YELLOW) and found["layers.3"].startswith(RED)
    assert any(line.startswith(f"{RED}head.weight") for line in lines)


@pytest.mark.parametrize("name", DIFF_REPORTERS)
def test_names_of_layers_act_on_no_terminal(name: str) -> None:
    evil = "\x1b[2J\u202elayers\n::error::"
    a = {f"{evil}{n}.w": np.ones(3) for n in range(5)}
    b = {f"{evil}{n}.w": np.full(3, 2.0) for n in range(5)}
    text = shown(gradtool.diff(a, b), name, show_all=True)
    assert not {"\x1b", "\u202e"} & set(text)
    assert not re.search(r"^\s*::error::", text, re.MULTILINE) or name == "github"
