"""The contract of `gradtool clip`: exit codes, streams, signals, and what is left on the disk."""

import ast
import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    GRADTOOL,
    error_lines,
    loaded,
    on_terminal,
    read_until,
    run,
    started,
    wait_for_reading,
)
from safetensors.numpy import load_file, save_file

MAX_NORM = ("--max-norm", "1")
SAVED = np.array([3.0, 4.0], np.float32)


@pytest.fixture
def dump(tmp_path: Path) -> str:
    path = str(tmp_path / "grads.safetensors")
    save_file({"w": SAVED}, path)
    return path


@pytest.fixture
def workplace(dump: str, tmp_path: Path) -> Path:
    """A directory of everything that one may clip, or try to."""
    one = np.ones(1, np.float32)
    dumps = {
        "sections": {"grads.w": SAVED, "model.w": SAVED},
        "nonfinite": {"v": np.float32([np.inf, -np.inf]), "w": np.float32([3, np.nan])},
        "largest": {"w": np.full(4, 1.7e308)},
        "smallest": {"w": np.full(2, 5e-324)},
        "integers": {"step": np.array([7])},
        "empty": {},
        "run/grads-00001-of-00002": {"a": one},
        "run/grads-00002-of-00002": {"b": one},
    }
    (tmp_path / "run").mkdir()
    for name, tensors in dumps.items():
        save_file(tensors, str(tmp_path / f"{name}.safetensors"))
    names = {"a": "grads-00001-of-00002.safetensors", "b": "grads-00002-of-00002.safetensors"}
    index = {"metadata": {}, "weight_map": names}
    (tmp_path / "run" / "grads.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("no tensors here")
    (tmp_path / "cut.safetensors").write_bytes(Path(dump).read_bytes()[:-1])
    np.savez(tmp_path / "sound.npz", w=np.full(4, 3.0, np.float32))
    content = (tmp_path / "sound.npz").read_bytes()
    three, two = np.float32(3.0).tobytes() * 4, np.float32(2.0).tobytes() * 4
    assert content.count(three) == 1
    (tmp_path / "rotten.npz").write_bytes(content.replace(three, two))
    return tmp_path


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Everything under `folder`, hidden files and empty directories included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(arguments: str, folder: Path, **options: Any) -> tuple[int, str]:
    """Exit code and error of a clip that has to say one thing and leave everything alone."""
    before = content_of(folder)
    result = run("clip", *shlex.split(arguments), cwd=folder, **options)
    assert result.stdout == ""
    assert content_of(folder) == before
    (line,) = error_lines(result)
    return result.returncode, line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "PATH"),
        ("grads.safetensors -o out", "max.norm or (--)?clip.value"),
        ("grads.safetensors --max-norm 1 --clip-value 1 -o out", "max.norm or (--)?clip.value"),
        ("grads.safetensors --max-norm 1", "in.place"),
        ("grads.safetensors --max-norm 1 -o out --in-place", "in.place"),
        ("grads.safetensors --max-norm -1 -o out", r"--max-norm.* -1\.0"),
        ("grads.safetensors --max-norm nan -o out", "--max-norm.* nan"),
        ("grads.safetensors --max-norm one -o out", "--max-norm.* (number|float)"),
        ("grads.safetensors --clip-value -1 -o out", r"--clip-value.* -1\.0"),
        ("grads.safetensors --clip-value nan -o out", "--clip-value.* nan"),
        ("grads.safetensors --max-norm 1 -p 0 -o out", "order 0"),
        ("grads.safetensors --max-norm 1 -p -1 -o out", "order -1"),
        ("grads.safetensors --max-norm 1 -p -inf -o out", "order -inf"),
        ("grads.safetensors --max-norm 1 -p -1 --per-tensor -o out", "order -1"),
        ("grads.safetensors --max-norm 1 --per-tensor --total-norm 3 -o out", "total.norm"),
        ("grads.safetensors --clip-value 1 --per-tensor -o out", "per.tensor"),
        ("grads.safetensors --clip-value 1 --total-norm 3 -o out", "total.norm"),
        ("grads.safetensors --max-norm 1 --total-norm nan -o out", "--total-norm"),
        ("grads.safetensors --max-norm 1 --total-norm inf -o out", "--total-norm"),
        ("grads.safetensors --max-norm 1 --eps -1e-6 -o out", "--eps"),
        ("grads.safetensors --max-norm 1 --nonfinite drop -o out", "--nonfinite.*keep"),
        ("grads.safetensors --max-norm 1 -f csv -o out", "--format"),
        ("grads.safetensors --max-norm 1 --section nowhere -o out", "'nowhere'"),
        ("grads.safetensors --max-norm 1 -i nothing -o out", "filters"),
        ("'' --max-norm 1 -o out", "PATH is empty"),
        ("sections.safetensors --max-norm 1 -o out", "'grads', 'model'.*--section"),
        ("grads.safetensors --max-norm 1 -o -", "--output"),
        ("grads.safetensors --max-norm 1 -o ''", "names no file"),
        ("grads.safetensors --max-norm 1 -o out/", "names no file"),
        ("grads.safetensors --max-norm 1 -o notes.txt", "notes.txt exists; --force"),
        ("grads.safetensors --max-norm 1 -o notes.txt --dry-run", "notes.txt exists; --force"),
        ("grads.safetensors --max-norm 1 -o grads.safetensors", "--in-place"),
        ("grads.safetensors --max-norm 1 -o grads.safetensors --force", "--in-place"),
        ("grads.safetensors --max-norm 1 -o run --force", "run is a directory"),
        ("grads.safetensors --max-norm 1 -o /dev/null --force", "no regular file"),
        ("run --max-norm 1 --in-place", "new directory"),
        ("run/grads.safetensors.index.json --max-norm 1 --in-place", "new directory"),
        ("run --max-norm 1 -o run", "run itself"),
        ("run --max-norm 1 -o run/clipped", "inside"),
        ("run --max-norm 1 -o . --force", "no empty directory"),
        ("run --max-norm 1 -o notes.txt --force", "notes.txt"),
    ],
)
def test_usage_errors_exit_2(arguments: str, said: str, workplace: Path) -> None:
    code, line = refusal(arguments, workplace)
    assert code == 2
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "nonfinite.safetensors --max-norm 1 -o out",
            r"'v' \(1 \+Inf, 1 -Inf, first at \[0\]\), 'w' \(1 NaN, .*--nonfinite zero .* keep",
        ),
        ("nonfinite.safetensors --clip-value 1 --in-place", "non-finite"),
        ("nonfinite.safetensors --max-norm 1 --per-tensor --in-place", "non-finite"),
        ("nonfinite.safetensors --max-norm 1 --dry-run", "non-finite"),
        ("largest.safetensors --max-norm 1 -o out", "larger than any float64"),
        ("largest.safetensors --max-norm 1 --per-tensor --in-place", "'w'.*larger"),
        ("smallest.safetensors --max-norm 0 --eps 0 --loss-scale 64 -o out", "smaller than any"),
    ],
)
def test_what_has_no_norm_exits_1(arguments: str, said: str, workplace: Path) -> None:
    code, line = refusal(arguments, workplace)
    assert code == 1
    assert re.search(said, line), line
    assert shlex.split(arguments)[0] in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("missing.safetensors --max-norm 1 -o out", "missing.safetensors"),
        ("'missing*' --max-norm 1 -o out", r"missing\*"),
        ("notes.txt --max-norm 1 -o out", "notes.txt"),
        ("cut.safetensors --max-norm 1 -o out", "truncated"),
        ("cut.safetensors --max-norm 1 --in-place", "truncated"),
        ("empty.safetensors --max-norm 1 -o out", "no tensor at all"),
        ("integers.safetensors --max-norm 1 -o out", "no gradient"),
        ("rotten.npz --max-norm 1 -o out", "CRC-32"),
        ("rotten.npz --max-norm 1 --in-place", "CRC-32"),
        ("rotten.npz --max-norm 1 --dry-run --verify", "CRC-32"),
        ("grads.safetensors --max-norm 1 -o no/such/folder", "no/such/folder"),
        ("run --max-norm 1 -o no/such/folder", "no/such/folder"),
    ],
)
def test_what_cannot_be_read_or_written_exits_3(arguments: str, said: str, workplace: Path) -> None:
    code, line = refusal(arguments, workplace)
    assert code == 3
    assert re.search(said, line), line


@pytest.mark.parametrize("arguments", ["-o out", "--in-place", "-o notes.txt --force"])
def test_no_room_exits_3_and_leaves_what_was_there(arguments: str, workplace: Path) -> None:
    code, line = refusal(
        f"grads.safetensors --max-norm 1 {arguments}",
        workplace,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )
    assert code == 3
    assert "cannot be written" in line


@pytest.mark.parametrize("arguments", ["-o there", "-o no/out", "-o out -p 0", "-o out --eps -1"])
def test_usage_is_checked_before_anything_is_read(
    arguments: str, huge: str, tmp_path: Path
) -> None:
    (tmp_path / "there").touch()
    result = run("clip", huge, *MAX_NORM, *arguments.split(), cwd=tmp_path, timeout=5.0)
    assert result.returncode in (2, 3)


def clipped(*args: str) -> dict[str, Any]:
    """The report of a clip that goes well."""
    result = run("clip", *args, "-f", "json")
    assert (result.returncode, result.stderr) == (0, "")
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_a_report_goes_to_stdout_and_the_result_where_it_belongs(dump: str, tmp_path: Path) -> None:
    before, out = Path(dump).read_bytes(), str(tmp_path / "out.safetensors")
    result = run("clip", dump, *MAX_NORM, "-o", out)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^clip +max_norm 1, eps 1e-06$", result.stdout, re.MULTILINE)
    assert re.search(r"^clip_coef +0\.19999996$", result.stdout, re.MULTILINE)
    assert re.search(r"^L2 norm +5 before, 0\.9999998\d* after$", result.stdout, re.MULTILINE)
    assert re.search(r"^changed +1 of 1 tensor$", result.stdout, re.MULTILINE)
    assert re.search(rf"^written +{re.escape(out)}$", result.stdout, re.MULTILINE)
    assert "\x1b" not in result.stdout
    expected = (SAVED.astype(np.float64) / (5.0 + 1e-6)).astype(np.float32)
    assert load_file(out)["w"].tolist() == expected.tolist()
    assert Path(dump).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {Path(dump).name, Path(out).name}


def test_in_place_replaces_the_file_alone(dump: str, tmp_path: Path) -> None:
    Path(dump).chmod(0o640)
    report = clipped(dump, *MAX_NORM, "--in-place")
    assert (report["output"], report["written"]) == (dump, True)
    assert np.linalg.norm(load_file(dump)["w"]) == pytest.approx(1.0)
    assert Path(dump).stat().st_mode & 0o777 == 0o640
    assert [*tmp_path.iterdir()] == [Path(dump)]


def test_in_place_leaves_the_file_alone_where_nothing_changes(dump: str) -> None:
    before = Path(dump).stat()
    result = run("clip", dump, "--max-norm", "5.1", "--in-place")
    assert (result.returncode, result.stderr) == (0, "")
    assert "clip_coef     1: nothing changes" in result.stdout
    assert "not written   nothing had to change" in result.stdout
    after = Path(dump).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_hard_links_that_keep_the_old_content_are_mentioned(dump: str, tmp_path: Path) -> None:
    (tmp_path / "link").hardlink_to(dump)
    assert "hard link" in run("clip", dump, *MAX_NORM, "--in-place").stdout
    assert load_file(tmp_path / "link")["w"].tolist() == SAVED.tolist()


def test_force_replaces_another_file(dump: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    assert clipped(dump, *MAX_NORM, "--force", "-o", str(out))["written"]
    assert np.linalg.norm(load_file(out)["w"]) == pytest.approx(1.0)


@pytest.mark.parametrize("place", [[], ["-o", "OUT"], ["--in-place"]])
def test_a_dry_run_writes_nothing(place: list[str], dump: str, tmp_path: Path) -> None:
    before = content_of(tmp_path)
    options = [str(tmp_path / "out") if one == "OUT" else one for one in place]
    report = clipped(dump, *MAX_NORM, "--dry-run", *options)
    assert (report["written"], report["norm_after"]) == (False, None)
    assert report["clip_coef"] == 1.0 / (5.0 + 1e-6)
    text = run("clip", dump, *MAX_NORM, "--dry-run", *options).stdout
    assert "not written   a dry run" in text
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("path", ["run", "run/grads.safetensors.index.json", "ru[n]"])
def test_a_directory_becomes_a_new_one(path: str, workplace: Path) -> None:
    before, out = content_of(workplace / "run"), workplace / "out"
    result = run("clip", str(workplace / path), *MAX_NORM, "-o", str(out))
    assert (result.returncode, result.stderr) == (0, "")
    assert "note" not in result.stdout
    after = content_of(out)
    assert content_of(workplace / "run") == before
    assert after.keys() == before.keys()
    changed = {name for name, content in after.items() if content != before[name]}
    assert changed == {name for name in before if name.endswith(".safetensors")}
    assert not [*workplace.glob(".gradtool-*")]


def test_links_out_of_a_directory_are_followed_only_if_asked_to(workplace: Path) -> None:
    (workplace / "run" / "notes").symlink_to(workplace / "notes.txt")
    code, line = refusal("run --max-norm 1 -o out", workplace)
    assert code == 2
    assert f"run/notes: a link to {workplace}/notes.txt, outside of" in line
    clipped(str(workplace / "run"), *MAX_NORM, "--follow-links", "-o", str(workplace / "out"))
    assert not (workplace / "out" / "notes").is_symlink()
    assert (workplace / "out" / "notes").read_text() == "no tensors here"


def test_a_quoted_glob_may_match_one_path(workplace: Path) -> None:
    report = clipped(str(workplace / "gra*"), *MAX_NORM, "-o", str(workplace / "out"))
    assert report["path"] == str(workplace / "grads.safetensors")


COEF = 1.0 / (5.0 + 1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--max-norm", "1"], {"max_norm": 1.0, "clip_value": None, "clip_coef": COEF}),
        (["--max-norm", "inf"], {"max_norm": "Infinity", "clip_coef": 1.0, "norm_after": 5.0}),
        (["--max-norm", "0"], {"clip_coef": 0.0, "norm_after": 0.0}),
        (["--max-norm", "1", "--eps", "0"], {"eps": 0.0, "clip_coef": 0.2}),
        (["--max-norm", "1", "--eps", "0", "-p", "1"], {"clip_coef": 1.0 / 7.0, "norm_type": 1.0}),
        (["--max-norm", "1", "--eps", "0", "--norm-type", "inf"], {"clip_coef": 0.25}),
        (["--max-norm", "2", "--eps", "0", "--total-norm", "8"], {"clip_coef": 0.25}),
        (["--max-norm", "2.5", "--eps", "0", "--loss-scale", "0.5"], {"clip_coef": 0.25}),
        (["--max-norm", "2", "--per-tensor"], {"per_tensor": True, "clip_coef": None}),
        (["--group", "*=inf"], {"clip_coef": None, "max_norm": None, "norm_after": 5.0}),
        (["--max-norm", "1", "--strip-prefix", "net."], {"clip_coef": COEF}),
        (["--clip-value", "3"], {"clip_value": 3.0, "clip_coef": None, "norm_after": 18**0.5}),
        (["--clip-value", "3", "-p", "-inf"], {"norm_type": "-Infinity", "norm_after": 3.0}),
        (["--max-norm", "1", "--threads", "1"], {"clip_coef": COEF}),
        (["--max-norm", "1", "--backend", "numpy"], {"clip_coef": COEF}),
        (["--max-norm", "1", "--device", "cpu", "--device-memory", "1GB"], {"clip_coef": COEF}),
    ],
)
def test_options_reach_the_result(
    options: list[str], expected: dict[str, Any], dump: str, tmp_path: Path
) -> None:
    report = clipped(dump, *options, "--output", str(tmp_path / "out"))
    assert {key: report[key] for key in expected} == expected
    norm_type = float(report["norm_type"])
    norm = np.linalg.norm(load_file(tmp_path / "out")["w"].astype(np.float64), norm_type)
    assert norm / report["loss_scale"] == pytest.approx(report["norm_after"], rel=1e-12)


def test_units_are_clipped_by_their_weights_and_these_stay(workplace: Path) -> None:
    path, out = str(workplace / "sections.safetensors"), str(workplace / "out")
    before = load_file(path)
    report = clipped(path, "--agc", "0.5", "-o", out)
    after = load_file(out)
    assert after["model.w"].tolist() == before["model.w"].tolist()
    norm = np.linalg.norm(before["model.w"].astype(np.float64)) / 2
    assert report["norm_after"] == pytest.approx(min(norm, report["norm_before"]), rel=1e-6)
    assert (report["agc"], report["eps"], report["tensors"]) == (0.5, 1e-3, 1)


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--section", "grads"], ["grads.w"]),
        (["-i", "model*"], ["model.w"]),
        (["--include", "*s.w", "--include", "model.w", "--exclude", "model.*"], ["grads.w"]),
        (["-x", "model.*"], ["grads.w"]),
    ],
)
def test_what_is_not_chosen_stays_as_it_is(
    options: list[str], changed: list[str], workplace: Path
) -> None:
    path, out = str(workplace / "sections.safetensors"), str(workplace / "out")
    report = clipped(path, *MAX_NORM, *options, "-o", out)
    assert (report["tensors"], report["tensors_changed"]) == (1, 1)
    before, after = load_file(path), load_file(out)
    assert [name for name in before if after[name].tolist() != before[name].tolist()] == changed


@pytest.mark.parametrize(("choice", "v", "w"), [("zero", [0, 0], [3, 0]), ("keep", None, [3])])
def test_nonfinite_elements_are_replaced_or_kept(
    choice: str, v: list[float] | None, w: list[float], workplace: Path
) -> None:
    path, out = str(workplace / "nonfinite.safetensors"), str(workplace / "out")
    report = clipped(path, "--max-norm", "1.5", "--eps", "0", "--nonfinite", choice, "-o", out)
    assert (report["norm_before"], report["finite_norm_before"]) == ("NaN", 3.0)
    assert (report["clip_coef"], report["finite_norm_after"]) == (0.5, 1.5)
    before, after = load_file(path), load_file(out)
    assert after["v"].tobytes() == (before["v"] if v is None else np.float32(v)).tobytes()
    kept = before["w"][len(w) :]
    assert after["w"].tobytes() == np.float32([*np.divide(w, 2), *kept]).tobytes()


@pytest.mark.parametrize(
    ("options", "coef"),
    [
        ("--ranks shard", 5 / (5 * 25 + 2 * 144) ** 0.5),
        ("--ranks shard --replicated b", 5 / (5 * 25 + 144) ** 0.5),
        ("--ranks replica -i b", 5 / 12),
        ("--join", 5 / (5 * 25 + 2 * 144) ** 0.5),
    ],
)
def test_ranks_are_clipped_by_one_norm(options: str, coef: float, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["x.safetensors", "y.safetensors"]
    if "--ranks" in options:
        names = ["rank0.safetensors", "rank1.safetensors"]
    for name, scale in zip(names, (1, 2), strict=True):
        path = tmp_path / "in" / name
        save_file({"w": SAVED * np.float32(scale), "b": np.float32([12])}, path)
    out = str(tmp_path / "out")
    report = clipped(
        str(tmp_path / "in"), "--max-norm", "5", "--eps", "0", *options.split(), "-o", out
    )
    assert report["clip_coef"] == pytest.approx(coef, rel=1e-12)
    for name in names:
        assert load_file(f"{out}/{name}")["b"] == np.float32(12 * coef)


def test_raw_dtype_says_what_raw_bytes_are(tmp_path: Path) -> None:
    path, out = str(tmp_path / "grads.npy"), tmp_path / "out.npy"
    np.save(path, np.array([0x4040, 0x4080], np.uint16).view("V2"))
    options = ("--max-norm", "2.5", "--eps", "0", "-o", str(out))
    assert clipped(path, *options, "--raw-dtype", "BF16")["norm_after"] == 2.5
    assert np.load(out).view(np.uint16).tolist() == [0x3FC0, 0x4000]


@pytest.fixture
def many(tmp_path: Path) -> str:
    path = str(tmp_path / "many.safetensors")
    save_file({f"layers.{at}.w": np.float32([at + 2]) for at in range(60)}, path)
    return path


def test_tensors_of_their_own_are_listed_all_or_some_or_none(many: str) -> None:
    def rows(*options: str) -> int:
        text = run("clip", many, "--clip-value", "1", "--dry-run", *options).stdout
        return sum(line.startswith("layers.") for line in text.splitlines())

    assert (rows(), rows("--all"), rows("-q"), rows("--quiet")) == (40, 60, 0, 0)


def test_quiet_leaves_the_figures(dump: str) -> None:
    text = run("clip", dump, *MAX_NORM, "--dry-run", "--quiet").stdout
    assert "clip_coef     0.19999996" in text


def test_names_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    path, out = str(tmp_path / "a\x1b[2J"), str(tmp_path / "b\x1b[2J\nb")
    save_file({"w\x1b[31m": SAVED}, path)
    result = run("clip", path, *MAX_NORM, "--per-tensor", "-o", out)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "w\\x1b[31m" in result.stdout
    assert "b\\x1b[2J\\x0ab\n" in result.stdout
    again = run("clip", path, *MAX_NORM, "-o", out)
    assert again.returncode == 2
    assert "b\\x1b[2J\\x0ab exists" in error_lines(again)[0]


def test_names_of_files_need_not_be_text(dump: str, tmp_path: Path) -> None:
    path, out = str(tmp_path / "grads-\udcff.safetensors"), str(tmp_path / "out-\udcff")
    try:
        Path(dump).rename(path)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    for report_format in ("table", "json"):
        result = run("clip", path, *MAX_NORM, "-o", out, "--force", "-f", report_format)
        assert (result.returncode, result.stderr) == (0, "")
        assert "out-\\udcff" in result.stdout


def test_colours_follow_the_terminal_no_color_and_the_option(dump: str) -> None:
    command = ["clip", dump, *MAX_NORM, "--dry-run"]
    assert "\x1b[1m" in on_terminal(*command)
    assert "\x1b" not in on_terminal(*command, env={"NO_COLOR": "1"})
    assert "\x1b" not in on_terminal(*command, "--color", "never")
    assert "\x1b[1m" in run(*command, "--color", "always").stdout


def test_tables_fit_the_terminal(tmp_path: Path) -> None:
    path = str(tmp_path / "grads.safetensors")
    save_file({"n" * 120: SAVED}, path)
    command = ["clip", path, *MAX_NORM, "--per-tensor", "--dry-run", "--color", "never"]
    assert "n" * 120 not in on_terminal(*command, columns=80)
    assert "n" * 120 in on_terminal(*command, columns=200)
    assert "n" * 120 in run(*command).stdout


@pytest.mark.parametrize("report_format", ["table", "json"])
def test_a_reader_that_is_gone_is_no_error(report_format: str, dump: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = tmp_path / "out"
    result = run("clip", dump, *MAX_NORM, "-o", str(out), "-f", report_format, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
    assert np.linalg.norm(load_file(out)["w"]) == pytest.approx(1.0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_report_that_finds_no_room_exits_3_and_the_result_is_there(
    dump: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open("/dev/full", "w") as full:
        result = run("clip", dump, *MAX_NORM, "-o", str(out), stdout=full)
    assert result.returncode == 3
    assert "standard output" in error_lines(result)[0]
    assert np.linalg.norm(load_file(out)["w"]) == pytest.approx(1.0)


FOREIGN = "torch,jax,mlx,pandas,safetensors"


@pytest.mark.parametrize("place", ["--in-place", "--dry-run"])
def test_clip_loads_no_framework(place: str, dump: str) -> None:
    assert loaded(FOREIGN, "clip", dump, *MAX_NORM, place) == []


def test_that_check_can_fail(dump: str) -> None:
    pytest.importorskip("torch")
    command = ("clip", dump, *MAX_NORM, "--in-place")
    assert loaded(FOREIGN, *command, before="import torch") == ["torch"]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_needs_no_array_library(option: str) -> None:
    assert loaded("numpy,ml_dtypes,rich.table", "clip", option) == []


def test_every_option_is_tried_here() -> None:
    shown = run("clip", "--help").stdout
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown.split("Arguments:")[1]))
    assert len(options) > 30
    tree = ast.parse(Path(__file__).read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    tried = {word for text in texts if isinstance(text, str) for word in text.split()}
    assert options - tried == set()


def sparse(path: Path, nbytes: int) -> str:
    """A dump that takes no space on the disk, of zeros but for one element."""
    entry = {"dtype": "F32", "shape": [nbytes // 4], "data_offsets": [0, nbytes]}
    header = json.dumps({"w": entry}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + np.float32(3.0).tobytes())
        file.truncate(8 + len(header) + nbytes)
    return str(path)


@pytest.fixture
def huge(tmp_path: Path) -> str:
    """A dump that takes many seconds to measure."""
    return sparse(tmp_path / "huge.safetensors", 100 * 10**9)


@pytest.fixture
def large(tmp_path: Path) -> str:
    """A dump that takes long enough to clip to be caught at it."""
    return sparse(tmp_path / "large.safetensors", 6 * 10**8)


def wait_for_workspace(folder: Path) -> None:
    deadline = time.monotonic() + 60.0
    while not any(folder.glob(".gradtool-*/*")):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("place", ["out", "in place"])
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")],
)
def test_who_is_ended_while_writing_leaves_nothing(
    number: int, code: int, said: bytes, place: str, large: str, tmp_path: Path
) -> None:
    where = ["-o", str(tmp_path / "out")] if place == "out" else ["--in-place"]
    before = Path(large).stat()
    with started("clip", large, *MAX_NORM, *where, stderr=subprocess.PIPE) as process:
        wait_for_workspace(tmp_path)
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (code, b"", b"gradtool: " + said + b"\n")
    assert [*tmp_path.iterdir()] == [Path(large)]
    after = Path(large).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


IN_THE_BACKGROUND = ("sh", "-c", 'trap "" INT TERM HUP; exec "$@"', "sh", *GRADTOOL)


def test_signals_that_were_ignored_from_the_start_end_nothing(large: str, tmp_path: Path) -> None:
    """As whoever says `nohup`, or `&` in a script, means it."""
    args = ["clip", large, *MAX_NORM, "-o", str(tmp_path / "out")]
    with started(*args, stderr=subprocess.PIPE, command=IN_THE_BACKGROUND) as process:
        wait_for_workspace(tmp_path)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, b"clip_coef" in out, errors) == (0, True, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.safetensors", "out"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_ended_while_measuring_leaves_nothing(
    number: int, code: int, huge: str, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    out = str(tmp_path / "out")
    with started("clip", huge, *MAX_NORM, "-o", out, stderr=theirs) as process:
        os.close(theirs)
        read_until(ours, b"/300.0 GB")
        process.send_signal(number)
        said = read_until(ours, b"ted")
        assert process.communicate(timeout=60)[0] == b""
    os.close(ours)
    assert process.returncode == code
    assert b"Traceback" not in said
    assert [*tmp_path.iterdir()] == [Path(huge)]


IMPATIENT = (
    "import gradtool.cli.app, gradtool.cli.progress\n"
    "gradtool.cli.progress.PATIENCE_S = 0.0\n"
    "gradtool.cli.app.app()"
)


def test_progress_goes_on_over_all_passes(large: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    out = str(tmp_path / "out")
    command = (sys.executable, "-W", "error", "-c", IMPATIENT)
    with started("clip", large, *MAX_NORM, "-o", out, stderr=theirs, command=command) as process:
        os.close(theirs)
        shown = read_until(ours, b"1.8/1.8 GB")
        report = process.communicate(timeout=60)[0]
    os.close(ours)
    assert (process.returncode, b"clip_coef" in report) == (0, True)
    found = re.findall(rb"(\d+\.\d)/(\d+\.\d) GB", shown)
    assert {total for _, total in found} == {b"1.8"}
    done = [float(part) for part, _ in found]
    assert done == sorted(done)
    assert b"large.safetensors" in shown


@pytest.mark.parametrize("option", ["--no-progress", "--quiet"])
def test_progress_can_be_turned_off(option: str, huge: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    out = str(tmp_path / "out")
    with started("clip", huge, *MAX_NORM, "-o", out, option, stderr=theirs) as process:
        os.close(theirs)
        wait_for_reading(process, huge)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        shown = read_until(ours, b"interrupted")
    os.close(ours)
    assert shown.strip() == b"gradtool: interrupted"
