"""Clipping in groups: each by its own norm, the first glob that matches a name counting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close, exact_norm
from safetensors.numpy import load_file, save_file

import gradtool

Arrays = dict[str, NDArray[Any]]
NAMES = ("embed.w", "layers.0.w", "layers.1.w", "layers.1.b", "head.w")
GLOBS = st.sampled_from(["*", "layers.*", "*.w", "*.b", "layers.1.*", "head.w", "e*"])
BOUNDS = st.sampled_from([0.0, 1e-3, 0.5, 3.0, 1e6, math.inf])


@st.composite
def gradients(draw: st.DrawFn) -> Arrays:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["f2", "f4", "f8"]))
    scale = draw(st.sampled_from([1e-3, 1.0, 50.0]))
    return {name: (rng.standard_normal((3, 5)) * scale).astype(dtype) for name in NAMES}


def norm_of(arrays: Arrays, names: set[str], p: float = 2.0) -> float:
    return exact_norm([float(x) for name in names for x in arrays[name].reshape(-1)], p)


def first_match(name: str, globs: list[str]) -> str | None:
    """By hand: a `*` at one end only, or the whole name."""
    for glob in globs:
        head, star, tail = glob.partition("*")
        if (name.startswith(head) and name.endswith(tail)) if star else name == glob:
            return glob
    return None


@settings(max_examples=30)
@given(arrays=gradients(), max_norm=BOUNDS, p=st.sampled_from([0.5, 1.0, 2.0, math.inf]))
def test_one_group_of_all_is_clipping_by_the_norm_of_all_bit_for_bit(
    arrays: Arrays, max_norm: float, p: float, scratch: Path
) -> None:
    path, one, other = (scratch / f"{name}.safetensors" for name in ("in", "one", "other"))
    save_file(arrays, path)
    together = gradtool.clip(path, one, max_norm=max_norm, norm_type=p, force=True)
    grouped = gradtool.clip(path, other, groups={"*": max_norm}, norm_type=p, force=True)
    assert one.read_bytes() == other.read_bytes()
    assert grouped.clip_coef is None
    assert grouped.groups[0].clip_coef == together.clip_coef
    assert grouped.groups[0].norm_before == together.norm_before
    assert grouped.groups[0].norm_after == together.norm_after


@settings(max_examples=40)
@given(
    arrays=gradients(),
    groups=st.dictionaries(GLOBS, BOUNDS, min_size=1, max_size=4),
    rest=st.one_of(st.none(), BOUNDS),
)
def test_groups_are_disjoint_and_each_is_clipped_as_if_it_were_alone(
    arrays: Arrays, groups: dict[str, float], rest: float | None, scratch: Path
) -> None:
    path, out = (scratch / f"{name}.safetensors" for name in ("in", "out"))
    save_file(arrays, path)
    outcome = gradtool.clip(path, out, groups=groups, max_norm=rest, force=True)
    after = load_file(out)
    members = {glob: set[str]() for glob in (*groups, None)}
    for name in NAMES:
        members[first_match(name, [*groups])].add(name)
    assert [figures.pattern for figures in outcome.groups] == [*groups, None]
    assert [one.tensors for one in outcome.groups] == [len(found) for found in members.values()]
    assert sum(one.tensors for one in outcome.groups) == outcome.tensors == len(NAMES)
    for figures, (glob, names) in zip(outcome.groups, members.items(), strict=True):
        assert close(figures.norm_before, norm_of(arrays, names))
        assert close(figures.norm_after or 0.0, norm_of(after, names))
        bound = rest if glob is None else groups[glob]
        if bound is None or not names:
            assert all(np.array_equal(after[name], arrays[name]) for name in names)
            continue
        # The last digits of a norm depend on what lies beside its tensors in memory.
        own = gradtool.clip(path, max_norm=bound, include=names, dry_run=True)
        assert close(figures.clip_coef, own.clip_coef or 0.0)
        for name in names:
            scaled = arrays[name].astype("f8") * figures.clip_coef
            assert after[name].tobytes() == scaled.astype(arrays[name].dtype).tobytes()


def test_the_last_equals_sign_divides_and_the_json_says_each_group(tmp_path: Path) -> None:
    save_file({"a=b": np.array([3.0, 4.0]), "c": np.array([2.0])}, tmp_path / "in.safetensors")
    result = run(
        *("clip", "in.safetensors", "--group", "a=*=1", "--eps", "0", "-o", "out.safetensors"),
        *("-f", "json"),
        cwd=tmp_path,
    )
    report = json.loads(result.stdout)
    (group,) = report["groups"]
    assert group == {
        "pattern": "a=*",
        "max_norm": 1.0,
        "clip_coef": 0.2,
        "norm_before": 5.0,
        "tensors": 1,
        "norm_after": pytest.approx(1.0, rel=1e-12),
    }
    assert (report["clip_coef"], report["max_norm"]) == (None, None)
    rest = {"max_norm": None, "clip_coef": 1.0, "norm_before": 2.0, "norm_after": 2.0}
    assert report["rest"] == {"pattern": None, "tensors": 1, **rest}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group", "laers.*=1"], ["'laers.*' matches no tensor", "'layers.0.w'"]),
        (["--group", "*=1", "--group", "*=2"], ["--group '*' is given twice"]),
        (["--group", "1"], ["give GLOB=X"]),
        (["--group", "=1"], ["give GLOB=X"]),
        (["--group", "*=x"], ["'x' is no number"]),
        (["--group", "*=nan"], ["at least 0, not nan"]),
        (["--group", "*=-1"], ["at least 0, not -1"]),
        (["--group", "*=1", "--clip-value", "1"], ["give one of"]),
        (["--group", "*=1", "--per-tensor"], ["not for --group"]),
        (["--group", "*=1", "--total-norm", "3"], ["not for --group"]),
        (["--group", "*=1", "-p", "0"], ["norm of order 0"]),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    options: list[str], words: list[str], tmp_path: Path
) -> None:
    save_file({name: np.ones(3, "f4") for name in NAMES}, tmp_path / "in.safetensors")
    result = run("clip", "in.safetensors", *options, "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    for word in words:
        assert word in result.stderr


def test_a_group_that_earlier_ones_leave_nothing_is_told(tmp_path: Path) -> None:
    save_file({name: np.ones(3, "f4") for name in NAMES}, tmp_path / "in.safetensors")
    outcome = gradtool.clip(
        tmp_path / "in.safetensors", groups={"*": 1.0, "head.w": 2.0}, dry_run=True
    )
    assert outcome.groups[1].tensors == 0
    assert any("'head.w' has no tensor" in note for note in outcome.notes)


def test_groups_see_bare_names(tmp_path: Path) -> None:
    save_file({"module.net.h.w": np.array([3.0, 4.0])}, tmp_path / "in.safetensors")
    for prefix, glob in ((), "net.*"), ("net.", "h.*"):
        outcome = gradtool.clip(
            tmp_path / "in.safetensors", groups={glob: 1.0}, strip_prefix=prefix, dry_run=True
        )
        assert outcome.groups[0].tensors == 1


def test_shared_elements_have_one_group(tmp_path: Path) -> None:
    base = torch.arange(1.0, 9.0)
    tensors = {"a.w": base[:4], "b.w": base[2:6], "c.w": base[6:], "tied.w": base[:4]}
    torch.save(tensors, tmp_path / "in.pt")
    with pytest.raises(gradtool.UsageError, match="in one group"):
        # Also where no factor differs: the elements would count in one of the norms only.
        gradtool.clip(tmp_path / "in.pt", groups={"a.*": 1e6, "b.*": 1e6}, dry_run=True)
    with pytest.raises(gradtool.UsageError, match="in one group"):
        gradtool.clip(tmp_path / "in.pt", groups={"a.*": 1.0}, dry_run=True)
    together = {"c.*": 0.5, "*": 1.0}
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", groups=together, eps=0)
    assert outcome.groups[1].norm_before == pytest.approx(math.sqrt(91), rel=1e-12)
    after = torch.load(tmp_path / "out.pt")
    assert after["tied.w"].data_ptr() == after["a.w"].data_ptr()
    assert torch.allclose(after["c.w"], base[6:] * (0.5 / math.sqrt(7**2 + 8**2)))
    assert torch.allclose(after["b.w"], base[2:6] / math.sqrt(91))


def test_nonfinite_elements_are_refused_or_treated_within_groups(tmp_path: Path) -> None:
    arrays = {"a": np.array([3.0, 4.0, math.nan]), "b": np.array([math.inf, 1.0])}
    save_file(arrays, tmp_path / "in.safetensors")
    path, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    with pytest.raises(gradtool.NonFiniteError):
        gradtool.clip(path, out, groups={"a": 1.0})
    outcome = gradtool.clip(path, out, groups={"a": 1.0}, eps=0, nonfinite="zero")
    after = load_file(out)
    assert after["a"].tolist() == pytest.approx([0.6, 0.8, 0.0], rel=1e-12)
    assert after["b"].tobytes() == arrays["b"].tobytes()  # in no group
    assert outcome.nonfinite_replaced == 1
    gradtool.clip(path, out, groups={"a": 1.0}, eps=0, nonfinite="keep", force=True)
    assert load_file(out)["a"].tolist() == pytest.approx([0.6, 0.8, math.nan], nan_ok=True)


def test_each_rank_has_its_own_factors_as_if_it_were_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    ranks = [{"a.w": np.array([3.0, 4.0]) * at, "b.w": np.array([8.0 / at])} for at in (1, 2)]
    for at, arrays in enumerate(ranks):
        save_file(arrays, tmp_path / "run" / f"rank{at}.safetensors")
    groups = ("--group", "a.*=2.5", "--group", "*=2", "--eps", "0")
    result = run(
        *("clip", "run", "--ranks", "each", *groups, "-o", "out", "-f", "json"), cwd=tmp_path
    )
    report = json.loads(result.stdout)
    assert (report["groups"], report["rest"], report["clip_coef"]) == ([], None, None)
    factors = {
        (one["rank"], group["pattern"]): (group["clip_coef"], group["norm_after"])
        for one in report["ranks"]
        for group in one["groups"]
    }
    assert factors == {
        ("rank 0", "a.*"): (0.5, 2.5),
        ("rank 0", "*"): (0.25, 2.0),
        ("rank 1", "a.*"): (0.25, 2.5),
        ("rank 1", "*"): (0.5, 2.0),
    }
    assert [one["rest"]["tensors"] for one in report["ranks"]] == [0, 0]
    for at, (a, b) in enumerate([(0.5, 0.25), (0.25, 0.5)]):
        name = f"rank{at}.safetensors"
        run("clip", f"run/{name}", *groups, "-o", name, cwd=tmp_path)
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
        after = load_file(tmp_path / "out" / name)
        assert after["a.w"].tolist() == (ranks[at]["a.w"] * a).tolist()
        assert after["b.w"].tolist() == (ranks[at]["b.w"] * b).tolist()


def test_a_group_without_a_tensor_in_one_rank_is_refused_before_any_is_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    for at, name in enumerate(("embed.w", "head.w")):
        save_file({name: np.ones(2), "w": np.ones(2)}, tmp_path / "run" / f"rank{at}.safetensors")
    with pytest.raises(gradtool.UsageError, match=r"rank1\.safetensors: the group 'embed\.\*'"):
        gradtool.clip(tmp_path / "run", tmp_path / "out", groups={"embed.*": 1.0}, ranks="each")
    assert not (tmp_path / "out").exists()


def test_what_a_rank_holds_as_its_own_is_in_the_group_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for at, loss in enumerate((3.0, 3.0, 4.0)):
        others = {"loss": torch.tensor(loss), "lr": torch.tensor(2.0)}
        tree = {"grads": {"w": torch.ones(1)}, **others}
        torch.save(tree, tmp_path / "run" / f"rank{at}.pt")
    groups = {"loss": 2.5, "*": 1.0}
    outcome = gradtool.clip(
        tmp_path / "run", tmp_path / "out", groups=groups, section="other", eps=0
    )
    assert [(one.norm_before, one.tensors) for one in outcome.groups] == [(5, 2), (2, 1), (0, 0)]
    for at, loss in enumerate((1.5, 1.5, 2.0)):
        after = torch.load(tmp_path / "out" / f"rank{at}.pt")
        assert (after["loss"].item(), after["lr"].item()) == (loss, 1.0)
        assert after["grads"]["w"].item() == 1.0
