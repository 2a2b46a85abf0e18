"""GT210 and GT212: which steps of a run stand out, and what made them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trends.runs import write_run, write_step

import gradtool
from gradtool.core.judging.levels import levels_among
from gradtool.core.judging.newest import NewestNorms
from gradtool.core.judging.spikes import above_median, above_running_mean

OF_RUN = (14.98, 9.78, 7.64, 92.10, 29.0, 5.21, 7.83, 7.79, 11140.0)
"""The norms of a run of which steps 4 and 9 are spikes."""

LIMITS = {"factor": 3.0, "max_z": 5.0, "min_spread": 0.05}


def grave(norms: Sequence[float], window: int = 100, **limits: float) -> list[int]:
    found = above_median(norms, window=window, **{**LIMITS, **limits})
    return [one.position for one in found]


def raised(norms: Sequence[float]) -> list[int]:
    found = above_running_mean(norms, max_z=4.0, factor=2.0, left_out=frozenset())
    return [one.position for one in found]


def told(outcome: Any, code: str = "GT210") -> dict[int | None, Any]:
    """The findings of that rule by their steps."""
    verdicts = [step.verdict for step in outcome.steps] if hasattr(outcome, "steps") else None
    return {
        verdict.step: finding
        for verdict in verdicts or outcome.verdicts
        for finding in verdict.findings
        if finding.code == code
    }


def run_of(folder: Path, norms: Sequence[float]) -> Path:
    """Steps of one element each, from 1 on."""
    return write_run(folder, {step: {"w": [norm]} for step, norm in enumerate(norms, 1)})


@given(
    level=st.floats(1e-30, 1e30),
    steps=st.integers(5, 260),
    factor=st.floats(1.0, 1e6),
    data=st.data(),
)
def test_of_a_constant_run_the_one_step_that_is_3_times_as_large_is_found(
    level: float, steps: int, factor: float, data: st.DataObject
) -> None:
    at = data.draw(st.integers(1, steps - 1))
    norms = [level] * steps
    norms[at] = factor * level
    assert grave(norms) == ([at] if factor >= 3.0 else [])


@pytest.mark.parametrize("level", [1.0, 0.1, 1 / 3, 7e-5, 1e200, 5e-300])
@pytest.mark.parametrize("at", [1, 50, 100, 101, 149])
def test_from_exactly_3_times_on(level: float, at: int) -> None:
    norms = [level] * 150
    for factor, found in ((3.0, [at]), (2.9999999, [])):
        norms[at] = factor * level
        assert grave(norms) == found


def test_figures_of_a_short_run_known_by_hand() -> None:
    fourth, ninth = above_median(OF_RUN, window=100, **LIMITS)
    assert (fourth.position, ninth.position, fourth.usual, fourth.among) == (3, 8, 9.78, 9)
    # In order, without the spikes, 5.21 7.64 7.79 7.83 9.78 14.98 29: their logarithms are 0.630
    # 0.247 0.227 0.222 0 0.426 1.087 from the median's, of which the median is ln(9.78 / 7.64).
    deviation = 1.4826 * math.log(9.78 / 7.64)
    assert math.isclose(fourth.z, math.log(92.10 / 9.78) / deviation, rel_tol=1e-12)
    assert math.isclose(fourth.times, 92.10 / 9.78) and math.isclose(ninth.times, 11140 / 9.78)


def test_a_level_that_moved_within_the_window_is_no_noise() -> None:
    norms = [1.0, 1.1] * 25 + [2.0, 2.2] * 25
    (one,) = above_median([*norms, 5.0], window=100, **LIMITS)
    assert (one.position, one.usual, one.among) == (100, pytest.approx(1.55), 100)
    # Of either half, whose medians are 1.05 and 2.1, one norm in two is as far below as the other
    # above: by ln(1.05) and by ln(1.1 / 1.05), of 100 deviations 50 each.
    deviation = 1.4826 * (math.log(1.05) + math.log(1.1 / 1.05)) / 2.0
    assert math.isclose(one.z, math.log(5.0 / 1.55) / deviation, rel_tol=1e-12)
    # Of fewer than 50 there is one median: they are ln(1.55), ln(1.55 / 1.1) ... away from 1.55.
    deviation = 1.4826 * (math.log(1.55 / 1.1) + math.log(2.2 / 1.55)) / 2.0
    few = [*norms[30:50], *norms[50:70], 5.0]
    assert grave(few, window=40, max_z=math.log(5.0 / 1.55) / deviation - 1e-9) == [40]
    assert grave(few, window=40, max_z=math.log(5.0 / 1.55) / deviation + 1e-9) == []


def test_the_first_step_and_those_that_fall_after_it_are_no_spikes() -> None:
    assert grave([50.0, 40.0, 30.0, 20.0, *[1.0] * 200]) == []
    assert grave([1.0, 1.0, 1.0, 20.0, *[1.0] * 200]) == [3]


def test_a_level_that_stays_is_the_usual_one_when_half_of_the_window_is_as_high() -> None:
    assert grave([1.0] * 200 + [10.0] * 200) == list(range(200, 250))


def test_noise_as_wide_as_the_spike_is_none() -> None:
    wide = [1.0, 5.0, 0.2, 4.0, 0.3] * 40
    assert grave(wide) == []
    assert grave([*wide, 900.0]) == []
    assert grave([*wide, 1e5]) == [200]


@given(
    exponent=st.integers(-300, 300),
    norms=st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=60),
)
def test_scaling_all_norms_changes_nothing(exponent: int, norms: list[float]) -> None:
    scaled = [math.ldexp(norm, exponent) for norm in norms]
    assert grave(scaled, window=10) == grave(norms, window=10)
    assert raised(scaled) == raised(norms)


@given(norms=st.lists(st.floats(5e-324, 1.7e308), max_size=60), window=st.integers(2, 70))
def test_no_norm_is_too_much(norms: list[float], window: int) -> None:
    for one in above_median(norms, window=window, **LIMITS):
        assert one.z >= 5.0 and one.times >= 2.99
    raised(norms)


@settings(max_examples=60)
@given(
    norms=st.lists(st.floats(0.5, 40.0), min_size=5, max_size=90),
    window=st.integers(2, 30),
)
def test_the_running_median_is_that_of_the_window(norms: list[float], window: int) -> None:
    """The window sorted anew for each step, as nobody would compute it who has little time."""

    def median(values: Sequence[float]) -> float:
        ordered = sorted(values)
        middle = len(ordered) // 2
        low, high = ordered[-(-len(ordered) // 2) - 1], ordered[middle]
        return (low + high) / 2.0

    for one in above_median(norms, window=window, factor=1.0, max_z=0.0, min_spread=0.05):
        early = one.position < window
        around = norms[: window + 1] if early else norms[one.position - window : one.position]
        assert math.isclose(one.usual, median(around), rel_tol=1e-12)
        assert one.among == len(around)


@settings(max_examples=60)
@given(
    norms=st.lists(
        st.floats(0.9, 1.1)
        | st.sampled_from([0.2, 1.0, 2.9, 3.3, 3.4, 3.5, 5.0, 40.0, 0.0, math.nan, math.inf]),
        min_size=20,
        max_size=90,
    ),
    window=st.integers(3, 15) | st.just(60),
    min_steps=st.integers(3, 12),
)
def test_the_newest_norm_is_judged_as_the_last_of_all(
    norms: list[float], window: int, min_steps: int
) -> None:
    newest = NewestNorms(window=window, min_steps=min_steps, level_steps=3, **LIMITS)
    known: list[float] = []
    for norm in norms:
        expected: list[Any] = []
        if 0.0 < norm < math.inf:
            known.append(norm)
            if len(known) >= min_steps:
                found = above_median(known, window=window, **LIMITS)
                expected = [one for one in found if one.position == len(known) - 1]
                if levels_among(known, [(one, 3.0) for one in expected], 3).settled:
                    expected = []
        spike = newest.spike(norm)
        assert ([] if spike is None else [(spike.usual, spike.z)]) == [
            (one.usual, one.z) for one in expected
        ]
        newest.take(norm)


def test_zclip_by_hand() -> None:
    """25 norms, of which the mean is 2 and 24 are 1 away from it."""
    start = [*[1.0, 3.0] * 12, 2.0]
    deviation = math.sqrt(24 / 25)
    (one,) = above_running_mean([*start, 7.0], max_z=4.0, factor=2.0, left_out=frozenset())
    assert (one.position, one.usual) == (25, 2.0)
    assert math.isclose(one.z, 5.0 / deviation, rel_tol=1e-5)
    # It is taken in as 2 + 2.5^2 / z deviations, so that the next is measured by nearly the same.
    taken = 2.0 + 2.5**2 / one.z * deviation
    mean = 0.97 * 2.0 + 0.03 * taken
    _, two = above_running_mean([*start, 7.0, 7.0], max_z=4.0, factor=2.0, left_out=frozenset())
    assert math.isclose(two.usual, mean, rel_tol=1e-9)
    assert raised(start) == []
    assert raised([*start, 5.5]) == []  # z 3.6


def tensors(norm: float, down: float = 0.0) -> dict[str, list[float]]:
    """Tensors of which the squares of `down` and of what is left make up the norm's."""
    rest = norm * math.sqrt(1.0 - down)
    each = {f"layers.{n}.w": [rest / math.sqrt(3.0)] for n in range(3)}
    return {**each, "layers.9.down": [norm * math.sqrt(down)]}


@pytest.mark.parametrize("code", ["check", "trend"])
def test_a_spike_names_its_step_and_its_tensors(tmp_path: Path, code: str) -> None:
    steps = {n: tensors(norm) for n, norm in enumerate(OF_RUN, 1)}
    steps[4] = tensors(92.10, 0.8)
    run = write_run(tmp_path / "run", steps)
    outcome = gradtool.check(run) if code == "check" else gradtool.trend(run)
    found = told(outcome)
    assert list(found) == [4, 9]
    assert (found[4].severity, found[4].tensor, found[4].limit) == ("error", "layers.9.down", 3.0)
    assert math.isclose(found[4].value, 92.10 / 9.78, rel_tol=1e-9)
    assert "makes up 80 % (0 % in step 3), and 'layers.0.w' 6.67 %" in found[4].message
    assert "33.3 % (33.3 % in step 8)" in found[9].message  # as before: everything rose
    assert outcome.exit_code == 1
    if code == "trend":
        spikes = [one for one in outcome.conclusions if one.code == "spike"]
        assert [(one.step, one.tensor) for one in spikes] == [
            (4, "layers.9.down"),
            (9, "layers.0.w"),
        ]
        shares = [(one.name, one.share) for one in spikes[0].tensors]
        assert shares[0] == ("layers.9.down", pytest.approx(0.8))


def test_steps_that_follow_each_other_are_one_conclusion(tmp_path: Path) -> None:
    trend = gradtool.trend(run_of(tmp_path, [1.0] * 12 + [5.0, 9.0, 4.0] + [1.0] * 5 + [8.0]))
    spikes = [one for one in trend.conclusions if one.code == "spike"]
    assert [one.step for one in spikes] == [13, 21]
    assert "from step 13 to step 15, largest in step 14: 9 times" in spikes[0].text


@settings(max_examples=25)
@given(data=st.data())
def test_the_order_of_the_files_changes_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = sorted(run_of(tmp_path_factory.mktemp("run"), OF_RUN).iterdir())
    shuffled = data.draw(st.permutations(paths))
    assert list(told(gradtool.check(*shuffled))) == [4, 9]
    assert list(told(gradtool.trend(*shuffled))) == [4, 9]


def test_what_is_not_finite_zero_or_not_read_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    norms = [1.0, math.nan, 1.0, 0.0, 1.0, 1.0, math.inf, 4.0, 1.0]
    run = run_of(tmp_path / "run", norms)
    (run / "step_10.safetensors").write_bytes(b"\0" * 40)
    outcome = gradtool.check(run)
    assert list(told(outcome)) == [8]
    assert outcome.exit_code == 3


@pytest.mark.parametrize("steps", [3, 4])
def test_too_short_a_run_has_no_median(tmp_path: Path, steps: int) -> None:
    run = run_of(tmp_path, [1.0] * (steps - 1) + [100.0])
    assert told(gradtool.check(run)) == {}
    assert list(told(gradtool.check(run, thresholds={"GT210.min_steps": steps}))) == [steps]


def test_runs_side_by_side_are_judged_each_by_itself(tmp_path: Path) -> None:
    run_of(tmp_path / "small", [1.0] * 9)
    run_of(tmp_path / "large", [100.0] * 8 + [400.0])
    outcome = gradtool.check(tmp_path / "small/*", tmp_path / "large/*")
    assert [one.path for one in outcome.verdicts if one.failed] == [
        str(tmp_path / "large/step_9.safetensors")
    ]


def test_dumps_of_which_nothing_tells_a_step_are_no_run(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write_step(tmp_path / f"{name}.safetensors", {"w": [1.0 if name < "h" else 50.0]})
    assert gradtool.check(*sorted(tmp_path.iterdir()))


def test_a_batch_that_is_harder_is_a_warning_and_told_once(tmp_path: Path) -> None:
    norms = [*[1.0, 1.1] * 15, 2.5, *[1.0, 1.1] * 3, 9.0]
    outcome = gradtool.check(run_of(tmp_path, norms))
    assert list(told(outcome, "GT212")) == [31]
    assert list(told(outcome)) == [38]
    assert told(outcome, "GT212")[31].severity == "warning"
    assert [one.step for one in outcome.verdicts if one.failed] == [38]
    strict = gradtool.check(run_of(tmp_path, norms), fail_on="warning")
    assert [one.step for one in strict.verdicts if one.failed] == [31, 38]


@pytest.mark.parametrize("p", [1.0, math.inf, 0.0])
def test_of_other_norms(tmp_path: Path, p: float) -> None:
    found = told(gradtool.check(run_of(tmp_path, [1.0] * 8 + [5.0]), norm_type=p))
    assert list(found) == ([9] if p else [])


def test_rows_that_were_kept_say_the_same(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", OF_RUN)
    for path in run.iterdir():
        os.utime(path, (1.0, 1.0))
    store = tmp_path / "rows.sqlite"
    plain = told(gradtool.trend(run))
    for _ in range(2):
        assert told(gradtool.trend(run, cache=store)) == plain


def levels(outcome: Any) -> dict[int | None, Any]:
    return told(outcome, "GT213")


@pytest.mark.parametrize("steps", [2, 5, 9])
@pytest.mark.parametrize("factor", [3.0, 3.1, 10.0, 900.0])
def test_a_level_that_stays_is_told_once_and_its_first_steps_are_errors(
    tmp_path: Path, factor: float, steps: int
) -> None:
    run = run_of(tmp_path, [1.0] * 110 + [factor] * 60)
    trend = gradtool.trend(run, thresholds={"GT213.steps": steps})
    first = 111
    assert list(told(trend)) == list(range(first, first + steps))
    assert list(told(trend, "GT212")) == []
    (step, found), *none = levels(trend).items()
    assert none == [] and step == first + steps
    assert found.severity == "warning" and math.isclose(found.value, factor)
    said = [one for one in trend.conclusions if one.code in ("spike", "raised-level")]
    assert [(one.code, one.step, one.tensor) for one in said] == [("raised-level", first, "w")]
    assert (
        said[0].text
        == f"since step 111 the norm is about {factor:g} times what it was, 1.0000; 100 % 'w'"
    )
    assert [one.step for one in gradtool.check(run).verdicts if one.failed] == [*range(111, 116)]


def test_a_level_around_3_times_with_noise_is_told_once_too(tmp_path: Path) -> None:
    """Of which half of the norms are below 3 times, and no finding of GT210 by themselves."""
    noise = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98]
    norms = [noise[n % 7] * (3.05 if n >= 110 else 1.0) for n in range(160)]
    trend = gradtool.trend(run_of(tmp_path, norms))
    assert list(levels(trend)) and len(levels(trend)) == 1
    assert 1 <= len(told(trend)) <= 5 and min(told(trend)) in (111, 112, 113)
    said = [one for one in trend.conclusions if one.code in ("spike", "raised-level")]
    assert [(one.code, one.step) for one in said] == [("raised-level", min(told(trend)))]
    (level,) = levels(trend).values()
    assert "since step 111 the norm is about 3.1 times" in level.message


@pytest.mark.parametrize("after", range(1, 40, 3))
def test_a_spike_on_a_new_level_is_an_error_as_it_was(tmp_path: Path, after: int) -> None:
    norms = [1.0] * 110 + [4.0] * after
    found = told(gradtool.trend(run_of(tmp_path / "a", [*norms, 12.0, 4.0])))
    assert 111 + after in found
    assert list(told(gradtool.check(run_of(tmp_path / "b", [*norms, 12.0])))) == [
        *range(111, min(116, 111 + after)),
        111 + after,
    ]


def test_spikes_that_come_again_and_levels_that_end_are_no_level(tmp_path: Path) -> None:
    often = [1.0] * 110 + [8.0, 8.0, 1.0] * 10
    trend = gradtool.trend(run_of(tmp_path / "often", often))
    assert levels(trend) == {}
    assert list(told(trend)) == [n for n, norm in enumerate(often, 1) if norm == 8.0]
    ended = [1.0] * 110 + [4.0] * 10 + [1.0] * 10 + [4.0]
    trend = gradtool.trend(run_of(tmp_path / "ended", ended))
    assert list(levels(trend)) == [116]
    assert list(told(trend)) == [*range(111, 116), 131]


def test_what_is_said_of_a_step_does_not_depend_on_later_ones(tmp_path: Path) -> None:
    """As for one who follows the run, from the step on that has a window before it."""
    norms = [1.0, 1.1] * 55 + [4.0, 4.2, 3.9, 4.1] * 5 + [14.0, 4.0, 1.0, 9.0]
    whole = gradtool.trend(run_of(tmp_path / "run", norms))
    for count in range(105, len(norms) + 1):
        part = gradtool.trend(run_of(tmp_path / f"{count}", norms[:count]))
        for code in ("GT210", "GT213"):
            known = {step: one.message for step, one in told(whole, code).items()}
            newest = told(part, code).get(count)
            assert (newest.message if newest else None) == known.get(count)


def test_without_the_rule_each_step_of_a_level_is_found_as_before(tmp_path: Path) -> None:
    run = run_of(tmp_path, [1.0] * 110 + [4.0] * 60)
    trend = gradtool.trend(run, ignore="GT213")
    assert list(told(trend)) == list(range(111, 161)) and levels(trend) == {}
