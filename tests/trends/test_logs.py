"""A trainer's log beside the dumps: how it is read, and what the two norms are to each other."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradtool
from gradtool.core.trends.trend import Conclusion
from gradtool.errors import CorruptFileError, FileAccessError, GradtoolError, UsageError
from gradtool.storage.logs.reading import read_log
from trends.runs import LONG_AGO_NS, true_norm, write_run

RUN = {
    number: {"a": np.random.default_rng(number).standard_normal(30) * (1 + number % 3), "b": [0.5]}
    for number in range(1, 11)
}
TRUE = {number: true_norm(tensors) for number, tensors in RUN.items()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", RUN)


def as_state(path: Path, rows: Iterable[tuple[int, float]]) -> None:
    history = [{"loss": 1.0, "grad_norm": norm, "step": step} for step, norm in rows]
    path.write_text(
        json.dumps({"global_step": 9, "log_history": [*history, {"step": 9}]}, indent=1)
    )


def as_list(path: Path, rows: Iterable[tuple[int, float]]) -> None:
    path.write_text(json.dumps([{"Step": step, "total-norm": norm} for step, norm in rows]))


def as_json_lines(path: Path, rows: Iterable[tuple[int, float]]) -> None:
    lines = ({"train/grad_norm": norm, "_step": 7, "train/global_step": n} for n, norm in rows)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def as_csv(path: Path, rows: Iterable[tuple[int, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "grad_norm_epoch", "grad_norm_step", "step"])
        for step, norm in rows:
            writer.writerow([0, "", norm, step])
            writer.writerow([0, 5.0, "", step])


def as_nested_lines(path: Path, rows: Iterable[tuple[int, float]]) -> None:
    lines = (
        {"eval": {"step": 7}, "train": {"opt": {"grad_norm": norm}, "loss": 1.0}, "step": n}
        for n, norm in rows
    )
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def as_torchtune(path: Path, rows: Iterable[tuple[int, float]]) -> None:
    """As DiskLogger does, which has methods for one entry and for several."""
    with path.open("w") as file:
        for step, norm in rows:
            file.write(f"Step {step} | loss:1.25 grad_norm:{norm} lr:1e-05 \n")
            file.write(f"Step {step} | tokens:{step}\n")


FORMS = [as_state, as_list, as_json_lines, as_csv, as_nested_lines, as_torchtune]


def logged(path: Path, norms: dict[int, float], write: Any = as_state) -> Path:
    write(path, norms.items())
    return path


def said(run: Path, log: Path, **options: Any) -> dict[str, Conclusion]:
    """What is concluded of the log, by its code."""
    found = gradtool.trend(run, log=log, **options).conclusions
    return {one.code: one for one in found if one.code.startswith("log-")}


@pytest.mark.parametrize("write", FORMS)
def test_each_form_says_the_same(run: Path, tmp_path: Path, write: Any) -> None:
    norms = {**{step: 3.0 * norm for step, norm in TRUE.items()}, 4: math.nan, 6: math.inf}
    del norms[9]
    rows = gradtool.trend(run, log=logged(tmp_path / "log", norms, write)).to_rows()
    for row in rows:
        expected = norms.get(row["step"])
        if expected is None or math.isnan(expected):
            assert repr(row["logged_norm"]) == repr(expected)
        else:
            assert row["logged_norm"] == expected
        is_quotient = expected is not None and math.isfinite(expected)
        assert (row["log_quotient"] is not None) == is_quotient
        if is_quotient:
            assert math.isclose(row["log_quotient"], 3.0, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (
            8.0,
            "8 times the true norm in all 10 steps: 8, the number of accumulation steps or ranks?",
        ),
        (1 / 4, "0.25 times the true norm in all 10 steps: 1/4, one over the number"),
        (math.sqrt(2), "1.4142 times the true norm in all 10 steps: sqrt(2), the square root of"),
        (65536.0, "65536, a loss scale, a power of two?"),
        (math.sqrt(31), "the square root of the number of elements"),
        (1.0004, "'grad_norm' is the true norm in all 10 steps"),
        (1.37, "1.37 times the true norm in all 10 steps"),
    ],
)
def test_one_quotient_over_the_run_is_told(
    run: Path, tmp_path: Path, factor: float, words: str
) -> None:
    log = logged(tmp_path / "log", {step: factor * norm for step, norm in TRUE.items()})
    found = said(run, log)
    assert list(found) == ["log-quotient"]
    assert words in found["log-quotient"].text
    assert (":" in found["log-quotient"].text) == (factor not in (1.0004, 1.37))


@pytest.mark.parametrize("bound", [min(TRUE.values()) * 0.9, sorted(TRUE.values())[6]])
def test_a_log_made_after_clipping_is_told(run: Path, tmp_path: Path, bound: float) -> None:
    log = logged(tmp_path / "log", {step: min(norm, bound) for step, norm in TRUE.items()})
    text = said(run, log)["log-quotient"].text
    above = sum(norm > bound for norm in TRUE.values())
    assert f"in {above} steps where that is larger, in all 10 steps" in text
    assert "was it logged after clipping to" in text
    assert math.isclose(float(text.rpartition(" ")[2][:-1]), bound, rel_tol=1e-4)


def test_dumps_made_after_clipping_are_told(tmp_path: Path) -> None:
    bound = sorted(TRUE.values())[4]
    clipped = {
        step: {name: np.multiply(min(1.0, bound / TRUE[step]), x) for name, x in tensors.items()}
        for step, tensors in RUN.items()
    }
    run = write_run(tmp_path / "run", clipped)
    text = said(run, logged(tmp_path / "log", TRUE))["log-quotient"].text
    assert "larger in 5 steps where that is" in text
    assert "were the dumps made after clipping to" in text


def test_the_steps_where_they_part_are_named(run: Path, tmp_path: Path) -> None:
    norms = {step: 2.0 * norm for step, norm in TRUE.items()}
    norms |= {3: TRUE[3], 7: math.nan}
    found = said(run, logged(tmp_path / "log", norms))
    assert "2 times the true norm in 8 of 10 steps" in found["log-quotient"].text
    parts = found["log-parts"]
    assert parts.step == 3
    assert "step 3 (1 times), step 7 (NaN for " in parts.text


def test_the_step_from_which_on_it_is_another_quotient_is_said(run: Path, tmp_path: Path) -> None:
    norms = {step: norm * (8.0 if step < 6 else 1.0) for step, norm in TRUE.items()}
    found = said(run, logged(tmp_path / "log", norms))
    assert list(found) == ["log-quotient"] and found["log-quotient"].step == 6
    words = "8 times the true norm up to step 5, and the true norm from step 6 on: 8, the number"
    assert words in found["log-quotient"].text


@pytest.mark.parametrize("seed", range(5))
def test_norms_that_have_nothing_in_common_are_not_explained(
    run: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    norms = {step: norm * rng.uniform(0.1, 9.0) for step, norm in TRUE.items()}
    found = said(run, logged(tmp_path / "log", norms))
    assert list(found) == ["log-quotient"]
    quotients = {step: norm / TRUE[step] for step, norm in norms.items()}
    text = found["log-quotient"].text
    assert "no one multiple of the true norm" in text
    for pick in (min, max):
        assert f"step {pick(quotients, key=quotients.__getitem__)} (" in text


@pytest.mark.parametrize("shift", [-1, 1])
def test_steps_counted_from_another_one_are_told(run: Path, tmp_path: Path, shift: int) -> None:
    norms = {step + shift: 2.0 * norm for step, norm in TRUE.items()}
    log = logged(tmp_path / "log", norms)
    found = said(run, log)
    assert list(found) == ["log-quotient", "log-shifted"]
    assert "2 times the true norm in all 10 steps" in found["log-quotient"].text
    off = "lower" if shift < 0 else "higher"
    assert f"one {off} than the dumps: its step {1 + shift} is step 1" in found["log-shifted"].text
    for row in gradtool.trend(run, log=log).to_rows():
        assert math.isclose(row["log_quotient"], 2.0, rel_tol=1e-12)


def test_one_step_that_does_not_agree_rules_a_shift_out(run: Path, tmp_path: Path) -> None:
    norms = {step - 1: norm for step, norm in TRUE.items()} | {3: 100.0}
    assert "log-shifted" not in said(run, logged(tmp_path / "log", norms))


def test_norms_that_hardly_change_say_nothing_of_a_shift(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {n: {"w": [3.0, 4.0]} for n in (10, 20, 30, 40)})
    norms = dict.fromkeys((9, 19, 29, 39), 5.0)
    found = said(run, logged(tmp_path / "log", norms))
    assert list(found) == ["log-elsewhere"]
    assert "4 norms of steps 9 to 39" in found["log-elsewhere"].text


def test_a_norm_in_the_dtype_of_the_trainer_is_the_true_norm(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    run = tmp_path / "run"
    run.mkdir()
    norms = {}
    for step in range(1, 9):
        gradient = torch.randn(100, generator=torch.Generator().manual_seed(step)).bfloat16()
        torch.save({"w": gradient}, run / f"step_{step}.pt")
        norms[step] = gradient.norm().item()  # in bfloat16: off by up to 2 in a thousand
    assert (
        max(abs(row["norm"] / norms[row["step"]] - 1) for row in gradtool.trend(run).to_rows())
        > 1e-3
    )
    assert (
        "is the true norm in all 8 steps"
        in said(run, logged(tmp_path / "log", norms))["log-quotient"].text
    )


def test_of_a_step_that_is_logged_twice_the_last_counts(run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    as_json_lines(log, [(2, 70.0), (3, TRUE[3]), *TRUE.items(), (5, 9.0), (5, 10.0)])
    trend = gradtool.trend(run, log=log)
    assert [row["logged_norm"] for row in trend.to_rows()][1:5] == [TRUE[2], TRUE[3], TRUE[4], 10.0]
    (note,) = (note for note in trend.notes if "logged" in note)
    assert note == f"{log}: steps 2, 5 are logged more than once: the last norm counts"


def test_a_line_that_is_still_being_written_is_left_out(run: Path, tmp_path: Path) -> None:
    for write, cut in (
        (as_json_lines, '{"train/global_step": 11, "tr'),
        (as_csv, "0,"),
        (as_torchtune, "Step 11 | grad_norm:1.2"),
    ):
        log = logged(tmp_path / "log", TRUE, write)
        log.write_text(log.read_text() + cut)
        trend = gradtool.trend(run, log=log)
        assert [row["logged_norm"] for row in trend.to_rows()] == list(TRUE.values())
        assert any("breaks off, and is left out" in note for note in trend.notes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty, and no log"),
        (" \n\n", "is empty, and no log"),
        ('{"step": 1, "grad_norm": 1}\n\n{"step": 2,}\n', "line 3 is no JSON: "),
        ('{"step": 1, "grad_norm": 1}\n[3]\n', "line 2 is no JSON object"),
        (
            '{"step": 1, "grad_norm": 1}\n{"step": 2, "grad_norm": -1}\n',
            "line 2: 'grad_norm' is no",
        ),
        ('{"step": 1, "grad_norm": [1]}\n', "line 1: 'grad_norm' is no norm: [1]"),
        ('{"a": {"grad_norm": {}, "step": 1}, "a/step": 2}\n', "line 1 has two entries 'a/step'"),
        (f'{{"{"a" * 1001}": {{"grad_norm": 1}}}}\n', "line 1 has a name of over 1,000 char"),
        (f'{{"{"a" * 999}": {{"bc": 1}}}}\n', "line 1 has a name of over 1,000 char"),
        ('{"a":' * 600 + "1" + "}" * 600 + "\n", "line 1 has a name of over 1,000 char"),
        (
            '{"log_history": [{"step": 1, "a": {"grad_norm": "?"}}]}',
            "entry 1: 'a/grad_norm' is no norm: '?'",
        ),
        ("Step 1 | grad_norm:?\n", "line 1: 'grad_norm' is no norm: '?'"),
        ("Step 1 | grad_norm:1\nStep x | a:1\n", "line 2 does not begin as the first, with 'Step"),
        ("Step 1 | grad_norm:1 epoch\n", "line 1: 'epoch' is no name with a value"),
        ("Step 1 | a:1 grad_norm:1 a:2\n", "line 1 has two entries 'a'"),
        (f"Step 1 | a:1\nStep {'9' * 30} | a:1\n", "line 2 does not begin as the first"),
        ('{"step": 1, "grad_norm": true}\n', "line 1: 'grad_norm' is no norm: True"),
        ('{"step": "x", "grad_norm": 1}\n', "line 1: 'step' is no step: 'x'"),
        ('{"step": 1.5, "grad_norm": 1}\n', "line 1: 'step' is no step: 1.5"),
        ('{"step": -1, "grad_norm": 1}\n', "line 1: 'step' is no step: -1"),
        ('{"step": 1, "step": 2, "grad_norm": 1}\n', "line 1 is no JSON: duplicate key 'step'"),
        (f'{{"step": {"9" * 5000}, "grad_norm": 1}}\n', "line 1 is no JSON: a number of 5000 dig"),
        (f'{{"step": 1}}\n{"[" * 200_000}{"]" * 200_000}\n', "line 2 is no JSON: "),
        ('{\n "log_history": [\n  {"step": 1}\n  {"step": 2}]}', "is no JSON: Expecting ',' delim"),
        ('{\n "log_history": {"step": 1}}', "'log_history' is no list"),
        ('{"log_history": [{"step": 1}, 7]}', "log_history: entry 2 is no JSON object"),
        (
            '{"log_history": [{"step": 1, "grad_norm": "?"}]}',
            "entry 1: 'grad_norm' is no norm: '?'",
        ),
        ('{\n "state": []}', "is a JSON object without 'log_history'"),
        ("[1, 2]", "entry 1 is no JSON object"),
        ("step,grad_norm\n1,2\n3,4,5\n", "line 3 has 3 fields, and the header 2"),
        ("step,grad_norm\n1\n3,4\n", "line 2 has 1 field, and the header 2"),
        ("step,grad_norm,step\n1,2,3\n", "line 1 names the column 'step' twice"),
        ("step,grad_norm\n1,1_0\n", "line 2: 'grad_norm' is no norm: '1_0'"),
        ("step,grad_norm\n0x1,1\n", "line 2: 'step' is no step: '0x1'"),
        ('step,grad_norm\n1,"2"3\n', "line 2 is no CSV: "),
        ('step,grad_norm\n1,"' + "\n" * 100 + '"\n', "has a row of over 64 lines"),
        ("step,grad_norm\n1," + "9" * 200_000 + "\n", "line 2 is no CSV: field larger than"),
        ("step,grad_norm\n" + "," * (1 << 21), "line 2 is longer than 1,048,576 bytes"),
    ],
)
def test_what_is_no_log_is_refused_in_a_line(tmp_path: Path, text: str, problem: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    with pytest.raises(CorruptFileError) as caught:
        read_log(str(log))
    line = caught.value.line()
    assert line.startswith(f"{log}: ") and "\n" not in line
    assert problem in line


def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"step,grad_norm\n1,2\n\xff\xfe,3\n")
    with pytest.raises(CorruptFileError, match="line 3 is not UTF-8"):
        read_log(str(log))
    with pytest.raises(FileAccessError, match="No such file"):
        read_log(str(tmp_path / "none"))
    with pytest.raises(FileAccessError, match="Is a directory"):
        read_log(str(tmp_path))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    log = tmp_path / "log"
    FORMS[seed % len(FORMS)](log, TRUE.items())
    data = bytearray(log.read_bytes())
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data))
        data[at : at + rng.choice([0, 1, 20])] = rng.choice(
            [b"\0", b"\xff", b'"', b"{", b",", b"9"]
        )
    log.write_bytes(data)
    try:
        found = read_log(str(log))
    except GradtoolError as error:
        assert str(log) in str(error)
    else:
        assert all(type(step) is int and not norm < 0.0 for step, norm in found.norms.items())


def test_a_large_log_takes_little_memory(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = 50_000
    log.write_text(
        "".join(f'{{"_step": {n}, "grad_norm": 1.5, "x": "{"y" * 400}"}}\n' for n in range(rows))
    )
    tracemalloc.start()
    try:
        assert len(read_log(str(log)).norms) == rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < log.stat().st_size / 2  # a norm takes about 130 bytes of a line of 450


def test_the_norm_is_found_by_its_name_or_asked_for(run: Path, tmp_path: Path) -> None:
    def log(*entries: dict[str, Any]) -> Path:
        path = tmp_path / "log"
        path.write_text("".join(f"{json.dumps(one)}\n" for one in entries))
        return path

    two = [{"step": n, "a/grad_norm": 2 * norm, "b/grad_norm": norm} for n, norm in TRUE.items()]
    with pytest.raises(UsageError, match="'a/grad_norm', 'b/grad_norm' may each be the norm"):
        gradtool.trend(run, log=log(*two))
    assert "2 times" in said(run, log(*two), log_key="a/grad_norm")["log-quotient"].text
    assert "is the true" in said(run, log(*two), log_key="b/grad_norm")["log-quotient"].text
    with pytest.raises(UsageError) as caught:
        gradtool.trend(run, log=log(*two), log_key="a/gradnorm")
    assert (caught.value.hint or "").startswith(
        "the nearest names are 'a/grad_norm', 'b/grad_norm'"
    )
    with pytest.raises(UsageError, match="no entry has a name such as 'grad_norm': what it has is"):
        gradtool.trend(run, log=log({"step": 1, "loss": 2.0}))
    with pytest.raises(UsageError, match="no line with 'grad_norm' says of which step it is"):
        gradtool.trend(run, log=log({"grad_norm": 2.0}))
    with pytest.raises(UsageError, match="`log_key` needs a `log`"):
        gradtool.trend(run, log_key="x")


def test_the_step_of_a_norm_is_the_one_beside_it_else_the_outermost(tmp_path: Path) -> None:
    for entry in (
        {"eval": {"step": 3}, "train": {"step": 5, "grad_norm": 2.0}},
        {"eval": {"step": 3}, "train": {"grad_norm": 2.0}, "step": 5},
        {"a": {"b": {"c": {"grad_norm": 2.0}, "step": 4}, "global_step": 5}},
    ):
        log = tmp_path / "log"
        log.write_text(json.dumps(entry) + "\n")
        assert read_log(str(log)).norms == {5: 2.0}


def test_norms_of_several_objects_are_asked_for_by_their_whole_names(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"step": 5, "a": {"grad_norm": 1.0}, "b": {"grad_norm": 2.0, "own": 3.0}}\n')
    with pytest.raises(UsageError, match="'a/grad_norm', 'b/grad_norm' may each be the norm"):
        read_log(str(log))
    assert read_log(str(log), "b/grad_norm").norms == {5: 2.0}
    assert read_log(str(log), "b/own").norms == {5: 3.0}


def test_a_line_whose_names_are_much_larger_than_it_takes_no_memory(tmp_path: Path) -> None:
    log = tmp_path / "log"
    inner = ", ".join(f'"{n}": 1' for n in range(40_000))
    log.write_text(f'{{"{"a" * 400_000}": {{{inner}}}, "grad_norm": 1, "step": 1}}\n')
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError, match="has a name of over"):
            read_log(str(log))
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


def test_a_log_is_of_one_run(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {1: RUN[1], 2: RUN[2]})
    with pytest.raises(UsageError, match="`log` is of one run, and these are 2"):
        gradtool.trend(run, other, log=logged(tmp_path / "log", TRUE))


def test_rows_that_are_kept_are_those_without_a_log(run: Path, tmp_path: Path) -> None:
    for file in run.iterdir():
        os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    store, log = tmp_path / "rows.sqlite", logged(tmp_path / "log", TRUE)
    with_log = gradtool.trend(run, cache=store, log=log).to_rows()
    assert [row["logged_norm"] for row in gradtool.trend(run, cache=store).to_rows()] == [None] * 10
    assert gradtool.trend(run, cache=store, log=log).to_rows() == with_log


def codes(found: Sequence[Conclusion]) -> list[str]:
    return [one.code for one in found]


def test_a_broken_step_is_still_said_first(run: Path, tmp_path: Path) -> None:
    write_run(run, {11: {"a": [math.nan], "b": [1.0]}})
    trend = gradtool.trend(run, log=logged(tmp_path / "log", {**TRUE, 11: math.nan}))
    assert codes(trend.conclusions)[:2] == ["first-bad", "log-quotient"]
    assert "is the true norm in all 11 steps" in trend.conclusions[1].text
