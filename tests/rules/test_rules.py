"""Each rule finds what it is for, at its bound and no earlier, and nothing else."""

from __future__ import annotations

import json
import math
import re
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from dumps import NUMPY_TYPES, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

import gradtool
from gradtool.api.baselines import save_baseline
from gradtool.core.judging.limits import Limits
from gradtool.core.judging.verdict import CheckOutcome, Finding
from gradtool.formats.dump_metadata import DumpMetadata
from gradtool.rules import RULES
from gradtool.rules.config_file import Config
from gradtool.rules.evidence import DumpRule, Evidence
from gradtool.rules.settings import read_settings
from gradtool.torch import dump_gradients

Array = NDArray[Any]
Tree = dict[str, Array]
Builder = Callable[[Path, bool], Any]
"""Where to write, and whether to be sick: the twin differs in nothing else."""

BFLOAT16: Any = ml_dtypes.bfloat16
ANY_NORM = {"GT203.max_norm": math.inf, "GT203.min_norm": 0}


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def of_norm(norm: float) -> Array:
    """Float64, and the one element in it is its norm."""
    return np.array([norm, 0.0])


class Found(NamedTuple):
    """What a finding says; of one in words only that it says something."""

    code: str
    severity: str
    tensor: str | None = None
    value: float | None = None
    limit: float | None = None
    index: tuple[int, ...] | None = None
    file: str | None = None
    byte: int | None = None


def told(finding: Finding) -> Found:
    assert finding.message
    assert finding.name == RULES[finding.code].name
    return Found(
        finding.code,
        finding.severity,
        finding.tensor,
        None if finding.value is None else pytest.approx(finding.value, rel=1e-12, nan_ok=True),
        finding.limit,
        finding.index,
        finding.file,
        finding.byte,
    )


def codes(outcome: CheckOutcome) -> list[str]:
    return [one.code for one in outcome.all_findings]


def of_code(outcome: CheckOutcome, code: str) -> list[Finding]:
    """One by one, those included that are told together."""
    return [each for one in outcome.all_findings for each in one.each if one.code == code]


def exit_code_of(found: Sequence[Found]) -> int:
    if any(one.code in ("GT001", "GT002", "GT003") for one in found):
        return 3
    return int(any(one.severity == "error" for one in found))


def configured(**table: Any) -> Config:
    return Config(None, read_settings(table, "test"))


def baseline_in(at: Path, tree: Tree) -> str:
    save_file(tree, at / "known.safetensors")
    save_baseline([at / "known.safetensors"], at / "baseline.json", force=True)
    return str(at / "baseline.json")


def truncated(at: Path, sick: bool) -> Path:
    path = write_safetensors(at / "a.safetensors", {"w": ("F32", f32(3, 4)), "v": ("F32", f32(1))})
    if sick:
        path.write_bytes(path.read_bytes()[:-1])
    return path


def truncated_size(at: Path) -> int:
    whole = at / "whole"
    whole.mkdir()
    return truncated(whole, False).stat().st_size - 1


def missing(at: Path, sick: bool) -> Path:
    path = write_safetensors(at / "b.safetensors", {"w": ("F32", f32(3, 4))})
    return at / "a.safetensors" if sick else path


def unknown(at: Path, sick: bool) -> Path:
    path = truncated(at, False)
    if sick:
        path.write_bytes(b"no dump " * 9)
    return path


def empty_file(at: Path, sick: bool) -> Path:
    return write_safetensors(at / "a.safetensors", {} if sick else {"w": ("F32", f32(3, 4))})


def checkpoint(at: Path, sick: bool) -> Path:
    grads = torch.ones(3, dtype=torch.int64 if sick else torch.float32)
    torch.save({"grads": {"w": grads}, "loss": torch.ones(1)}, at / "ckpt.pt")
    return at / "ckpt.pt"


def sharded(at: Path, sick: bool) -> Path:
    shards = ["one.safetensors", "two.safetensors"]
    for name, shard in zip("ab", shards, strict=True):
        save_file({name: f32(3, 4)}, at / shard)
    index = at / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    if sick:
        (at / shards[1]).unlink()
    return index


def scales(at: Path, sick: bool) -> Path:
    kind = "F8_E8M0" if sick else "U8"
    beside = (kind, np.ones(4, np.uint8))
    return write_safetensors(at / "a.safetensors", {"w": ("F32", f32(3, 4)), "scale": beside})


def rank_of(at: Path, sick: bool) -> Path:
    shards = {"w": {"shape": [4], "placements": ["S(0)"], "mesh": [2], "coordinate": [0]}}
    facts = DumpMetadata(1, rank=0, world_size=2 if sick else 1, shards=shards).strings()
    assert facts["gradtool.world_size"] == ("2" if sick else "1")
    return write_safetensors(at / "a.safetensors", {"w": ("F32", f32(3, 4))}, facts)


def absent(at: Path, sick: bool) -> str:
    model = torch.nn.Linear(2, 2)
    model.weight.grad = torch.ones(2, 2)
    model.bias.grad = None if sick else torch.ones(2)
    return dump_gradients(model, at / "a.safetensors")


def two_steps(at: Path, sick: bool) -> list[Path]:
    made = []
    for step, value in enumerate((math.nan, math.nan if sick else 1.0)):
        made.append(at / f"step{step}.safetensors")
        save_file({"w": f32(value, 1)}, made[-1])
    return made


def run_of(sick: Sequence[float], healthy: Sequence[float]) -> Builder:
    """Steps of such norms."""

    def built(at: Path, is_sick: bool) -> list[Path]:
        made = []
        for step, norm in enumerate(sick if is_sick else healthy, 1):
            made.append(at / f"step{step}.safetensors")
            save_file({"w": np.array([float(norm)])}, made[-1])
        return made

    return built


def two_ranks(at: Path, sick: bool) -> Path:
    for rank, value in enumerate((4, 5 if sick else 4)):
        save_file({"w": f32(3, value)}, at / f"rank{rank}.safetensors")
    return at


def subnormals(dtype: str) -> Builder:
    """Three of 300 elements, or two."""
    kind = NUMPY_TYPES[dtype]
    array = np.ones(200, kind)
    array[:2] = ml_dtypes.finfo(kind).smallest_subnormal
    sicker = array.copy()
    sicker[2] = array[0]
    rest = {"a": np.ones(100, kind), "c": array[100:]}
    return either(rest | {"b": sicker[:100]}, rest | {"b": array[:100]})


def either(sick: Tree, healthy: Tree) -> Builder:
    return lambda _, is_sick: sick if is_sick else healthy


def alone(name: str, *, sick: Array, healthy: Array) -> Builder:
    return either({name: sick}, {name: healthy})


def beside(others: Tree, name: str, sick: Array, healthy: Array) -> Builder:
    return either(others | {name: sick}, others | {name: healthy})


@dataclass(frozen=True)
class Case:
    """A sick dump with all that is found in it, and its twin, of which `still` is found."""

    build: Builder
    found: Sequence[Found]
    still: Sequence[Found] = ()
    options: dict[str, Any] = field(default_factory=dict)
    baseline: Tree | None = None
    byte: Callable[[Path], int] | None = None


ONES = {name: np.ones(1) for name in "bcdefghi"}
THREES = {f"layers.{n}.{part}": f32(1) for n in range(5) for part in "abc"}
LAYERS = {f"layers.{n}.w": of_norm(1.0) for n in range(5)}
NAN_THERE = Found("GT101", "error", "w", 1.0, 0.0, (0,))
CASES: dict[str, Case] = {
    "GT001 truncated": Case(
        truncated,
        [Found("GT001", "error", "v", file="a.safetensors")],
        byte=truncated_size,
    ),
    "GT001 missing": Case(missing, [Found("GT001", "error", file="a.safetensors")]),
    "GT001 unknown": Case(unknown, [Found("GT001", "error", file="a.safetensors")]),
    "GT002 empty": Case(empty_file, [Found("GT002", "error", file="a.safetensors")]),
    "GT002 in memory": Case(
        either({"w": np.ones(2, np.int64)}, {"w": np.ones(2, np.float32)}),
        [Found("GT002", "error", file="memory")],
    ),
    "GT002 beside what is other": Case(checkpoint, [Found("GT002", "error")]),
    "GT003": Case(sharded, [Found("GT003", "error", file="model.safetensors.index.json")]),
    "GT004 and GT005": Case(scales, [Found("GT004", "error", "scale"), Found("GT005", "error")]),
    "GT005 ranks": Case(rank_of, [Found("GT005", "error")]),
    "GT006": Case(
        either({"a": f32(1)}, {"a": f32(1), "b": f32(1)}),
        [Found("GT006", "error", None, 1, 2)],
        options={"thresholds": {"GT006.min_tensors": 2}},
    ),
    "GT007": Case(
        either({"a.w": f32(1)}, {"a.bias": f32(1)}),
        [Found("GT007", "error", "*.bias")],
        options={"thresholds": {"GT007.names": ["*.bias", "a.*"]}},
    ),
    "GT008": Case(absent, [Found("GT008", "warning", "bias")]),
    "GT009": Case(
        two_ranks,
        [Found("GT009", "error", "w", index=(1,))],
        options={"ranks": "replica"},
    ),
    "GT010": Case(
        either({k: v for k, v in THREES.items() if k != "layers.2.b"}, THREES),
        [Found("GT010", "error", "layers.2.b")],
    ),
    "GT101": Case(
        alone("w", sick=f32(1, math.nan, math.nan)[None], healthy=f32(1, 1, 1)[None]),
        [Found("GT101", "error", "w", 2.0, 0.0, (0, 1))],
    ),
    "GT102": Case(
        alone("w", sick=f32(1, 1, -math.inf, math.inf), healthy=f32(1, 1, 1, 1)),
        [Found("GT102", "error", "w", 2.0, 0.0, (2,))],
    ),
    "GT103": Case(
        two_steps,
        [NAN_THERE, NAN_THERE, Found("GT103", "error", None, 2.0, 1.0)],
        [NAN_THERE._replace(severity="warning")],
        options={"thresholds": {"GT103.max_consecutive": 1}},
    ),
    "GT104": Case(
        either(
            {"grads": {"w": f32(1, 1)}, "model": {"w": f32(1, math.nan, math.inf)}},
            {"grads": {"w": f32(1, 1)}, "model": {"w": f32(1, 1, 1)}},
        ),
        [Found("GT104", "error", "model.w", 2.0, 0.0, (1,))],
    ),
    "GT201 F16": Case(
        alone("w", sick=np.full(100, 2e4, np.float16), healthy=np.full(100, 2e4, np.float32)),
        [Found("GT201", "error", "w", 2e5, 65504.0)],
        options={"thresholds": ANY_NORM},
    ),
    "GT201 BF16": Case(
        alone("w", sick=np.full(100, 2.0**126, BFLOAT16), healthy=np.full(100, 2.0**126)),
        [Found("GT201", "error", "w", 10 * 2.0**126, (2.0 - 2.0**-7) * 2.0**127)],
        options={"thresholds": ANY_NORM},
    ),
    "GT201 F32": Case(
        alone("w", sick=np.full(100, 2.0**126, "f4"), healthy=np.full(100, 2.0**126)),
        [Found("GT201", "error", "w", 10 * 2.0**126, (2.0 - 2.0**-23) * 2.0**127)],
        options={"thresholds": ANY_NORM},
    ),
    "GT201 C64": Case(
        alone("w", sick=1j * np.full(100, 2.0**126, "c8"), healthy=1j * np.full(100, 2.0**126)),
        [Found("GT201", "error", "w", 10 * 2.0**126, (2.0 - 2.0**-23) * 2.0**127)],
        options={"thresholds": ANY_NORM},
    ),
    "GT201 the narrower of two": Case(
        beside(
            {"wide": f32(1e6)},
            "narrow",
            np.full(100, 2e4, np.float16),
            np.full(100, 2e4, np.float32),
        ),
        [Found("GT201", "error", "narrow", 2e5, 65504.0)],
        options={"thresholds": ANY_NORM},
    ),
    "GT202": Case(
        alone("w", sick=np.array([32768], "f2"), healthy=np.array([32752], "f2")),
        [Found("GT202", "warning", "w", 32768.0, 32752.0)],
        options={"thresholds": ANY_NORM},
    ),
    "GT202 as stored": Case(
        alone("w", sick=np.array([-32768], "f2"), healthy=np.array([-32752], "f2")),
        [Found("GT202", "warning", "w", 32768.0, 32752.0)],
        options={"loss_scale": 65536.0},
    ),
    "GT202 complex": Case(
        alone("w", sick=np.array([2.0**127 * 1j], "c8"), healthy=np.array([2.0**126 * 1j], "c8")),
        [Found("GT202", "warning", "w", 2.0**127, (2.0 - 2.0**-23) * 2.0**126)],
        options={"thresholds": ANY_NORM},
    ),
    "GT203 above": Case(
        either({"a": f32(30000), "b": f32(40000)}, {"a": f32(3000), "b": f32(4000)}),
        [Found("GT203", "error", "b", 50000.0, 1e4)],
    ),
    "GT203 below": Case(
        alone("a", sick=np.array([2.0**-30]), healthy=np.array([2.0**-20])),
        [Found("GT203", "error", "a", 2.0**-30, 1e-8)],
    ),
    "GT203 beyond float64": Case(
        alone("a", sick=np.full(4, 1.2e308), healthy=np.full(4, 0.6e308)),
        [Found("GT203", "error", "a", math.inf, 1.7e308)],
        options={"thresholds": {"GT203.max_norm": 1.7e308, "GT202.factor": 1}},
    ),
    "GT204 above": Case(
        either({"a": f32(3, 4), "b": f32(6, 8)}, {"a": f32(3, 4), "b": f32(3, 4)}),
        [Found("GT204", "error", "b", 10.0, 5.0)],
        options={"thresholds": {"GT204.max_norm": 5}},
    ),
    "GT204 below": Case(
        either({"a": f32(3, 4), "b": f32(0.25)}, {"a": f32(3, 4), "b": f32(0.5)}),
        [Found("GT204", "error", "b", 0.25, 0.5)],
        options={"thresholds": {"GT204.min_norm": 0.5}},
    ),
    "GT205": Case(
        beside({"a": f32(1)}, "b", np.zeros(1000), np.eye(1, 1000)),
        [Found("GT205", "warning", "b", 1.0, 0.999)],
    ),
    **{
        f"GT206 {dtype}": Case(
            subnormals(dtype), [Found("GT206", "error", "b", 3 / 300, 2 / 300)],
            options={"thresholds": {"GT206.max_share": 2 / 300}},
        )
        for dtype in ("F16", "BF16", "F32", "F64", "C64")
    },
    "GT206 as stored": Case(
        subnormals("F16"),
        [Found("GT206", "error", "b", 3 / 300, 2 / 300)],
        options={"thresholds": {"GT206.max_share": 2 / 300}, "loss_scale": 1024.0},
    ),
    "GT207": Case(
        beside({"layers.0.w": f32(1, 1)}, "layers.1.w", f32(0, 0), f32(0, 1)),
        [Found("GT207", "error", "layers.1.w")],
    ),
    "GT208": Case(
        either(
            {**THREES, **{f"l.{n}.w": f32(0) for n in range(3)}, "l.3.w": f32(1)},
            {**THREES, **{f"l.{n}.w": f32(1) for n in range(4)}},
        ),
        [Found("GT208", "error", None)],
    ),
    "GT209": Case(
        either(
            {**THREES, **{f"layers.{n}.c": f32(0) for n in range(4)}},
            THREES,
        ),
        [Found("GT209", "error", None)],
    ),
    "GT210": Case(
        run_of([2, 2, 2, 2, 7, 2], [2, 2, 2, 2, 5, 2]), [Found("GT210", "error", "w", 3.5, 3.0)]
    ),
    "GT212": Case(
        run_of([2] * 25 + [5], [2] * 25 + [3]), [Found("GT212", "warning", "w", 2.5, 2.0)]
    ),
    "GT213": Case(
        run_of([2] * 12 + [8] * 6, [2] * 12 + [5] * 6),
        [*[Found("GT210", "error", "w", 4.0, 3.0)] * 5, Found("GT213", "warning", None, 4.0, None)],
    ),
    "GT301": Case(
        beside(ONES, "a", np.array([30.0]), np.array([3.0])),
        [Found("GT301", "warning", "a", 900 / 908, 0.95)],
    ),
    "GT301 p=1": Case(
        beside(ONES, "a", np.array([300.0]), np.array([3.0])),
        [Found("GT301", "warning", "a", 300 / 308, 0.95)],
        options={"norm_type": 1.0},
    ),
    "GT302 above": Case(
        beside(LAYERS, "layers.5.w", of_norm(1000.0), of_norm(400.0)),
        [Found("GT302", "error", "layers.5.w", math.log(1000.0), 6.0)],
    ),
    "GT302 below": Case(
        beside(LAYERS, "layers.5.w", of_norm(0.001), of_norm(0.0025)),
        [Found("GT302", "error", "layers.5.w", math.log(1000.0), 6.0)],
    ),
    "GT401": Case(
        alone("a", sick=f32(6, 8), healthy=f32(3, 4)),
        [Found("GT401", "error", None, 10.0, 1e-3)],
        options={"thresholds": {"GT401.norm": 5}},
    ),
    "GT402": Case(
        alone("a", sick=of_norm(20.0), healthy=of_norm(10.0)),
        [Found("GT402", "error", None, 20.0, 10.0)],
        baseline={"a": of_norm(1.0)},
    ),
    "GT402 downwards": Case(
        alone("a", sick=of_norm(0.0625), healthy=of_norm(0.125)),
        [Found("GT402", "error", None, 16.0, 10.0)],
        baseline={"a": of_norm(1.0)},
    ),
    "GT403": Case(
        beside({"a": of_norm(100.0)}, "b", of_norm(64.0), of_norm(30.0)),
        [Found("GT403", "error", "b", 64.0, 30.0)],
        baseline={"a": of_norm(100.0), "b": of_norm(1.0)},
    ),
    "GT403 downwards": Case(
        beside({"a": of_norm(100.0)}, "b", of_norm(0.015625), of_norm(0.5)),
        [Found("GT403", "error", "b", 64.0, 30.0)],
        baseline={"a": of_norm(100.0), "b": of_norm(1.0)},
    ),
    "GT404": Case(
        either({"b": f32(3, 4)}, {"a": f32(3, 4)}),
        [Found("GT404", "error")],
        baseline={"a": f32(3, 4)},
    ),
    "GT405": Case(
        either({"a": f32(3, 4), "b": f32(1)}, {"a": f32(3, 4)}),
        [Found("GT405", "error", "b")],
        baseline={"a": f32(3, 4)},
    ),
    "GT406": Case(
        either({"a": f32(3, 4)}, {"a": f32(3, 4), "b": f32(1)}),
        [Found("GT406", "error", "b")],
        baseline={"a": f32(3, 4), "b": f32(1)},
    ),
    "GT406 absent": Case(
        absent,
        [Found("GT406", "error", "bias"), Found("GT008", "warning", "bias")],
        baseline={"weight": np.ones((2, 2), "f4"), "bias": np.ones(2, "f4")},
    ),
    "GT407": Case(
        alone("a", sick=np.array([3, 4], "f2"), healthy=f32(3, 4)),
        [Found("GT407", "error", "a")],
        baseline={"a": f32(3, 4)},
    ),
    "GT408": Case(
        alone("a", sick=f32(3, 4)[None], healthy=f32(3, 4)),
        [Found("GT408", "error", "a")],
        baseline={"a": f32(3, 4)},
    ),
    "GT410": Case(
        alone("a", sick=f32(0, 0, 3, 4).reshape(2, 2), healthy=f32(3, 4, 0, -0.0).reshape(2, 2)),
        [Found("GT410", "error", "a", 5.0, 0.0)],
        options={"thresholds": {"GT410.names": ["a[-1]"]}},
    ),
    "GT411": Case(
        alone("a", sick=f32(4, 3), healthy=f32(3, 4)),
        [Found("GT411", "error", None)],
        options={"against": {"a": f32(3, 4)}},
    ),
    "GT409": Case(
        alone("a", sick=np.repeat(f32(2, 0, 0, 0), 16), healthy=np.ones(64, "f4")),
        [Found("GT409", "error", "a", 0.75, 0.1)],
        baseline={"a": np.ones(64, "f4")},
    ),
}  # fmt: skip


def test_every_rule_has_a_case() -> None:
    assert {one.code for case in CASES.values() for one in case.found} == set(RULES)
    assert {code for name in CASES for code in re.findall(r"GT\d{3}", name)} == set(RULES)


@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
@pytest.mark.parametrize("name", CASES)
def test_a_rule_finds_what_it_is_for_and_nothing_in_the_twin(
    name: str, *, sick: bool, tmp_path: Path
) -> None:
    case = CASES[name]
    built = case.build(tmp_path, sick)
    options = dict(case.options)
    if case.baseline is not None:
        options["baseline"] = baseline_in(tmp_path, case.baseline)
    expected = case.found if sick else case.still
    outcome = gradtool.check(*(built if isinstance(built, list) else [built]), **options)
    wanted = [
        one
        if one.file in (None, "memory")
        else one._replace(
            file=str(tmp_path / one.file), byte=case.byte(tmp_path) if case.byte else None
        )
        for one in expected
    ]
    assert [told(one) for one in outcome.all_findings] == wanted
    assert outcome.exit_code == exit_code_of(wanted)
    assert outcome.failed == (outcome.exit_code > 0)


def test_a_section_that_was_chosen_is_judged_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    state = {0: {"exp_avg": torch.ones(3)}}
    torch.save({"model": {"w": torch.ones(3)}, "optimizer": {"state": state}}, path)
    for section in ("model", "optimizer"):
        limits = {"GT204.max_norm": 1.5}
        outcome = gradtool.check(path, section=section, thresholds=limits)
        assert [(one.code, one.value) for one in outcome.all_findings] == [
            ("GT204", pytest.approx(math.sqrt(3.0)))
        ]


@dataclass(frozen=True)
class Edge:
    """A figure that equals the bound, which is fine; one float stricter it is not."""

    key: str
    tree: Tree
    bound: float
    stricter: float = 0.0
    others: dict[str, float] = field(default_factory=dict)
    baseline: Tree | None = None


QUARTERS = {f"a{n}": f32(0.5) for n in range(12)}
EDGES = {
    "GT202": Edge("GT202.factor", {"a": np.array([32768], "f2")}, 65504 / 32768, math.inf),
    "GT203 above": Edge("GT203.max_norm", {"a": f32(3), "b": f32(4)}, 5.0),
    "GT203 below": Edge("GT203.min_norm", {"a": f32(3), "b": f32(4)}, 5.0, math.inf),
    "GT204 above": Edge("GT204.max_norm", {"a": f32(3, 4)}, 5.0),
    "GT204 below": Edge("GT204.min_norm", {"a": f32(3, 4)}, 5.0, math.inf),
    "GT205": Edge("GT205.max_share", {"a": f32(1, 0, 1)}, 1 / 3),
    # 1/49*49 is less than 1: a share is what is compared, and no product.
    "GT206": Edge("GT206.max_share", {"a": np.array([2**-24] + 48 * [1], "f2")}, 1 / 49),
    "GT301": Edge("GT301.max_share", {"a99": f32(1)} | QUARTERS, 0.25),
    "GT302": Edge("GT302.max_z", LAYERS | {"layers.9.w": of_norm(8)}, math.log(8.0)),
    # 1 more than the tolerance and 1 more than the next float are two floats.
    "GT401": Edge("GT401.rtol", {"a": f32(3, 4)}, 3.0, others={"GT401.norm": 1.25}),
    "GT401 down": Edge("GT401.rtol", {"a": f32(3, 4)}, 3.0, others={"GT401.norm": 20}),
    "GT402": Edge("GT402.max_factor", {"a": f32(3, 4)}, 2.5, baseline={"a": f32(2, 0)}),
    "GT402 down": Edge("GT402.max_factor", {"a": f32(0.5)}, 4.0, baseline={"a": f32(2)}),
    "GT403": Edge("GT403.max_factor", {"a": f32(3, 4)}, 2.5, baseline={"a": f32(2, 0)}),
    "GT403 down": Edge("GT403.max_factor", {"a": f32(0.5)}, 4.0, baseline={"a": f32(2)}),
    "GT409": Edge(
        "GT409.max_share",
        {"a": np.repeat(f32(2, 0, 0), 22)},
        2 / 3,
        baseline={"a": np.ones(66, "f4")},
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_what_equals_the_bound_is_fine_and_the_next_float_is_not(name: str, tmp_path: Path) -> None:
    edge = EDGES[name]
    code = edge.key[:5]
    known = None if edge.baseline is None else baseline_in(tmp_path, edge.baseline)

    def found(bound: float) -> list[Finding]:
        limits = edge.others | {edge.key: bound}
        return of_code(gradtool.check(edge.tree, thresholds=limits, baseline=known), code)

    assert found(edge.bound) == []
    assert len(found(math.nextafter(edge.bound, edge.stricter))) == 1


@pytest.mark.parametrize(("known", "fires"), [(1, True), (2, False)])
def test_zeros_are_new_where_there_were_few_at_most(
    known: int, *, fires: bool, tmp_path: Path
) -> None:
    """At most a hundredth in the baseline, where that bound stands."""
    before = np.ones(100)
    before[:known] = 0.0
    after = np.ones(100)
    after[:50] = 0.0
    outcome = gradtool.check({"a": after}, baseline=baseline_in(tmp_path, {"a": before}))
    assert codes(outcome) == (["GT409"] if fires else [])


@pytest.mark.parametrize(("size", "fires"), [(63, False), (64, True)])
def test_zeros_of_small_tensors_are_not_new(size: int, *, fires: bool, tmp_path: Path) -> None:
    after = np.ones(size)
    after[:40] = 0.0
    outcome = gradtool.check({"a": after}, baseline=baseline_in(tmp_path, {"a": np.ones(size)}))
    assert codes(outcome) == (["GT409"] if fires else [])


def test_no_tolerance_takes_anything_for_the_expected_norm() -> None:
    """It is by how many times the norm is off, upwards or downwards: 0 is off by any."""
    for norm, rtol, found in ((0, 1e300, ["GT401"]), (2.5, 1, []), (2.4, 1, ["GT401"]),
                              (10, 1, []), (11, 1, ["GT401"])):  # fmt: skip
        limits = {"GT401.norm": 5.0, "GT401.rtol": rtol}
        outcome = gradtool.check({"a": of_norm(norm)}, thresholds=limits, ignore=["GT2"])
        assert codes(outcome) == found, (norm, rtol)


@pytest.mark.parametrize("p", [1.0, 3.0, math.inf, 0.0, -1.0])
def test_bounds_of_ordinary_norms_are_of_order_2(p: float) -> None:
    for norm in (1e5, 1e-9):
        tree = {"a": np.full(2, norm)}
        assert codes(gradtool.check(tree)) == ["GT203"]
        outcome = gradtool.check(tree, norm_type=p)
        assert codes(outcome) == []
        bounds = {"min_norm": None, "max_norm": None}
        assert outcome.policy.rules["GT203"].thresholds == bounds
    given_ = {"GT203.min_norm": 1e9, "GT204.min_norm": 1e9}
    outcome = gradtool.check(tree, norm_type=p, thresholds=given_)
    assert codes(outcome) == ["GT203", "GT204"]
    assert outcome.policy.rules["GT203"].thresholds == {"min_norm": 1e9, "max_norm": None}


@pytest.mark.parametrize(("p", "found"), [(2.0, 1), (0.5, 1), (math.inf, 1), (0.0, 0), (-1.0, 0)])
def test_by_orders_that_are_not_positive_nobody_clips(p: float, found: int) -> None:
    """Whose overflow so costs no step: of order 0 it takes 65520 tensors of float16."""
    measurement = gradtool.measure({"a": np.ones(4, "f2")}, norm_type=p)
    assert measurement.total is not None
    total = replace(measurement.total, native_norm=math.inf)
    rule = RULES["GT201"]
    assert isinstance(rule, DumpRule)
    assert rule.find is not None
    evidence = Evidence(replace(measurement, total=total))
    assert len(list(rule.find(evidence, Limits({}, lambda _: {})))) == found


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("f2", 65504.0), (BFLOAT16, (2.0 - 2.0**-7) * 2.0**127), ("f4", (2.0 - 2.0**-23) * 2.0**127)],
)
def test_headroom_is_half_of_what_the_dtype_holds(dtype: Any, largest: float) -> None:
    half = np.array([largest / 2]).astype(dtype)
    outside = np.nextafter(half, np.array([math.inf]).astype(dtype))
    assert codes(gradtool.check({"a": half}, thresholds=ANY_NORM)) == []
    (finding,) = gradtool.check({"a": outside}, thresholds=ANY_NORM).all_findings
    assert (finding.code, finding.value, finding.limit) == ("GT202", float(outside[0]), largest / 2)


@pytest.mark.parametrize("dtype", ["F8_E5M2", "F8_E4M3"])
def test_fp8_fills_its_range_and_has_no_native_norm(dtype: str) -> None:
    array = np.full(1000, ml_dtypes.finfo(NUMPY_TYPES[dtype]).max, NUMPY_TYPES[dtype])
    assert codes(gradtool.check({"a": array}, thresholds=ANY_NORM)) == []


@pytest.mark.parametrize("dtype", ["F8_E5M2", "F8_E4M3"])
def test_subnormals_of_fp8_are_none_of_other_dtypes(dtype: str) -> None:
    kind = NUMPY_TYPES[dtype]
    small = np.full(1000, ml_dtypes.finfo(kind).smallest_subnormal, kind)
    assert codes(gradtool.check({"a": small})) == []
    half = np.ones(100, "f2")
    half[:2] = 2**-24
    (finding,) = gradtool.check({"a": small, "b": half}).all_findings
    assert (finding.code, finding.tensor, finding.value) == ("GT206", "b", 2 / 100)
    half[0] = 1
    assert codes(gradtool.check({"a": small, "b": half})) == []


def test_a_tensor_that_is_no_gradient_is_named_and_no_part_is_missing(tmp_path: Path) -> None:
    path = scales(tmp_path, True)

    def found(pattern: str, *ignored: str) -> list[str]:
        config = configured(overrides=[{"pattern": pattern, "ignore": list(ignored)}])
        return codes(gradtool.check(path, config=config))

    assert found("scale", "GT004", "GT005") == []
    assert found("scale", "GT004") == ["GT005"]
    assert found("scale", "GT005") == ["GT004"]
    assert found("w", "GT004", "GT005") == ["GT004", "GT005"]


def test_a_number_of_ranks_that_cannot_be_costs_nothing(tmp_path: Path) -> None:
    shards = {"w": {"shape": [4], "placements": ["S(0)"], "mesh": [2], "coordinate": [0]}}
    facts = DumpMetadata(1, rank=0, world_size=2**62, shards=shards).strings()
    path = write_safetensors(tmp_path / "a.safetensors", {"w": ("F32", f32(3, 4))}, facts)
    (finding,) = gradtool.check(path).all_findings
    assert finding.code == "GT005"
    assert f"{2**62:,} ranks" in finding.message
    assert len(finding.message) < 200


def test_a_loss_scale_does_not_hide_what_is_close_to_overflow_nor_blame_the_norm() -> None:
    """Stored 60000, so 0.9 without the scale: the norm is fine and the headroom is not."""
    array = np.full(1, 60000, np.float16)
    assert codes(gradtool.check({"a": array}, loss_scale=65536)) == ["GT202"]
    assert set(codes(gradtool.check({"a": array}))) == {"GT202", "GT203"}


@pytest.mark.parametrize("p", [math.inf, -math.inf, 0.0, -1.0])
def test_norms_without_powers_to_add_have_no_share(p: float) -> None:
    tree = ONES | {"a": np.array([3000.0])}
    assert "GT301" in codes(gradtool.check(tree))
    assert "GT301" not in codes(gradtool.check(tree, norm_type=p))


def test_what_is_stored_once_counts_once_in_shares() -> None:
    base = np.ones(8, np.float32)
    repeated = {f"v{i}": np.broadcast_to(base[i : i + 1], (1 << 10,)) for i in range(8)}
    assert "GT301" not in codes(gradtool.check(repeated))


def test_few_tensors_have_no_dominant_one() -> None:
    seven = {name: np.ones(1) for name in "bcdefg"} | {"a": np.array([3000.0])}
    assert codes(gradtool.check(seven)) == []
    assert codes(gradtool.check(seven | {"h": np.ones(1)})) == ["GT301"]


# Siblings.


DIGITS = "0123456789"


def parted(name: str) -> tuple[str, str, str] | None:
    """A name before its first number at the end of a word, the number, and the rest.

    Letter by letter: another way than the package's.
    """
    start = 0
    for word in re.split("([._/-])", name):
        stem = word.rstrip(DIGITS)
        number = word[len(stem) :]
        if 0 < len(number) < 10 and (not stem or stem[-1] in string.ascii_letters):
            at = start + len(stem)
            return name[:at], number, name[at + len(number) :]
        start += len(word)
    return None


def layer(name: str) -> str:
    parts = parted(name)
    return name if parts is None else parts[0] + parts[1]


def kind_of(name: str, shapes: dict[str, tuple[int, ...]]) -> object:
    """What it has in common with its siblings, all of which are in layers of one make."""

    def rest(other: str) -> str | None:
        parts = parted(other)
        return None if parts is None else parts[2]

    parts = parted(name)
    if parts is None:
        return name
    make = {(rest(other), shapes[other]) for other in shapes if layer(other) == layer(name)}
    return parts[0], parts[2], shapes[name], frozenset(make)


def are_peers(name: str, other: str, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether they are of one layer and shape, and differ in indices only."""
    if name == other:
        return True
    if None in (parted(name), parted(other)) or layer(name) != layer(other):
        return False
    ones, others = (re.split("([./])", one[len(layer(name)) :]) for one in (name, other))

    def alike(one: str, two: str) -> bool:
        indices = all(part and not part.strip(DIGITS) for part in (one, two))
        return one == two or indices

    same = len(ones) == len(others) and all(map(alike, ones, others))
    return same and shapes[name] == shapes[other]


PARTS = ["layers", "0", "1", "12", "007", "w", "", "²", "٣", "1a", "-1", "1" * 10, "#", "l3", "a²1"]
NAMES = st.builds(
    lambda first, others: first + "".join(sep + part for sep, part in others),
    st.sampled_from(PARTS),
    st.lists(st.tuples(st.sampled_from("..../_"), st.sampled_from(PARTS)), max_size=4),
).filter(bool)
LIKELY = st.builds(
    "{}{}{}".format,
    st.sampled_from(["layers.", "block", "#."]),
    st.integers(0, 4),
    st.sampled_from(["", ".w", ".b", ".experts.0.w", ".experts.1.w", ".experts.#.w", "_ih"]),
)


@given(
    st.dictionaries(
        NAMES | LIKELY,
        st.tuples(st.sampled_from([(2,), (2,), (1, 2), (2, 1)]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=300)
def test_what_is_dead_while_most_of_its_siblings_live(tensors: dict[str, Any]) -> None:
    tree = {name: np.full(shape, float(alive)) for name, (shape, alive) in tensors.items()}
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    living = {name for name, (_, alive) in tensors.items() if alive}
    dead = set()
    for name in tensors.keys() - living:
        kind = kind_of(name, shapes)
        others = {one for one in tensors if one != name and kind_of(one, shapes) == kind}
        peers = {one for one in tensors if are_peers(name, one, shapes)}
        if 2 * len(others & living) > len(others) and not peers & living:
            dead.add(name)
    outcome = gradtool.check(tree)
    told, cut_off = ({one.tensor for one in of_code(outcome, code)} for code in ("GT207", "GT208"))
    assert told == dead - cut_off  # of which more is known
    assert cut_off <= tensors.keys() - living


@given(
    st.dictionaries(NAMES | LIKELY, st.sampled_from([1.0, 2.0, 50.0, 1e5, 1e-3, 0.0]), min_size=3)
)
@settings(max_examples=300)
def test_what_is_far_from_the_median_of_its_siblings(norms: dict[str, float]) -> None:
    """Of each layer the one that is farthest, in NumPy."""
    shapes = dict.fromkeys(norms, (2,))
    kinds: dict[object, list[str]] = {}
    for name, norm in norms.items():
        if norm:
            kinds.setdefault(kind_of(name, shapes), []).append(name)
    total = np.linalg.norm(list(norms.values()))
    layers: dict[str, list[tuple[float, str]]] = {}
    for names in kinds.values():
        logs = np.log([norms[name] for name in names])
        middle = np.median(logs)
        spread = max(1.4826 * np.median(np.abs(logs - middle)), 1.0)
        for name, log in zip(names, logs, strict=True):
            small = math.exp(middle) < 1e-5 * total
            z = abs(log - middle) / spread
            if len(names) >= 3 and not small and z > 6.0:
                layers.setdefault(layer(name), []).append((z, name))
    found = of_code(gradtool.check({k: of_norm(v) for k, v in norms.items()}), "GT302")
    assert len(found) == len(layers)
    for one in found:
        assert one.tensor is not None
        worst = max(layers[layer(one.tensor)])
        assert one.value == pytest.approx(worst[0])
        assert (pytest.approx(one.value), one.tensor) in layers[layer(one.tensor)]


@pytest.mark.parametrize("odd", ["9" * 5000, "²", "٣", "1" * 10, "#"])
def test_what_no_layer_is_numbered_with_is_a_name_like_others(odd: str) -> None:
    tree = {f"layers.{part}.w": np.full(2, float(part != odd)) for part in ("0", "1", odd)}
    assert codes(gradtool.check(tree)) == ["GT205"]
    tree = {f"layers.{odd}.{n}": np.full(2, float(n)) for n in range(2)}
    assert codes(gradtool.check(tree)) == ["GT207"]


@pytest.mark.parametrize(
    ("name", "siblings"),
    [
        ("layers.{}.w", True),
        ("layers/{}/w", True),
        ("layers_{}.w", True),
        ("layer-{}", True),
        ("block{}.w", True),
        ("weight_ih_l{}", True),
        ("weight_ih_l{}_reverse", True),
        ("{}", True),
        ("conv{}d.w", False),
        ("layers.{}x.w", False),
        ("layers.²{}.w", False),
        ("layers.#.w{}w", False),
    ],
)
def test_a_number_at_the_end_of_a_word_is_that_of_a_layer(name: str, *, siblings: bool) -> None:
    tree = {name.format(n): np.full(2, float(n != 2)) for n in range(1, 4)}
    assert ("GT207" in codes(gradtool.check(tree))) == siblings


def test_layers_of_another_make_have_no_siblings() -> None:
    """In an nn.Sequential each third may be a normalization, whose bias is as long."""
    model = {f"features.{n}.bias": np.ones(4) for n in (0, 3, 6)}
    model |= {f"features.{n}.weight": np.ones((4, 4)) for n in (0, 3, 6)}
    norms = {f"features.{n}.{part}": np.zeros(4) for n in (1, 4) for part in ("weight", "bias")}
    assert "GT207" not in codes(gradtool.check(model | norms))
    sick = model | {"features.3.bias": np.zeros(4)}
    assert codes(gradtool.check(sick | norms)).count("GT207") == 1
    assert "GT207" not in codes(
        gradtool.check({k: sick[k] for k in sick if k != "features.3.weight"})
    )


@pytest.mark.parametrize(("alive", "others", "fires"), [(1, 2, False), (2, 3, True), (0, 1, False)])
def test_more_than_half_of_the_others_have_to_live(alive: int, others: int, *, fires: bool) -> None:
    tree = {f"layers.{n}.w": np.full(2, float(n < alive)) for n in range(others + 1)}
    assert ("GT207" in codes(gradtool.check(tree))) == fires


def test_an_expert_may_rest_while_another_one_of_its_layer_works() -> None:
    every = [f"layers.{n}.experts.{e}.w" for n in range(4) for e in range(3)]

    def dead(*asleep: str) -> list[str | None]:
        tree = {name: np.full(2, float(name not in asleep)) for name in every}
        return [one.tensor for one in of_code(gradtool.check(tree), "GT207")]

    experts = [name for name in every if name.startswith("layers.2.")]
    assert dead(experts[0]) == dead(*experts[:2]) == []
    assert dead(*experts) == experts
    every += [f"layers.{n}.experts.#.w" for n in range(4)]  # which is the peer of none
    assert dead(*experts) == experts


@pytest.mark.parametrize(("norm", "found"), [(0.9e-5, []), (1.1e-5, ["GT403"])])
def test_what_is_0_but_for_rounding_has_not_drifted(
    norm: float, found: list[str], tmp_path: Path
) -> None:
    """A hundred thousandth of the total, as large in the dump or before."""
    others = {"embed": of_norm(1.0)} | {f"layers.{n}.w": of_norm(1e-9) for n in range(3)}
    last = "layers.3.w"
    for now, before in ((norm, 1e-9), (1e-9, norm)):
        known = baseline_in(tmp_path, others | {last: of_norm(before)})
        assert codes(gradtool.check(others | {last: of_norm(now)}, baseline=known)) == found


@pytest.mark.parametrize("times", [1e-3, 1e3])
def test_what_is_negligible_is_so_beside_its_own_total(times: float, tmp_path: Path) -> None:
    """Totals differ: by that of the other the smaller tensor would be none to leave out."""
    known = baseline_in(tmp_path, {"a": of_norm(1.0), "b": of_norm(0.9e-5)})
    for part, found in ((0.9e-5, {"a"}), (1.1e-5, {"a", "b"})):
        tree = {"a": of_norm(times), "b": of_norm(part * times)}
        outcome = gradtool.check(tree, baseline=known)
        assert {one.tensor for one in of_code(outcome, "GT403")} == found


def test_what_was_0_and_lives_has_not_drifted(tmp_path: Path) -> None:
    known = baseline_in(tmp_path, {"a": of_norm(1.0), "b": np.zeros(2)})
    assert codes(gradtool.check({"a": of_norm(1.0), "b": of_norm(1.0)}, baseline=known)) == []
    known = baseline_in(tmp_path, {"a": of_norm(1.0), "b": of_norm(1e-30)})
    outcome = gradtool.check({"a": of_norm(1.0), "b": of_norm(1.0)}, baseline=known)
    assert codes(outcome) == ["GT403"]


def test_what_drifted_most_comes_first_and_nan_before_it(tmp_path: Path) -> None:
    before = {name: of_norm(1.0) for name in "abcde"}
    known = baseline_in(tmp_path, before)
    tree = before | {"a": of_norm(50.0), "b": of_norm(1e-3), "c": of_norm(200.0), "d": np.zeros(2)}
    found = of_code(gradtool.check(tree, baseline=known), "GT403")
    assert [one.tensor for one in found] == ["d", "b", "c", "a"]
    tree["e"] = f32(math.nan, 1)
    found = of_code(gradtool.check(tree, baseline=known, ignore=["GT101"]), "GT403")
    assert [one.tensor for one in found] == ["e", "d", "b", "c", "a"]


@pytest.mark.parametrize(("norm", "fires"), [(0.9e-5, False), (1.1e-5, True)])
def test_kinds_that_are_0_but_for_rounding_are_not_compared(norm: float, *, fires: bool) -> None:
    """Their median is what counts, and the tensor itself may be as large as it likes."""
    kind = {f"layers.{n}.w": of_norm(norm) for n in range(4)}
    for odd in (1e-1, 1e-9):
        tree = {"embed": of_norm(1.0)} | kind | {"layers.2.w": of_norm(odd)}
        outcome = gradtool.check(tree)
        assert codes(outcome) == (["GT302"] if fires else [])


def test_distances_may_be_more_than_a_float_holds() -> None:
    tree = {f"layers.{n}.w": of_norm(1e300) for n in range(4)} | {"layers.2.w": of_norm(1e-150)}
    (finding,) = of_code(gradtool.check(tree), "GT302")
    assert "1e450 times below" in finding.message
    assert finding.value == pytest.approx(450 * math.log(10))


def test_of_two_siblings_none_is_the_odd_one() -> None:
    strict = {"GT302.max_z": 0.1, "GT302.min_spread": 0.1}
    two = {"layers.0.w": of_norm(1.0), "layers.1.w": of_norm(50.0)}
    assert "GT302" not in codes(gradtool.check(two, thresholds=strict))
    assert "GT302" in codes(gradtool.check(two | {"layers.2.w": of_norm(1.0)}, thresholds=strict))


# What counts as a gradient.


SICK_WEIGHTS = st.sampled_from(
    [np.zeros(2000), np.full(9, 1e30), np.full(9, 60000, "f2"), np.full(9, 2**-24, "f2")]
)


@given(st.dictionaries(st.sampled_from(["0.w", "1.w", "b"]), SICK_WEIGHTS, min_size=1))
def test_weights_and_state_are_judged_for_nothing_but_nan_and_inf(others: Tree) -> None:
    grads = {"0": {"w": f32(1, 2)}, "1": {"w": f32(2, 2)}}
    tree: Any = {"grads": grads, "model": others, "optimizer": others}
    assert codes(gradtool.check(tree)) == []
    for section in ("model", "optimizer"):
        for bad in (math.nan, math.inf, -math.inf):
            tree[section] = others | {"z": f32(1, bad)}
            (finding,) = gradtool.check(tree).all_findings
            assert (finding.code, finding.tensor) == ("GT104", f"{section}.z")
            tree[section] = others


def test_a_mask_among_the_weights_is_sound_and_one_with_anything_else_in_it_is_not() -> None:
    grads = {"w": f32(1, 2)}
    assert codes(gradtool.check({"grads": grads, "model": {"mask": f32(0, -math.inf)}})) == []
    for other in (math.nan, math.inf, 1e-45):
        model = {"mask": f32(0, -math.inf, other)}
        assert codes(gradtool.check({"grads": grads, "model": model})) == ["GT104"]
    for section, values in (("model", [-math.inf, -math.inf]), ("optimizer", [0, -math.inf])):
        assert codes(gradtool.check({"grads": grads, section: {"mask": f32(*values)}})) == ["GT104"]


def test_neighbours_are_of_the_same_section() -> None:
    """Weights next to gradients in a file were not computed together with them."""
    well = {"w": f32(1)}
    parts = {part: {"w": f32(1), "z": f32(math.nan)} for part in ("grads", "model")}
    outcome = gradtool.check(parts | {"optimizer": well})
    said = {one.tensor: one.message.partition("; ")[2] for one in outcome.all_findings}
    assert said == {
        "grads.z": "nearest finite in the model's order: 'grads.w' before",
        "model.z": "nearest finite in the model's order: 'model.w' before",
    }
    infinite = {"a": f32(math.inf), "w": f32(1)}
    (finding,) = gradtool.check({"model": well, "grads": infinite}).all_findings
    assert finding.message.endswith("; nearest finite in the model's order: 'grads.w' after")


def test_neighbours_are_layers_next_to_each_other_however_the_file_is_sorted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sorted.safetensors"
    save_file({f"h.{layer}": f32(math.nan if layer == 1 else 1) for layer in range(12)}, path)
    (finding,) = gradtool.check(path).all_findings
    near = "nearest finite in natural order of names: 'h.0' before, 'h.2' after"
    assert finding.message.endswith(near)


def test_weights_that_are_not_finite_do_not_speak_for_gradients_that_are_not() -> None:
    tree = {"grads": {"w": f32(1, math.nan)}, "model": {"w": f32(math.nan)}}
    found = gradtool.check(tree, ignore=["GT101"])
    assert {one.code for one in found.all_findings} == {"GT104", "GT203"}


@given(st.dictionaries(st.sampled_from(["0.w", "1.w", "b"]), SICK_WEIGHTS, min_size=1))
def test_the_same_numbers_as_gradients_are_judged(grads: Tree) -> None:
    assert codes(gradtool.check({"grads": grads, "model": {"w": f32(1)}}))


def test_a_file_that_is_called_memory_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (verdict,) = gradtool.check("memory").verdicts
    assert (verdict.exit_code, [one.code for one in verdict.findings]) == (3, ["GT001"])


def test_siblings_at_the_end_of_the_range_of_float64_are_compared() -> None:
    tree = {f"layers.{n}.w": np.array([sys.float_info.max]) for n in range(4)}
    assert codes(gradtool.check(tree, select=["GT302"])) == []


def test_tied_tensors_are_judged_once_and_have_all_their_names(tmp_path: Path) -> None:
    first, second = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    model = torch.nn.ModuleDict({"embed": first, "head": second})
    first.weight.grad = torch.tensor([[3.0, math.nan], [0.0, 4.0]])
    path = dump_gradients(model, tmp_path / "a.safetensors")
    for source in (path, model):
        expected = {"GT007.names": ["embed.*", "head.weight"], "GT006.min_tensors": 2}
        outcome = gradtool.check(source, thresholds=expected)
        assert [(one.code, one.tensor) for one in outcome.all_findings] == [
            ("GT006", None),
            ("GT101", "embed.weight"),
        ]
    for pattern, found in (("head.*", []), ("embed.*", []), ("body.*", ["GT101"])):
        config = configured(overrides=[{"pattern": pattern, "ignore": ["GT101"]}])
        for source in (path, model):
            outcome = gradtool.check(source, config=config, ignore=["GT2"])
            assert codes(outcome) == found
            assert len(outcome.notes) == len(found)
    first.weight.grad[0, 1] = 0.0
    limits = {"GT204.max_norm": 5, "GT203.max_norm": 5, "GT401.norm": 5, "GT401.rtol": 1e-15}
    assert codes(gradtool.check(model, thresholds=limits)) == []


# What is not finite.


numbers = st.floats(0, math.inf, exclude_max=True)


@settings(max_examples=100)
@given(
    dtype=st.sampled_from(["f2", "f4", "f8", "c8", BFLOAT16]),
    p=st.sampled_from([2.0, 1.0, 3.5, math.inf, -math.inf, -1.0]),
    at=st.integers(0, 2),
    limits=st.tuples(numbers, st.floats(1, 1e300), numbers, st.booleans()),
    untold=st.sampled_from(["ignored", "overridden"]),
)
def test_nan_passes_no_threshold(
    dtype: Any, p: float, at: int, limits: Any, untold: str, scratch: Path
) -> None:
    """Whatever a norm is compared with, where NaN itself is not told."""
    bound, factor, expected, below = limits
    tree = {name: np.ones(3, dtype) for name in "abc"}
    save_file({name: np.ones(3) for name in tree}, scratch / "known.safetensors")
    known = scratch / "known.json"
    save_baseline([scratch / "known.safetensors"], known, force=True, norm_type=p)
    sick = "abc"[at]
    tree[sick][1] = math.nan
    end = "min_norm" if below else "max_norm"
    thresholds = {f"{code}.{end}": bound for code in ("GT203", "GT204")}
    thresholds |= {f"{code}.max_factor": factor for code in ("GT402", "GT403")}
    thresholds |= {"GT401.norm": expected, "GT401.rtol": bound}
    given_: dict[str, Any] = {"ignore": ["GT101"]}
    if untold == "overridden":
        given_ = {"config": configured(overrides=[{"pattern": sick, "ignore": ["GT101"]}])}
    outcome = gradtool.check(tree, baseline=known, thresholds=thresholds, norm_type=p, **given_)
    about = {
        (one.code, one.tensor)
        for told_of in outcome.all_findings
        for one in told_of.each
        if one.code == "GT401" or (one.value is not None and math.isnan(one.value))
    }
    wanted = {("GT203", sick), ("GT204", sick), ("GT401", None), ("GT402", None), ("GT403", sick)}
    assert about == wanted
    assert outcome.exit_code == 1


@settings(max_examples=150)
@given(
    st.sets(st.sampled_from(sorted(RULES)).filter(lambda code: not RULES[code].mandatory)),
    st.dictionaries(
        st.sampled_from(["layers.0.w", "layers.1.w", "layers.2.w", "b"]),
        st.sampled_from([math.nan, math.inf, 1.0]),
        min_size=1,
    ),
)
def test_nan_is_never_healthy_while_a_rule_that_can_tell_is_in_force(
    ignored: set[str], values: dict[str, float]
) -> None:
    bad = {value for value in values.values() if not math.isfinite(value)}
    outcome = gradtool.check({k: f32(1, v) for k, v in values.items()}, ignore=sorted(ignored))
    can_tell = {"GT203"} | ({"GT101"} if any(map(math.isnan, bad)) else set())
    can_tell |= {"GT102"} if math.inf in bad else set()
    assert outcome.failed == bool(bad and can_tell - ignored)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_told_before_and_instead_of_norms(bad: float, tmp_path: Path) -> None:
    known = baseline_in(tmp_path, {"a": f32(1, 1), "b": of_norm(1.0), "c": f32(1, 1)})
    tree = {"a": f32(1, bad), "b": of_norm(1000.0), "c": f32(1, 1)}
    limits = {"GT204.max_norm": 1e6, "GT401.norm": 5}
    outcome = gradtool.check(tree, baseline=known, thresholds=limits)
    code = "GT101" if math.isnan(bad) else "GT102"
    assert [(one.code, one.tensor) for one in outcome.all_findings] == [
        (code, "a"),
        ("GT403", "b"),
    ]
    compared = [one for one in outcome.all_findings if one.code != code]
    assert not any(word in one.message for one in compared for word in ("NaN", "Inf"))
    untold = gradtool.check(tree, baseline=known, thresholds=limits, ignore=[code])
    assert {(each.code, each.tensor) for one in untold.all_findings for each in one.each} == {
        ("GT203", "a"),
        ("GT204", "a"),
        ("GT401", None),
        ("GT402", None),
        ("GT403", "a"),
        ("GT403", "b"),
    }


# Order and sharding.


ELEMENTS = st.sampled_from([0.0, 1.0, -2.0, 3e5, math.nan, math.inf, -math.inf, 1e-7])
DUMPS = st.dictionaries(
    st.sampled_from([f"layers.{n}.{part}" for n in range(5) for part in ("w", "b")] + ["embed"]),
    st.tuples(st.sampled_from(["F16", "F32", "BF16"]), st.lists(ELEMENTS, min_size=1, max_size=5)),
    min_size=1,
)


def stripped(outcome: CheckOutcome) -> set[object]:
    every = (each for one in outcome.all_findings for each in one.each)
    return {(one.code, one.severity, one.tensor, one.index, one.limit) for one in every}


TIES = {
    "GT203": {name: np.full(2, 1e5) for name in "abc"},
    "GT203 below": {name: np.zeros(2) for name in "abc"},
    "GT203 NaN": {name: np.full(2, math.nan) for name in "abc"},
    "GT201": {name: np.full(100, 2e4, "f2") for name in "abc"},
    "GT206": {name: np.full(2, 2**-24, "f2") for name in "abc"},
    "GT302": {
        f"layers.{n}.{part}": np.full(2, 1e3 if n == 1 else 1.0) for n in range(4) for part in "abc"
    },
}


@pytest.mark.parametrize("name", TIES)
def test_of_equals_the_same_one_is_named_whatever_the_order(name: str) -> None:
    tree = TIES[name]
    found = gradtool.check(tree, ignore=["GT1"])
    assert name[:5] in codes(found)
    assert stripped(gradtool.check(dict(reversed(tree.items())), ignore=["GT1"])) == stripped(found)


@given(dump=DUMPS, data=st.data(), parts=st.integers(1, 3))
def test_order_and_sharding_change_no_verdict(
    dump: dict[str, Any], data: st.DataObject, parts: int, scratch: Path
) -> None:
    with np.errstate(over="ignore"):
        made = {
            name: (dtype, np.array(values).astype(NUMPY_TYPES[dtype]))
            for name, (dtype, values) in dump.items()
        }
    plain = gradtool.check(write_safetensors(scratch / "a.safetensors", made))
    order = data.draw(st.permutations(sorted(made)))
    moved = write_safetensors(scratch / "b.safetensors", {name: made[name] for name in order})
    assert stripped(gradtool.check(moved)) == stripped(plain)
    home = {name: f"s{data.draw(st.integers(1, parts))}.safetensors" for name in order}
    for shard in set(home.values()):
        write_safetensors(scratch / shard, {n: made[n] for n in order if home[n] == shard})
    index = scratch / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": home}))
    sharded_outcome = gradtool.check(index)
    assert stripped(sharded_outcome) == stripped(plain)
    assert sharded_outcome.exit_code == plain.exit_code
    in_memory = {name: made[name][1] for name in order}
    for source, outcome in ((moved, plain), (index, plain), (in_memory, gradtool.check(in_memory))):
        assert is_asserted(source) == (outcome.exit_code != 0)


def is_asserted(source: Any, **options: Any) -> bool:
    try:
        gradtool.assert_healthy(source, **options)
    except AssertionError as error:
        assert str(error)
        return True
    return False


@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
@pytest.mark.parametrize("name", CASES)
def test_asserting_health_fails_where_check_exits_with_another_code(
    name: str, *, sick: bool, tmp_path: Path
) -> None:
    case = CASES[name]
    built = case.build(tmp_path, sick)
    options = dict(case.options)
    if case.baseline is not None:
        options["baseline"] = baseline_in(tmp_path, case.baseline)
    for source in built if isinstance(built, list) else [built]:
        for fail_on in ("error", "warning"):
            code = gradtool.check(source, fail_on=fail_on, **options).exit_code
            assert is_asserted(source, fail_on=fail_on, **options) == (code != 0)
