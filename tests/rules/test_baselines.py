"""What dumps are compared with: written, read back, compared, and refused where it lies."""

from __future__ import annotations

import json
import math
import os
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from dumps import NUMPY_TYPES, write_safetensors
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

import gradtool
from gradtool.api.baselines import save_baseline, update_baseline
from gradtool.core.judging.baseline import NormRange
from gradtool.report.check.baseline_text import difference
from gradtool.report.model import Style
from gradtool.rules.baseline.file import read_baseline, write_baseline
from gradtool.rules.config_file import Config
from gradtool.rules.settings import read_settings

Tree = dict[str, NDArray[Any]]
LENIENT = Config(None, read_settings({"select": ["GT101"]}, "test"))
"""By which dumps of nothing but 0, or near the end of their dtype, are healthy."""

SCHEMA = json.loads(
    (files("gradtool.report") / "schemas" / "baseline-1.schema.json").read_text("utf-8")
)
ROUNDING = 5e-12 * (1 + 1e-3)
"""The largest relative error of twelve digits, that of 1.00000000000|5, and of the arithmetic."""


def dumped(path: Path, tree: Tree) -> Path:
    save_file(tree, path)
    return path


# Saved, and compared with.

NAMES = st.sampled_from(["layers.0.w", "layers.2.w", "layers.10.w", "layers.b", "é \"\\\n'", "1"])
TENSORS = st.tuples(
    st.sampled_from(["F16", "BF16", "F32", "F64", "C64"]),
    st.lists(st.floats(-6e4, 6e4), max_size=4),
)


def array_of(dtype: str, values: list[float]) -> NDArray[Any]:
    return np.array(values).astype(NUMPY_TYPES[dtype])


def norm(array: NDArray[Any], p: float) -> float:
    magnitudes = [abs(complex(x)) for x in array]
    if p == math.inf:
        return max(magnitudes, default=0.0)
    return math.fsum(x**p for x in magnitudes) ** (1 / p)


@settings(max_examples=100)
@given(
    dumps=st.lists(st.lists(st.floats(-6e4, 6e4), min_size=3, max_size=3), min_size=1, max_size=4),
    p=st.sampled_from([1.0, 2.0, 3.0, math.inf]),
    dtype=st.sampled_from(["F16", "BF16", "F32", "F64"]),
)
def test_a_baseline_holds_the_range_of_its_dumps_and_none_of_them_drifts(
    dumps: list[list[float]], p: float, dtype: str, scratch: Path
) -> None:
    paths, found, totals = [], [], []
    for number, values in enumerate(dumps):
        tree = {"w": array_of(dtype, values), "b": array_of(dtype, values[:1])}
        paths.append(scratch / f"range{number}.safetensors")
        write_safetensors(paths[-1], {name: (dtype, array) for name, array in tree.items()})
        found.append((tree["w"], norm(tree["w"].astype(float), p)))
        totals.append(norm(np.concatenate([*tree.values()]).astype(float), p))
    assume(all(total == 0.0 or total > 1e-100 for total in totals))
    saved = save_baseline(paths, scratch / "range.json", force=True, norm_type=p, config=LENIENT)
    read = read_baseline(str(scratch / "range.json"))
    for one in (saved, read):
        assert one.dumps == tuple(map(str, paths))
        assert one.norm_type == p
        tensor = one.tensors["w"]
        assert (tensor.dtype, tensor.shape) == (dtype, (3,))
        norms = [norm for _, norm in found]
        shares = [np.count_nonzero(array == 0) / 3 for array, _ in found]
        close = {"rel": 1e-11}
        assert tensor.norm.low == pytest.approx(min(norms), **close)
        assert tensor.norm.high == pytest.approx(max(norms), **close)
        assert one.total.low == pytest.approx(min(totals), **close)
        assert one.total.high == pytest.approx(max(totals), **close)
        assert tensor.zeros == pytest.approx(max(shares), **close)
    strict = {f"{code}.max_factor": 1 + ROUNDING for code in ("GT402", "GT403")}
    outcome = gradtool.check(
        *paths, baseline=scratch / "range.json", thresholds=strict, norm_type=p, select=["GT4"]
    )
    assert [one.code for one in outcome.all_findings] == []


def test_twelve_digits_are_kept_and_what_they_lose_is_no_drift(tmp_path: Path) -> None:
    """Worst are digits near 1.00000000000|5, where half a unit weighs most."""
    worst = 1.000000000005
    path = dumped(tmp_path / "a.safetensors", {"a": np.array([worst])})
    save_baseline([path], tmp_path / "a.json")
    (low, high) = json.loads((tmp_path / "a.json").read_text())["total"]
    assert low == high
    assert low in (1.0, 1.00000000001)

    def found(off: float) -> list[str]:
        limits = {"GT402.max_factor": 1 + off}
        outcome = gradtool.check(
            path, baseline=tmp_path / "a.json", thresholds=limits, select=["GT402"]
        )
        return [one.code for one in outcome.all_findings]

    assert found(0.0) == []
    dumped(tmp_path / "a.safetensors", {"a": np.array([worst * (1 + 3e-11)])})
    assert found(0.0) == ["GT402"]


@given(
    tensors=st.dictionaries(NAMES, TENSORS, min_size=1),
    p=st.sampled_from([2.0, 0.5, math.inf, -math.inf]),
)
def test_the_file_is_sorted_and_the_same_however_often_it_is_saved(
    tensors: dict[str, Any], p: float, scratch: Path
) -> None:
    path = scratch / "same.safetensors"
    made = {name: (dtype, array_of(dtype, values)) for name, (dtype, values) in tensors.items()}
    write_safetensors(path, made)
    out = scratch / "same.json"
    saved = save_baseline([path], out, force=True, norm_type=p, config=LENIENT)
    data = out.read_bytes()
    for threads in (1, 3):
        save_baseline([path], out, force=True, norm_type=p, threads=threads, config=LENIENT)
        assert out.read_bytes() == data
    lines = data.decode().splitlines()
    entries = [line for line in lines if line.startswith("  ")]
    listed = [next(iter(json.loads("{" + line.rstrip(",") + "}"))) for line in entries]
    order = ["1", "layers.0.w", "layers.2.w", "layers.10.w", "layers.b", "é \"\\\n'"]
    assert listed == [name for name in order if name in tensors]
    parsed = json.loads(data)
    jsonschema.validate(parsed, SCHEMA)
    read = read_baseline(str(out))
    assert list(read.tensors) == list(saved.tensors) == listed
    assert write_baseline(read).encode() == data
    assert saved == read
    old, new = update_baseline([path], out, config=LENIENT)
    assert old == new == saved
    assert difference(old, new, Style()) == "nothing changed\n"
    assert out.read_bytes() == data


def test_natural_order_is_that_of_numbers(tmp_path: Path) -> None:
    names = ["a.10", "a.9", "a.1b", "b", "a.2.w", "a.2.b"]
    path = dumped(tmp_path / "a.safetensors", {name: np.ones(1) for name in names})
    saved = save_baseline([path], tmp_path / "a.json")
    assert list(saved.tensors) == ["a.1b", "a.2.b", "a.2.w", "a.9", "a.10", "b"]


# How far outside.


def factor(low: float, high: float, found: float) -> float:
    return NormRange(low, high).factor(found)


norms = st.floats(1e-150, 1e150)


@given(norms, norms, st.floats(1, 1e150))
def test_a_part_is_as_far_off_as_the_same_multiple(one: float, two: float, times: float) -> None:
    low, high = sorted((one, two))
    below, above = factor(low, high, low / times), factor(low, high, high * times)
    assert below == pytest.approx(times)
    assert above == pytest.approx(times)


@given(norms, norms, norms)
def test_inside_the_factor_is_1_and_outside_the_larger_over_the_smaller(
    one: float, two: float, found: float
) -> None:
    low, high = sorted((one, two))
    exact = max(Fraction(1), Fraction(low) / Fraction(found), Fraction(found) / Fraction(high))
    assert factor(low, high, found) == pytest.approx(float(exact), rel=1.1e-11)
    assert (factor(low, high, found) == 1.0) == (low <= found <= high or exact <= 1 + 1e-11)


@given(norms, st.floats(-3e-11, 3e-11))
def test_what_differs_in_digits_that_are_not_kept_is_the_same(norm: float, off: float) -> None:
    found = norm * (1 + off)
    assume(abs(abs(off) - 1e-11) > 1e-15)
    assert (factor(norm, norm, found) == 1.0) == (abs(off) < 1e-11)


def test_factors_of_what_is_no_ordinary_norm() -> None:
    assert math.isnan(factor(1.0, 2.0, math.nan))
    assert math.isnan(factor(0.0, 0.0, math.nan))
    assert factor(0.0, 0.0, 0.0) == 1.0
    assert factor(0.0, 2.0, 0.0) == 1.0
    assert factor(0.0, 0.0, 5e-324) == math.inf
    assert factor(1.0, 2.0, 0.0) == math.inf
    assert factor(1.0, 2.0, math.inf) == math.inf
    assert factor(0.0, 0.0, math.inf) == math.inf
    assert factor(5e-324, 5e-324, 1e308) == math.inf


# What is refused.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nothing_is_made_of_dumps_that_are_not_finite(bad: float, tmp_path: Path) -> None:
    well = dumped(tmp_path / "well.safetensors", {"a": np.ones(2)})
    sick = dumped(tmp_path / "sick.safetensors", {"a": np.array([1.0, bad])})
    out = tmp_path / "out.json"
    for sources in ([sick], [well, sick], [sick, well]):
        with pytest.raises(gradtool.NonFiniteError) as caught:
            save_baseline(sources, out)
        assert caught.value.tensors == ("a",)
        assert "sick.safetensors" in str(caught.value)
        assert sorted(os.listdir(tmp_path)) == ["sick.safetensors", "well.safetensors"]


def test_a_norm_beyond_float64_is_nothing_to_compare_with(tmp_path: Path) -> None:
    huge = dumped(tmp_path / "huge.safetensors", {"a": np.full(4, 1e308)})
    with pytest.raises(gradtool.NormRangeError):
        save_baseline([huge], tmp_path / "out.json")
    assert os.listdir(tmp_path) == ["huge.safetensors"]


@pytest.mark.parametrize("other", [np.ones((2, 1)), np.ones(3), np.ones(2, "f4")], ids=str)
def test_dumps_of_several_models_give_no_baseline(other: NDArray[Any], tmp_path: Path) -> None:
    one = dumped(tmp_path / "one.safetensors", {"a": np.ones(2)})
    two = dumped(tmp_path / "two.safetensors", {"a": other})
    with pytest.raises(gradtool.UsageError, match=r"two\.safetensors: 'a'"):
        save_baseline([one, two], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_nothing_is_made_of_dumps_in_which_a_rule_in_force_finds_an_error(tmp_path: Path) -> None:
    well = dumped(tmp_path / "well.safetensors", {"a": np.ones(2), "b": np.ones(2)})
    sick = dumped(tmp_path / "sick.safetensors", {"a": np.array([3e4, 4e4]), "b": np.ones(2)})
    out = tmp_path / "out.json"
    for sources in ([sick], [well, sick], [sick, well]):
        with pytest.raises(gradtool.RefusedError, match=r"sick\.safetensors: GT203") as caught:
            save_baseline(sources, out)
        assert caught.value.exit_code == 1
        assert "\n" not in str(caught.value)
        assert not out.exists()
    save_baseline([well], out)
    before = out.read_bytes()
    with pytest.raises(gradtool.RefusedError):
        update_baseline([sick], out)
    assert out.read_bytes() == before
    other_rules: list[dict[str, Any]] = [
        {"GT203": {"max_norm": 1e5}},
        {"GT203": {"severity": "warning"}, "fail_on": "warning"},
        {"ignore": ["GT203"]},
        {"ignore": ["GT0", "GT1", "GT2", "GT3"]},
        {"select": ["GT1", "GT4", "GT403"]},
        {"select": ["GT1"], "baseline": str(tmp_path / "missing.json")},
    ]
    for table in other_rules:
        config = Config(None, read_settings(table, "test"))
        assert save_baseline([sick], out, force=True, config=config).total.high > 4e4
    out.unlink()
    for table in ({}, {"select": ["GT4"]}, {"select": ["GT2"]}, {"GT203": {"max_norm": 1}}):
        config = Config(None, read_settings(table, "test"))
        with pytest.raises(gradtool.RefusedError):
            save_baseline([sick], out, config=config)
    strict = Config(None, read_settings({"GT006": {"min_tensors": 3}}, "test"))
    with pytest.raises(gradtool.RefusedError, match="GT006"):
        save_baseline([well], out, config=strict)
    assert not out.exists()


def test_a_baseline_never_replaces_what_it_is_made_of(tmp_path: Path) -> None:
    one = dumped(tmp_path / "one.safetensors", {"a": np.ones(2)})
    two = dumped(tmp_path / "two.safetensors", {"a": np.ones(2)})
    link = tmp_path / "link.safetensors"
    link.symlink_to(two)
    before = one.read_bytes(), two.read_bytes()
    folder = tmp_path / "shards"
    folder.mkdir()
    shard = dumped(folder / "s.safetensors", {"a": np.ones(2)})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard.name}}))
    wrong = [([one], one), ([one, two], two), ([one, link], two), ([two], link)]
    wrong += [([folder], shard), ([index], shard), ([index], index)]
    for sources, out in wrong:
        with pytest.raises(gradtool.UsageError, match="one of the dumps"):
            save_baseline(sources, out, force=True)
        with pytest.raises(gradtool.UsageError, match="exists"):
            save_baseline(sources, out)
    assert (one.read_bytes(), two.read_bytes()) == before
    assert json.loads(index.read_text()) == {"weight_map": {"a": shard.name}}
    save_baseline([one], two, force=True)
    assert list(read_baseline(str(two)).tensors) == ["a"]


def test_dumps_of_one_baseline_have_the_same_tensors(tmp_path: Path) -> None:
    """A dump would otherwise not agree with the baseline that it is a part of."""
    whole = dumped(tmp_path / "whole.safetensors", {"a": np.ones(2), "b": np.ones(2)})
    part = dumped(tmp_path / "part.safetensors", {"a": np.ones(2)})
    out = tmp_path / "out.json"
    for sources in ([whole, part], [part, whole], [whole, whole, part]):
        with pytest.raises(gradtool.UsageError, match=r"part\.safetensors: lacks 'b'"):
            save_baseline(sources, out)
        assert not out.exists()
    assert list(save_baseline([whole, part], out, exclude=["b"]).tensors) == ["a"]


def test_one_path_is_enough(tmp_path: Path) -> None:
    path = dumped(tmp_path / "a.safetensors", {"a": np.ones(2)})
    for source in (path, str(path), [path]):
        saved = save_baseline(source, tmp_path / "out.json", force=True)
        assert saved.dumps == (str(path),)
        assert update_baseline(source, tmp_path / "out.json") == (saved, saved)


def test_what_is_there_is_not_overwritten_unless_that_is_asked_for(tmp_path: Path) -> None:
    path = dumped(tmp_path / "a.safetensors", {"a": np.ones(2)})
    out = tmp_path / "out.json"
    out.write_text("mine")
    with pytest.raises(gradtool.UsageError, match="exists"):
        save_baseline([path], out)
    assert out.read_text() == "mine"
    dangling = tmp_path / "link.json"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(gradtool.UsageError, match="exists"):
        save_baseline([path], dangling)
    sick = dumped(tmp_path / "b.safetensors", {"a": np.array([math.nan])})
    with pytest.raises(gradtool.NonFiniteError):
        save_baseline([sick], out, force=True)
    assert out.read_text() == "mine"
    save_baseline([path], out, force=True)
    assert read_baseline(str(out)).total == NormRange(1.41421356237, 1.41421356237)


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    empty = write_safetensors(tmp_path / "a.safetensors", {})
    ones = ("F32", np.ones(2, "f4"))
    state = write_safetensors(tmp_path / "b.safetensors", {"model.w": ones, "optimizer.w": ones})
    with pytest.raises(gradtool.UsageError):
        save_baseline([], tmp_path / "out.json")
    for path in (empty, state):
        with pytest.raises(gradtool.EmptyDumpError):
            save_baseline([path], tmp_path / "out.json")
    with pytest.raises(gradtool.InputError):
        save_baseline([tmp_path / "missing"], tmp_path / "out.json")
    with pytest.raises(gradtool.UsageError):
        save_baseline([state], "", section="model")
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]
    assert list(save_baseline([state], tmp_path / "out.json", section="model").tensors) == [
        "model.w"
    ]


def test_an_update_keeps_the_order_of_norms(tmp_path: Path) -> None:
    path = dumped(tmp_path / "a.safetensors", {"a": np.array([3.0, 4.0])})
    more = dumped(tmp_path / "b.safetensors", {"a": np.array([6.0, 8.0])})
    out = tmp_path / "out.json"
    save_baseline([path], out, norm_type=1.0)
    before = out.read_bytes()
    with pytest.raises(gradtool.UsageError, match="order 1, not 2"):
        update_baseline([more], out, norm_type=2.0)
    with pytest.raises(gradtool.UsageError, match="order 1, not 2"):
        gradtool.check(path, baseline=out)
    assert out.read_bytes() == before
    for options in ({}, {"norm_type": 1.0}):
        old, new = update_baseline([more], out, **options)
        assert (old.norm_type, new.norm_type) == (1.0, 1.0)
    assert (new.total, read_baseline(str(out)).total) == (NormRange(14, 14), NormRange(14, 14))
    with pytest.raises(gradtool.InputError):
        update_baseline([more], tmp_path / "missing.json")
    assert not (tmp_path / "missing.json").exists()


# Files that lie.

TENSOR = {"dtype": "F32", "shape": [2, 3], "norm": [1.0, 2.0], "zeros": 0.25}
WHOLE = {
    "schema": "gradtool.baseline/1",
    "norm_type": 2.0,
    "dumps": ["a.safetensors"],
    "total": [1.0, 2.0],
    "tensors": {"a.w": TENSOR, "b": TENSOR},
}
MARK = "@mark@"


def with_tensor(**fields: Any) -> dict[str, Any]:
    return WHOLE | {"tensors": {"a.w": TENSOR, "b": TENSOR | fields}}


def spelled(value: dict[str, Any], text: str) -> str:
    return json.dumps(value).replace(f'"{MARK}"', text)


def without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}


WRONG_NORMS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "-1", "-1e-300",
               "null", "true", '"1"', "[1]", "{}"]  # fmt: skip
WRONG: dict[str, tuple[str, str | None]] = {
    **{f"no {key}": (spelled(without(WHOLE, key), ""), None) for key in WHOLE},
    **{
        f"no {key} of a tensor": (
            json.dumps(WHOLE | {"tensors": {"a.w": TENSOR, "b": without(TENSOR, key)}}), "b"
        )
        for key in TENSOR
    },
    "another version": (json.dumps(WHOLE | {"schema": "gradtool.baseline/2"}), None),
    "another schema": (json.dumps(WHOLE | {"schema": "gradtool.check/1"}), None),
    **{f"schema {text}": (spelled(WHOLE | {"schema": MARK}, text), None)
       for text in ("null", "1", "[]", "{}", '"\\n"')},
    "a field more": (json.dumps(WHOLE | {"mean": 1}), None),
    "a field more of a tensor": (json.dumps(with_tensor(mean=1)), "b"),
    "a key twice": ('{"schema": "gradtool.baseline/1", ' + json.dumps(WHOLE)[1:], None),
    "a tensor twice": (json.dumps(WHOLE).replace('"a.w"', '"b"'), None),
    "a field of a tensor twice": (json.dumps(WHOLE).replace('{"dtype"', '{"zeros": 0, "dtype"'),
                                  None),
    **{f"norm {text[:9]}": (spelled(with_tensor(norm=[0.5, MARK]), text),
                            None if "nfinity" in text or text == "NaN" else "b")
       for text in WRONG_NORMS},
    **{f"low norm {text[:9]}": (spelled(with_tensor(norm=[MARK, 0.5]), text),
                                None if "nfinity" in text or text == "NaN" else "b")
       for text in WRONG_NORMS},
    **{f"total {text[:9]}": (spelled(WHOLE | {"total": [0.5, MARK]}, text),
                             None)
       for text in WRONG_NORMS},
    **{f"norms {text}": (spelled(with_tensor(norm=MARK), text), "b")
       for text in ("[]", "[1]", "[1, 2, 3]", "1", "null", "{}", '"12"', "[2, 1]")},
    "total reversed": (json.dumps(WHOLE | {"total": [2, 1]}), None),
    **{f"zeros {text[:9]}": (spelled(with_tensor(zeros=MARK), text), "b")
       for text in ("1.5", "-0.5", "2", "1e999", "1" + "0" * 400, "null", "true", "[0]", '"0"')},
    **{f"shape {text[:9]}": (spelled(with_tensor(shape=MARK), text), "b")
       for text in ("[-1]", "[2, -3]", "[2.0]", "[true]", "[null]", "2", "null", '"2"', "{}",
                    "[[2]]")},
    **{f"dtype {text}": (spelled(with_tensor(dtype=MARK), text), "b")
       for text in ('"F33"', '"f32"', '""', "null", "1", "[]", "{}", '["F32"]')},
    **{f"tensor {text}": (spelled(WHOLE | {"tensors": {"b": MARK}}, text), "b")
       for text in ("null", "1", "[]", "{}", '"b"')},
    **{f"tensors {text}": (spelled(WHOLE | {"tensors": MARK}, text), None)
       for text in ("null", "1", "[]", "{}", '"b"')},
    **{f"dumps {text}": (spelled(WHOLE | {"dumps": MARK}, text), None)
       for text in ("null", "1", "[]", "{}", '"b"', "[1]", "[null]")},
    **{f"norm_type {text[:9]}": (spelled(WHOLE | {"norm_type": MARK}, text), None)
       for text in ("null", "true", '"2"', '"inf"', '"NaN"', "NaN", "Infinity", "1e999", "-1e999",
                    "1" + "0" * 400, "[]", "1" + "0" * 5000)},
    **{f"all {text[:9]}": (text, None)
       for text in ("", " ", "null", "1", "[]", "{}", '"b"', "\ufeff" + json.dumps(WHOLE),
                    json.dumps(WHOLE) + "x", json.dumps(WHOLE) * 2, "\0", "[" * 100_000,
                    '{"a":' * 100_000, json.dumps(WHOLE)[:-1] + ",}")},
}  # fmt: skip


def assert_one_line(error: gradtool.InputError, path: Path, tensor: str | None) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1000
    assert (error.path, error.tensor) == (str(path), tensor)
    assert text.startswith(f"{path}: {tensor!r}: " if tensor else f"{path}: ")


def test_what_is_broken_below_is_whole_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(WHOLE))
    found = read_baseline(str(path))
    assert found.tensors["b"].norm == found.total == NormRange(1.0, 2.0)
    jsonschema.validate(WHOLE, SCHEMA)
    for p, text in ((math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (3.0, "3")):
        path.write_text(spelled(WHOLE | {"norm_type": MARK}, text))
        assert read_baseline(str(path)).norm_type == p


@pytest.mark.parametrize("name", WRONG)
def test_a_baseline_that_is_wrong_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    text, tensor = WRONG[name]
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    with pytest.raises(gradtool.InputError) as caught:
        read_baseline(str(path))
    assert_one_line(caught.value, path, tensor)
    dump = dumped(tmp_path / "a.safetensors", {"b": np.ones(1)})
    with pytest.raises(gradtool.InputError):
        gradtool.check(dump, baseline=path)
    with pytest.raises(gradtool.InputError):
        update_baseline([dump], path)
    assert path.read_bytes() == text.encode()


def test_every_beginning_of_a_baseline_is_an_error_but_for_the_last_line_break(
    tmp_path: Path,
) -> None:
    source = dumped(tmp_path / "a.safetensors", {"größe.1": np.ones(2), "b": np.zeros((2, 0))})
    saved = save_baseline([source], tmp_path / "a.json")
    data = (tmp_path / "a.json").read_bytes()
    cut = tmp_path / "cut.json"
    for end in range(len(data) - 1):
        cut.write_bytes(data[:end])
        with pytest.raises(gradtool.InputError) as caught:
            read_baseline(str(cut))
        assert_one_line(caught.value, cut, None)
    cut.write_bytes(data[:-1])
    assert read_baseline(str(cut)).tensors.keys() == saved.tensors.keys()


@settings(max_examples=300)
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject, scratch: Path) -> None:
    whole = bytearray(json.dumps(WHOLE).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = scratch / "changed.json"
    path.write_bytes(bytes(whole))
    try:
        found = read_baseline(str(path))
    except gradtool.InputError as error:
        assert error.path == str(path)
        assert "\n" not in str(error)
    else:
        assert found.tensors


@pytest.mark.parametrize("place", ["dtype", "shape", "norm", "zeros"])
def test_nesting_of_any_depth_is_no_crash(place: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for depth in [*range(1, 1200, 7), 100_000]:
        path.write_text(spelled(with_tensor(**{place: MARK}), "[" * depth + "]" * depth))
        if (place, depth) == ("shape", 1):  # of a scalar
            continue
        with pytest.raises(gradtool.InputError):
            read_baseline(str(path))


def test_what_is_no_file_or_no_text_is_an_error(tmp_path: Path) -> None:
    latin = tmp_path / "latin.json"
    latin.write_bytes(json.dumps(WHOLE).replace("a.w", "é").encode("latin-1"))
    odd = [tmp_path, tmp_path / "missing.json", latin, latin / "below"]
    for path in odd:
        with pytest.raises(gradtool.InputError) as caught:
            read_baseline(str(path))
        assert_one_line(caught.value, path, None)
    with pytest.raises(gradtool.InputError):
        read_baseline("a\0b")
