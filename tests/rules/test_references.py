"""`check --against`: gradients that are to be those of another dump, element by element."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import error_lines, run

import gradtool

RANDOM = np.random.default_rng(0)
GRADS = {f"layers.{n}.weight": RANDOM.normal(0.0, 1e-2, (8, 6)) for n in range(4)}


def messages(tree: object, **options: object) -> list[str]:
    outcome = gradtool.check(tree, against=GRADS, select=["GT411"], **options)
    found = [one.message for one in outcome.all_findings]
    assert outcome.exit_code == (1 if found else 0)
    return found


def saved(path: Path, tree: dict[str, np.ndarray]) -> str:
    np.savez(path, **tree)
    return str(path)


def test_what_norms_do_not_show_is_an_error() -> None:
    moved = {name: np.roll(each, 1, axis=1) for name, each in GRADS.items()}
    assert gradtool.measure(moved).total.norm == pytest.approx(
        gradtool.measure(GRADS).total.norm, rel=1e-12
    )
    (message,) = messages(moved)
    assert "4 of 4 tensors differ" in message
    assert "first 'layers.0.weight': 48 of 48 elements differ; first at [0, 0]" in message
    assert messages(GRADS) == []


def test_why_is_said_too() -> None:
    (message,) = messages({name: -each for name, each in GRADS.items()})
    assert "GT506 sign" in message
    assert "GT507 factor: factor 8" in messages({n: 8.0 * g for n, g in GRADS.items()})[0]


def test_names_that_are_only_on_one_side_are_told() -> None:
    (message,) = messages({"layers.9.weight": GRADS["layers.0.weight"]})
    assert "no names in common, 4 tensors only in A, 1 tensor only in B" in message
    assert "only in B: 'layers.9.weight'" in message
    wrapped = {f"module._orig_mod.{name}": each for name, each in GRADS.items()}
    assert messages(wrapped) == []


@pytest.mark.parametrize(
    ("bounds", "off", "passes"),
    [
        ({"rtol": 1e-6}, 1e-7, True),
        ({"rtol": 1e-6}, 1e-5, False),
        ({"thresholds": {"GT411.max_rel_l2": 1e-6}}, 1e-7, True),
        ({"thresholds": {"GT411.max_rel_l2": 1e-8}}, 1e-7, False),
        ({"thresholds": {"GT411.atol": 1e-8}}, 1e-7, True),
        ({"thresholds": {"GT411.atol": 1e-12}}, 1e-7, False),
    ],
)
def test_bounds_are_those_of_diff(bounds: dict[str, object], off: float, *, passes: bool) -> None:
    near = {name: each * (1.0 + off) for name, each in GRADS.items()}
    assert (messages(near, **bounds) == []) is passes


def test_tolerances_by_name_of_the_configuration_hold(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.npz", GRADS)
    near = dict(GRADS)
    near["layers.3.weight"] = near["layers.3.weight"] * (1.0 + 1e-6)
    other = saved(tmp_path / "other.npz", near)
    command = ("check", other, "--against", one, "--select", "GT411")
    assert run(*command, cwd=tmp_path).returncode == 1
    tables = '[[diff.tolerance]]\npattern = "layers.3.*"\nrtol = 1e-5\n'
    (tmp_path / "gradtool.toml").write_text(f'{tables}[[diff.tolerance]]\npattern = "*"\n')
    assert run(*command, cwd=tmp_path).returncode == 0


def test_each_dump_of_several_is_compared(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.npz", GRADS)
    same = saved(tmp_path / "step1.npz", GRADS)
    saved(tmp_path / "step2.npz", {name: 2.0 * each for name, each in GRADS.items()})
    result = run("check", str(tmp_path / "step*.npz"), "--against", one, "-q", "--isolated")
    assert result.returncode == 1
    assert result.stdout.count("GT411 differs") == 1
    assert "step2.npz: FAILED" in result.stdout
    assert run("check", same, "--against", one, "-q", "--isolated").returncode == 0


def test_a_reference_that_cannot_be_used_judges_nothing(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.npz", GRADS)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(Path(one).read_bytes()[:900])
    result = run("check", one, "--against", str(cut), "--isolated")
    assert (result.returncode, result.stdout) == (3, "")
    assert len(error_lines(result)) == 1
    assert "this is A of the two dumps" in error_lines(result)[0]
    assert run("check", one, "--against", str(tmp_path / "*.npz"), "--isolated").returncode == 2
    kept = Path(one).read_bytes()
    refused = run("check", str(cut), "--against", one, "-f", f"json:{one}", "--isolated")
    assert refused.returncode == 2
    assert Path(one).read_bytes() == kept


def test_without_a_reference_the_rule_is_not_in_force() -> None:
    assert "GT411" not in gradtool.check(GRADS).policy.rules
    with pytest.raises(gradtool.UsageError, match="GT411 needs a dump to compare with: `against`"):
        gradtool.check(GRADS, thresholds={"GT411.rtol": 1e-3})


def test_suites_assert_that_two_are_the_same() -> None:
    assert gradtool.assert_same(GRADS, GRADS) is None
    turned = {**GRADS, "layers.2.weight": -GRADS["layers.2.weight"]}
    with pytest.raises(AssertionError, match=r"1 of 4 tensors differs\n(.|\n)*sign"):
        gradtool.assert_same(GRADS, turned)
    with pytest.raises(AssertionError) as caught:
        gradtool.assert_same(GRADS, turned)
    assert "--" not in str(caught.value)
    near = {name: each * (1.0 + 1e-7) for name, each in GRADS.items()}
    gradtool.assert_same(GRADS, near, rtol=1e-6)
    with pytest.raises(TypeError, match="rtoll"):
        gradtool.assert_same(GRADS, near, rtoll=1e-6)
