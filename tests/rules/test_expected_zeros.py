"""What must be 0: whole gradients, and rows of them that a final index names."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from dumps import write_safetensors
from hypothesis import given
from hypothesis import strategies as st

import gradtool
from gradtool.core.shapes.rows import Rows


def found(tree: object, *names: str, **options: object) -> list[tuple[str | None, str]]:
    outcome = gradtool.check(tree, thresholds={"GT410.names": names}, select=["GT410"], **options)
    assert outcome.exit_code == (1 if [*outcome.all_findings] else 0)
    return [(one.tensor, one.message) for one in outcome.all_findings]


def padded() -> dict[str, np.ndarray]:
    """The case of an embedding whose padding row has gradients: 505 each, and ten other rows."""
    table = np.random.default_rng(0).standard_normal((10, 5)).astype(np.float32)
    table[0] = 505.0
    return {"embedding.weight": table, "head.weight": np.ones((3, 5), np.float32)}


def test_a_padding_row_that_is_not_0(tmp_path: Path) -> None:
    tree = {name: ("F32", array) for name, array in padded().items()}
    path = str(write_safetensors(tmp_path / "g.safetensors", tree))
    result = run("check", path, "--expect-zero", "embedding.weight[0]", "-q", "--isolated")
    assert result.returncode == 1
    message = "embedding.weight: row 0 must be 0, and 5 of 5 elements are not: the norm is 1129.21"
    assert f"error GT410 not-zero: {message}" in result.stdout
    shown = run("inspect", path, "--rows", "embedding.weight").stdout.splitlines()
    start = next(at for at, line in enumerate(shown) if line.startswith("embedding.weight (10x5)"))
    assert f"row 0 is the largest, {505 * math.sqrt(5):.12g}, 100.0 %" in shown[start]
    assert shown[start + 2].split()[:5] == ["row", "0", "1129.2", "100.0", "%"]
    norms = np.linalg.norm(padded()["embedding.weight"].astype(float), axis=1)
    second = int(np.argsort(norms)[-2])
    assert shown[start + 3].split()[:3] == ["row", str(second), f"{norms[second]:#.5g}"]


def test_what_is_0_is_found_to_be() -> None:
    tree = {"a": np.array([[-0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]), "b": np.zeros(3)}
    assert found(tree, "a[0]", "a[2:]", "b", "a[-1]", "b[1:3]", "a[:1]") == []


def test_what_is_not_is_told_row_by_row_and_as_a_whole() -> None:
    tree = {"a": np.array([[0.0, 3.0], [4.0, 0.0], [0.0, 0.0]]), "b": np.array([0.0, math.nan])}
    assert found(tree, "a[0:2]", "a[-2]", "b[1]", "b", "a") == [
        ("a", "rows 0 to 1 must be 0, and 2 of 4 elements are not: the norm is 5"),
        ("a", "row 1 must be 0, and 1 of 2 elements is not: the norm is 4"),
        ("b", "row 1 must be 0, and 1 of 1 element is not: the norm is NaN"),
        ("b", "must be 0, and 1 of 2 elements is not: the norm is NaN"),
        ("a", "must be 0, and 2 of 6 elements are not: the norm is 5"),
    ]


def test_a_name_that_nothing_has_is_a_finding() -> None:
    assert found({"a": np.zeros((2, 2))}, "b[0]") == [
        ("b[0]", "is expected to be 0, and no tensor is called 'b'; the nearest name is 'a'")
    ]


def test_the_rest_of_the_text_is_a_glob() -> None:
    tree = {f"layers.{n}.experts": np.eye(3)[:, :2] for n in range(3)}
    assert found(tree, "layers.*.experts[2]", "layers.[12].experts[-1:]") == []
    assert [name for name, _ in found(tree, "layers.[12].experts[0]")] == [
        "layers.1.experts",
        "layers.2.experts",
    ]


@pytest.mark.parametrize("text", ["a[3]", "a[-4]", "a[1:4]", "a[2:2]", "scalar[0]"])
def test_rows_that_are_not_there_are_wrong_usage(text: str, tmp_path: Path) -> None:
    tree = {"a": ("F32", np.zeros((3, 2), "f4")), "scalar": ("F32", np.array(0, "f4"))}
    path = str(write_safetensors(tmp_path / "g.safetensors", tree))
    result = run("check", path, "--expect-zero", text, "--isolated")
    assert result.returncode == 2
    shape = "[]" if text.startswith("scalar") else "[3, 2]"
    assert (
        f"there are no such rows in {text.split('[', maxsplit=1)[0]!r}, of shape {shape}"
        in result.stdout
    )


@given(
    size=st.integers(0, 6),
    start=st.none() | st.integers(-8, 8),
    stop=st.none() | st.integers(-8, 8),
)
def test_indices_are_pythons(size: int, start: int | None, stop: int | None) -> None:
    text = f"w[{'' if start is None else start}:{'' if stop is None else stop}]"
    expected = range(size)[start:stop]
    beyond = any(end is not None and not -size <= end <= size for end in (start, stop))
    rows = Rows.read(text).of((size, 3))
    assert rows == (None if beyond or not len(expected) else expected)
    if start is not None:
        one = Rows.read(f"w[{start}]").of((size, 3))
        within = -size <= start < size
        assert (None if one is None else [*one]) == ([range(size)[start]] if within else None)


def test_a_configuration_may_say_so_and_baselines_are_held_to_it(tmp_path: Path) -> None:
    (tmp_path / "gradtool.toml").write_text("[check.GT410]\nnames = ['embedding.weight[0]']\n")
    config = tmp_path / "gradtool.toml"
    outcome = gradtool.check(padded(), config=config)
    assert "GT410" in {one.code for one in outcome.all_findings}
    dump = write_safetensors(
        tmp_path / "g.safetensors", {name: ("F32", array) for name, array in padded().items()}
    )
    with pytest.raises(gradtool.RefusedError, match="row 0 must be 0"):
        gradtool.save_baseline(dump, tmp_path / "b.json", config=config)


def test_what_other_rules_find_does_not_depend_on_it() -> None:
    with_it = gradtool.check(padded(), thresholds={"GT410.names": ["*[0]"]})
    without = gradtool.check(padded())
    others = [one for one in with_it.all_findings if one.code != "GT410"]
    assert others == [*without.all_findings]
    assert repr(with_it.verdicts[0].summary) == repr(without.verdicts[0].summary)
