"""`gradtool diff` from the shell: exit codes, what it says, what other programs can read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from reports.parsers import markdown_tables, validator
from safetensors.numpy import save_file

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
