"""`gradtool diff` from the shell: exit codes, what it says, what other programs can read."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from reports.parsers import junit_root, markdown_tables, validator, workflow_commands
from safetensors.numpy import save_file

from gradtool.report import DIFF_REPORTERS

W = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)


def saved(path: Path, **tensors: np.ndarray[Any, Any]) -> str:
    save_file(tensors, str(path))
    return str(path)


def told(*arguments: str, code: int) -> dict[str, Any]:
    result = run("diff", *arguments, "-f", "json")
    assert (result.returncode, result.stderr) == (code, "")
    found: dict[str, Any] = json.loads(result.stdout)
    validator("diff-1").validate(found)
    return found


def test_dumps_of_the_same_bits_are_one_line_and_exit_0(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.safetensors", w=W, v=W)
    b = str(tmp_path / "b.npz")
    np.savez(b, v=W, w=np.asfortranarray(W))
    result = run("diff", a, b)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "identical: 2 tensors, 8 elements, bit by bit\n"
    found = told(a, b, code=0)
    assert found["identical"] and found["same"] and found["first_difference"] is None
    assert [one["name"] for one in found["tensors"]] == ["v", "w"]


def test_a_difference_is_told_in_every_format_and_exits_1(tmp_path: Path) -> None:
    other = W.copy()
    other[0, 1] = 5.0
    a = saved(tmp_path / "a.safetensors", v=W, w=W)
    b = saved(tmp_path / "b.safetensors", v=W, w=other)
    found = told(a, b, code=1)
    assert not found["identical"] and not found["same"]
    assert found["first_difference"] == "w"
    same, apart = found["tensors"]
    assert same["identical"] and same["max_abs_diff"] == 0.0 and same["first_differing"] is None
    assert (apart["differing"], apart["first_differing"]) == (1, [0, 1])
    assert (apart["max_abs_diff"], apart["max_abs_diff_at"]) == (1.0, [0, 1])
    assert apart["first_values"] == apart["max_abs_diff_values"] == [4.0, 5.0]
    table = run("diff", a, b).stdout
    assert table.startswith("1 of 2 tensors differs")
    assert "w: 1 of 4 elements differs; first at [0, 1], 4.0 in A and 5.0 in B" in table
    rows = list(csv.DictReader(io.StringIO(run("diff", a, b, "-f", "csv").stdout)))
    assert [row["differing"] for row in rows] == ["0", "1"]
    ((_, row),) = markdown_tables(run("diff", a, b, "-f", "markdown").stdout)
    assert row[0] == "w"


@pytest.mark.parametrize("bad", ["nan", "-1", "inf", "-1e-9"])
@pytest.mark.parametrize("option", ["--rtol", "--atol", "--max-rel-l2"])
def test_a_tolerance_that_is_none_is_refused(option: str, bad: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", w=W)
    assert run("diff", path, path, option, bad).returncode == 2


def test_no_names_in_common_exit_2_with_what_would_help(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.safetensors", **{"model.layers.0.w": W})
    b = saved(tmp_path / "b.safetensors", **{"net.layers.0.w": W})
    result = run("diff", a, b)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result)
    assert "no names in common" in line and "--map 'model.*=net.*'" in line
    assert run("diff", a, b, "--map", "model.*=net.*").returncode == 0


FUSED = {
    "k and v": (
        "m.{}.attn.",
        {"q_proj": 8, "k_proj": 8, "v_proj": 8},
        {"wkv": "k_proj v_proj"},
    ),
    "qkv": (
        "m.{}.attn.",
        {"q_proj": 8, "k_proj": 2, "v_proj": 2},
        {"Wqkv": "q_proj k_proj v_proj"},
    ),
    "no name says so": ("m.{}.attn.", {"wq": 8, "wk": 8, "wv": 8}, {"c_attn": "wq wk wv"}),
    "words": (
        "m.{}.att.",
        {"key": 4, "query": 4, "value": 4},
        {"query_key_value": "query key value"},
    ),
    "gate and up": ("m.{}.mlp.", {"gate_proj": 6, "up_proj": 6}, {"gate_up": "gate_proj up_proj"}),
    "numbers": ("m.{}.ffn.", {"w1": 6, "w2": 6, "w3": 6}, {"w13": "w1 w3"}),
    "two kinds": (
        "m.{}.",
        {"q": 8, "k": 2, "v": 2, "gate": 6, "up": 6},
        {"qkv": "q k v", "gate_up": "gate up"},
    ),
    "no layers": ("", {"q": 8, "k": 2, "v": 2}, {"in_proj": "q k v"}),
}


@pytest.mark.parametrize("is_second", [True, False])
@pytest.mark.parametrize("scheme", FUSED)
def test_what_is_said_of_rows_works_when_it_is_pasted(
    scheme: str, is_second: bool, tmp_path: Path
) -> None:
    stem, rows, fused = FUSED[scheme]
    random = np.random.default_rng(0)
    apart, together = {}, {}
    for layer in range(12 if "{}" in stem else 1):
        parts = {name: random.normal(size=(n, 3)).astype("f4") for name, n in rows.items()}
        apart |= {f"{stem.format(layer)}{name}.weight": part for name, part in parts.items()}
        for name, of in fused.items():
            whole = np.concatenate([parts[one] for one in of.split()])
            together[f"net.{stem.format(layer)}{name}.w"] = whole
    paths = [
        saved(tmp_path / f"{name}.safetensors", **tensors)
        for name, tensors in (("apart", apart), ("together", together))
    ]
    paths = paths if is_second else paths[::-1]
    (line,) = error_lines(run("diff", *paths))
    hint = line.partition("; try ")[2]
    assert hint.startswith("--map '"), line
    found = told(*paths, *shlex.split(hint), code=0 if len(rows) == _parts(fused) else 1)
    assert all(one["identical"] for one in found["tensors"])
    layers = len(together) // len(fused)
    assert len(found["tensors"]) == layers * _parts(fused)
    assert len(found["only_in_a"]) + len(found["only_in_b"]) == len(apart) - len(found["tensors"])


def _parts(fused: dict[str, str]) -> int:
    return sum(len(of.split()) for of in fused.values())


@pytest.mark.parametrize(
    ("apart", "together"),
    [
        ({"h.a.w": 4, "h.b.w": 4}, {"g.c.w": 8}),  # which is first?
        ({"h.q.w": 4, "h.k.w": 4, "h.v.w": 4}, {"g.x.w": 8}),  # which two?
        ({"h.q.w": 4, "h.k.w": 4, "h.v.w": 4}, {"g.qkv.w": 13}),
        ({"h.q'; x 'k.w": 4, "h.q'; x 'v.w": 4}, {"g.kv.w": 8}),
        ({"h.0.q.w": 4, "h.0.k.w": 4, "h.1.q.w": 4, "h.1.k.w": 4}, {"g.0.qk.w": 8, "g.1.qk.w": 6}),
    ],
)
def test_rows_are_not_guessed(
    apart: dict[str, int], together: dict[str, int], tmp_path: Path
) -> None:
    """Neither where names leave the order open, nor where not all layers are alike."""
    sides = [
        saved(tmp_path / name, **{key: np.ones((n, 3), "f4") for key, n in side.items()})
        for name, side in (("a.safetensors", apart), ("b.safetensors", together))
    ]
    result = run("diff", *sides)
    (line,) = error_lines(result)
    assert result.returncode == 2 and "no names in common" in line
    assert "[0:" not in line


def test_no_hint_is_a_command_that_a_name_of_a_file_has_written(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.safetensors", **{"it's'; touch x; '.w": W})
    b = saved(tmp_path / "b.safetensors", **{"$(touch x).w": W})
    for pair in ((a, b), (b, a)):
        (line,) = error_lines(run("diff", *pair))
        assert "no names in common; A has " in line and line.endswith("; give --map")


@pytest.mark.parametrize("broken", [0, 1])
def test_the_dump_that_cannot_be_read_is_named(broken: int, tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{name}.safetensors", w=W) for name in "ab"]
    Path(paths[broken]).write_bytes(b"\x10")
    result = run("diff", *paths)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = error_lines(result)
    assert paths[broken] in line and f"this is {'AB'[broken]} of the two dumps" in line


def test_integers_and_bools_are_compared_bit_by_bit_and_told_apart(tmp_path: Path) -> None:
    ids, mask = np.arange(6).reshape(2, 3), np.array([True, False])
    a = saved(tmp_path / "a.safetensors", w=W, ids=ids, mask=mask)
    other = str(tmp_path / "b.npz")
    np.savez(other, w=W, ids=ids, mask=mask)
    found = told(a, other, code=0)
    assert [(one["name"], one["identical"]) for one in found["others"]] == [
        ("ids", True),
        ("mask", True),
    ]
    ids[1, 1] += 256
    np.savez(other, w=W, ids=ids, mask=mask.astype(np.uint8))
    found = told(a, other, code=1)
    assert not found["identical"] and found["first_difference"] is None
    first, second = found["others"]
    assert (first["differing"], first["first_differing"]) == (1, [1, 1])
    assert (second["differing"], second["a"]["dtype"], second["b"]["dtype"]) == (None, "BOOL", "U8")
    assert "2 of 2 other tensors differ" in run("diff", a, other).stdout


def test_shapes_and_kinds_that_differ_are_told_and_the_rest_is_compared(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.safetensors", v=W, w=W, z=W)
    b = str(tmp_path / "b.npz")
    np.savez(b, v=W[:1], w=W, z=W.astype(np.complex64))
    found = {one["name"]: one for one in told(a, b, code=1)["tensors"]}
    assert found["w"]["identical"]
    assert found["v"]["problem"] == "shapes differ" and found["v"]["differing"] is None
    assert found["z"]["problem"] == "float against complex"
    table = run("diff", a, b).stdout
    assert "shapes differ: 2x2 in A, 1x2 in B" in table


def test_two_dead_dumps_do_not_agree(tmp_path: Path) -> None:
    zeros = np.zeros((2, 2), np.float32)
    a, b = (saved(tmp_path / f"{name}.safetensors", w=zeros, v=zeros) for name in "ab")
    found = told(a, b, code=1)
    assert found["identical"] and not found["same"]
    assert [one["name"] for one in found["diagnosis"]] == ["dead-sides"]
    alive = saved(tmp_path / "c.safetensors", w=W, v=zeros)
    assert told(alive, alive, code=0)["diagnosis"] == []


@pytest.mark.parametrize("name", DIFF_REPORTERS)
def test_every_format_has_the_same_exit_code_and_a_file_of_its_own(
    name: str, tmp_path: Path
) -> None:
    a, b = saved(tmp_path / "a", w=W, v=W), saved(tmp_path / "b", w=W * 2, v=W)
    for other, code in ((a, 0), (b, 1)):
        result = run("diff", a, other, "-f", f"{name}:report", "-f", "table", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (code, "")
        said = run("diff", a, other, "-f", name).stdout
        written = (tmp_path / "report").read_bytes().decode()
        assert written.splitlines() == said.splitlines() or name in ("json", "junit")  # the time
        assert result.stdout == run("diff", a, other).stdout


def test_annotations_come_with_a_summary_of_the_step(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a", w=W, v=W), saved(tmp_path / "b", w=W * 2, v=W)
    summary = tmp_path / "summary"
    summary.write_text("before\n")
    result = run("diff", a, b, "-f", "github", env={"GITHUB_STEP_SUMMARY": str(summary)})
    commands = workflow_commands(result.stdout)
    assert [kind for kind, _, _ in commands] == ["error", "error", "warning"]
    assert commands[2][2].startswith("GT507 factor: ")
    assert commands[1][1] == {"file": b, "title": "gradtool diff"}
    assert commands[1][2].startswith("w: 3 of 4 elements differ; first at [0, 0], 3.0 in A")
    before, heading, *_ = summary.read_text().splitlines()
    assert (before, heading) == ("before", "### 1 of 2 tensors differs")


def test_a_suite_has_a_case_for_each_tensor_and_fails_those_that_differ(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a", w=W, v=W, u=W), saved(tmp_path / "b", w=W * 2, v=W, t=W)
    root = junit_root(run("diff", a, b, "-f", "junit").stdout)
    failed = {case.get("name"): case.find("failure") is not None for case in root.iter("testcase")}
    assert failed == {"same": True, "w": True, "v": False, "u": True, "t": True}
    assert all(
        case.find("failure") is None
        for case in junit_root(run("diff", a, a, "-f", "junit").stdout).iter("testcase")
    )


def test_a_report_never_replaces_the_configuration(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", w=W)
    (tmp_path / "gradtool.toml").write_text('[[diff.tolerance]]\npattern = "*"\n')
    result = run("diff", a, a, "-f", "json:gradtool.toml", cwd=tmp_path)
    assert result.returncode == 2
    assert "is one of the files to read" in error_lines(result)[0]


def test_shells_complete_its_formats_sections_and_rules() -> None:
    def completed(words: str) -> list[str]:
        environment = {
            "_GRADTOOL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        return run(env=environment).stdout.split()

    assert completed("gradtool diff -f j") == ["json", "junit"]
    assert completed("gradtool diff -f h") == ["html"]
    assert completed("gradtool diff --section gr") == ["grads"]
    assert completed("gradtool explain GT50") == [f"GT50{n}" for n in range(1, 10)]
    assert completed("gradtool explain trans") == ["transposed"]
    assert completed("gradtool check --select GT50") == []
