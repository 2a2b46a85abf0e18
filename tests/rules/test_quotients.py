"""A norm that is not the expected one is told with their quotient, and what that may come from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from dumps import write_safetensors
from hypothesis import example, given
from hypothesis import strategies as st

import gradtool
from gradtool.core.judging.quotient import TOLERANCE, Known, explained, plain

COUNTED = "the number of accumulation steps or ranks"


def of_norm(norm: float) -> np.ndarray:
    return np.array([0.6, 0.8]) * norm


@pytest.mark.parametrize(
    ("quotient", "known", "explanation"),
    [
        (8.0011, Known(), f"8, {COUNTED}?"),
        (1 / 8.0011, Known(), f"1/8, one over {COUNTED}?"),
        (math.sqrt(8), Known(), f"sqrt(8), the square root of {COUNTED}?"),
        (1 / math.sqrt(2), Known(), f"1/sqrt(2), one over the square root of {COUNTED}?"),
        (65536.0, Known(), "65536, a loss scale, a power of two?"),
        (2.0**-16, Known(), "1/65536, one over a loss scale, a power of two?"),
        (8.0, Known(ranks=8), "8, the number of ranks?"),
        (math.sqrt(8), Known(ranks=8), "sqrt(8), the square root of the number of ranks?"),
        (3000.0, Known(loss_scale=3000.0), "3000, the loss scale of the dump?"),
        (77_777.0, Known(numel=77_777), "77777, the number of elements: one a mean, one a sum?"),
        (
            math.sqrt(77_777),
            Known(numel=77_777),
            "sqrt(77777), the square root of the number of elements: one is an RMS?",
        ),
    ],
)
def test_what_a_quotient_may_be(quotient: float, known: Known, explanation: str) -> None:
    assert explained(quotient, known) == explanation


@pytest.mark.parametrize("quotient", [0.0, 1.0, 1.0 + TOLERANCE, 8.05, 7.3, math.inf, math.nan])
def test_most_quotients_are_not_explained(quotient: float) -> None:
    assert explained(quotient) is None


@pytest.mark.parametrize("decade", range(-9, 9))
def test_chance_rarely_gets_an_explanation(decade: int) -> None:
    """Fewer than three in a hundred of what is uniform in its logarithm; 0.6 beyond 1,000."""
    known = Known(numel=1_234_567, ranks=48, loss_scale=3000.0)
    quotients = 10.0 ** np.random.default_rng(decade + 9).uniform(decade, decade + 1, 20_000)
    share = sum(explained(quotient, known) is not None for quotient in quotients) / len(quotients)
    assert share < (0.03 if -3 < decade < 2 else 0.006)


@given(value=st.floats(1e-9, 1e9))
@example(value=8.0)
@example(value=99_999.96)
def test_quotients_are_written_in_plain_digits(value: float) -> None:
    text = plain(value)
    assert set(text) <= set("0123456789.")
    assert float(text) == pytest.approx(value, rel=0.6e-4)


def test_a_logged_norm_that_is_too_small_by_the_accumulation_steps(tmp_path: Path) -> None:
    """The case of a trainer that logged the norm of the mean over 8 steps, and dumped the sum."""
    rng = np.random.default_rng(0)
    mean = {f"layers.{n}.w": ("F64", rng.standard_normal((16, 16)) / 100) for n in range(4)}
    logged = math.sqrt(math.fsum(float(x) ** 2 for _, a in mean.values() for x in a.flat))
    summed = {name: ("F64", 8 * array) for name, (_, array) in mean.items()}
    path = write_safetensors(tmp_path / "sum.safetensors", summed)
    result = run("check", str(path), "--expect-norm", f"{logged:.4g}", "--rtol", "1e-3", "-q")
    assert result.returncode == 1
    assert f"times the expected: 8, {COUNTED}?" in result.stdout
    (words,) = (part for part in result.stdout.split("; ") if "times the expected" in part)
    assert float(words.split(" ")[0]) == pytest.approx(
        8 * logged / float(f"{logged:.4g}"), rel=1e-4
    )


def test_a_norm_without_a_quotient_has_none() -> None:
    for norm, expected in ((0.0, 5.0), (5.0, 0.0)):
        outcome = gradtool.check({"w": of_norm(norm)}, thresholds={"GT401.norm": expected})
        (finding,) = (one for one in outcome.all_findings if one.code == "GT401")
        assert "times" not in finding.message


def test_the_quotient_with_a_baseline_of_one_dump_is_explained(tmp_path: Path) -> None:
    one = write_safetensors(tmp_path / "one.safetensors", {"w": ("F64", of_norm(3.0))})
    two = write_safetensors(tmp_path / "two.safetensors", {"w": ("F64", of_norm(3.5))})
    gradtool.save_baseline(one, tmp_path / "one.json")
    gradtool.save_baseline([one, two], tmp_path / "range.json")

    def said(norm: float, baseline: str) -> set[str]:
        limits = {"GT402.max_factor": 1.1, "GT403.max_factor": 1.1}
        outcome = gradtool.check(
            {"w": of_norm(norm)}, baseline=tmp_path / baseline, thresholds=limits
        )
        return {one.message for one in outcome.all_findings if one.code in ("GT402", "GT403")}

    assert all(f", 16 times it: 16, {COUNTED}?" in message for message in said(48.0, "one.json"))
    root = f"1.4142 times it: sqrt(2), the square root of {COUNTED}?"
    assert all(root in message for message in said(3.0 * math.sqrt(2), "one.json"))
    assert all(message.endswith("7.3 times it") for message in said(21.9, "one.json"))
    assert all(message.endswith("16 times the largest") for message in said(56.0, "range.json"))
    assert all(
        message.endswith("0.125 times the smallest") for message in said(0.375, "range.json")
    )
    assert len(said(48.0, "one.json")) == len(said(56.0, "range.json")) == 2


HINT = "the total norm is 1 within 1e-6: dumped after clipping?"


@pytest.mark.parametrize(("norm", "hinted"), [(1.0, 1), (1 - 9e-7, 1), (1 - 2e-6, 0), (1.1, 0)])
def test_a_total_norm_of_1_is_hinted_at_and_changes_no_verdict(norm: float, hinted: int) -> None:
    tree = {"a": of_norm(norm * 0.6), "b": of_norm(norm * 0.8)}
    assert list(gradtool.measure(tree).notes) == [HINT] * hinted
    outcome = gradtool.check(tree)
    assert list(outcome.verdicts[0].notes) == [HINT] * hinted
    assert outcome.exit_code == 0


def test_weights_of_norm_1_were_not_clipped() -> None:
    unit = {"w": of_norm(1.0)}
    both = gradtool.measure({"grads": unit, "model": unit})
    assert list(both.notes) == ["the norm of 'grads' is 1 within 1e-6: dumped after clipping?"]


def test_a_norm_that_is_the_bound_is_told_with_it(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "g.safetensors", {"w": ("F64", of_norm(0.25))})
    words = "the norm is max_norm: dumped after clipping?"
    assert words in run("inspect", str(path), "--max-norm", "0.25").stdout
    assert words not in run("inspect", str(path), "--max-norm", "0.26").stdout
