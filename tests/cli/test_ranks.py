"""Ranks, copies and files that are joined: what the options for them do, in every command."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from numpy.typing import NDArray
from reports.parsers import markdown_tables, validator
from safetensors.numpy import load_file, save_file

import gradtool

RANKS = ("a/rank0.safetensors", "a/rank1.safetensors")
QUESTION = "'w': 1 element of the copy of rank 1 differ"
SAY = "say --ranks shard for pieces that add up, --ranks replica for copies"


def save(path: Path, **tensors: float | list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.float32(np.atleast_1d(values)) for name, values in tensors.items()}, path)


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """Ranks that differ in `w` and have `b` in common; ranks that are equal; twins."""
    for rank, value in enumerate((3.0, 4.0)):
        save(tmp_path / "a" / f"rank{rank}.safetensors", w=value, b=12.0)
        save(tmp_path / "equal" / f"rank{rank}.safetensors", w=[3.0, 4.0])
        save(tmp_path / "folders" / f"rank{rank}" / "grads.safetensors", w=value)
        save(tmp_path / "twins" / f"{'xy'[rank]}.safetensors", w=value)
    return tmp_path


def reports(yard: Path, *args: str) -> list[dict[str, Any]]:
    result = run("inspect", *args, "-f", "json", cwd=yard)
    assert (result.returncode, result.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(result.stdout)["reports"]
    return found


def norms(yard: Path, *args: str) -> list[float]:
    return [report["total"]["norm"] for report in reports(yard, *args)]


BY_THE_OPTIONS = [
    ("--ranks each", [153**0.5, 160**0.5]),
    ("--ranks shard", [(9 + 16 + 2 * 144) ** 0.5]),
    ("--ranks shard --replicated b", [13.0]),
    ("--ranks shard --replicated x --replicated b*", [13.0]),
    ("--ranks replica --include b", [12.0]),
    ("--ranks auto -i b", [12.0]),
    ("-i b", [12.0]),
]


@pytest.mark.parametrize(("options", "expected"), BY_THE_OPTIONS)
@pytest.mark.parametrize("place", ["a", "a/rank*", " ".join(RANKS)])
def test_a_directory_a_glob_and_files_mean_the_same(
    place: str, options: str, expected: list[float], yard: Path
) -> None:
    found = norms(yard, *place.split(), *options.split())
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_glob_that_fits_no_name_is_told(yard: Path) -> None:
    said = "no tensor has a name of those said to be whole on each rank"
    for glob in ("b", "b*"):
        (report,) = reports(yard, "a", "--ranks", "shard", "--replicated", glob)
        assert said not in report["notes"]
    (report,) = reports(yard, "a", "--ranks", "shard", "--replicated", "bias")
    assert said in report["notes"]


@pytest.mark.parametrize("place", ["a", "a/rank?.safetensors", " ".join(RANKS)])
def test_each_rank_has_a_report_of_its_own(place: str, yard: Path) -> None:
    found = reports(yard, *place.split(), "--ranks", "each")
    assert [report["path"] for report in found] == [*RANKS]


def test_ranks_in_folders_have_one_each(yard: Path) -> None:
    found = reports(yard, "folders", "--ranks", "each")
    assert [report["path"] for report in found] == ["folders/rank0", "folders/rank1"]
    assert [report["total"]["norm"] for report in found] == [3.0, 4.0]


def test_the_list_of_ranks_in_folders_says_what_each_is(yard: Path) -> None:
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(yard / "folders", ranks="each")
    size = (yard / "folders" / "rank0" / "grads.safetensors").stat().st_size
    assert caught.value.found == tuple(
        (str(yard / "folders" / f"rank{at}"), None, "safetensors", 1, size, None, f"rank {at}")
        for at in range(2)
    )


def test_a_rank_that_cannot_be_read_leaves_the_others(yard: Path) -> None:
    (yard / RANKS[0]).write_bytes(b"\x10garbage")
    result = run("inspect", "a", "--ranks", "each", "-f", "csv", cwd=yard)
    assert result.returncode == 3
    assert RANKS[0] in error_lines(result)[0]
    rows = [line.split(",") for line in result.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == [RANKS[1]] * 3
    assert rows[-1][2] == "(total)"


def test_what_is_open_about_a_directory_is_an_error_in_the_words_of_the_command_line(
    yard: Path,
) -> None:
    for command in (["inspect"], ["clip", "--max-norm", "1", "-o", "out"]):
        result = run(command[0], "a", *command[1:], cwd=yard)
        assert (result.returncode, result.stdout) == (2, "")
        (line,) = error_lines(result)
        assert QUESTION in line
        assert SAY in line
    assert not (yard / "out").exists()


@pytest.mark.parametrize("place", ["a/rank*", " ".join(RANKS)])
def test_files_of_ranks_that_nothing_tells_stay_apart_with_the_question_in_a_note(
    place: str, yard: Path
) -> None:
    found = reports(yard, *place.split())
    assert [report["path"] for report in found] == [*RANKS]
    for report in found:
        (note,) = report["notes"]
        assert note.startswith("a rank by itself: a/rank*.safetensors: ")
        assert QUESTION in note
        assert SAY in note
    assert [report["notes"] for report in reports(yard, *RANKS, "--ranks", "each")] == [[], []]


def test_check_judges_such_ranks_one_by_one_and_says_so_in_its_own_words(yard: Path) -> None:
    result = run("check", "a", "-f", "json", cwd=yard)
    assert result.returncode == 0
    dumps = json.loads(result.stdout)["dumps"]
    assert [dump["path"] for dump in dumps] == [*RANKS]
    assert all(SAY in dump["notes"][-1] for dump in dumps)
    (one,) = json.loads(run("check", "equal", "-f", "json", cwd=yard).stdout)["dumps"]
    assert one["total"]["norm"] == 5.0


def test_copies_that_must_agree_and_do_not_are_an_error_that_names_one(yard: Path) -> None:
    for options in (["--ranks", "replica"], ["--replicated", "*"]):
        result = run("inspect", "a", *options, cwd=yard)
        assert (result.returncode, result.stdout) == (3, "")
        assert QUESTION in error_lines(result)[0]
        assert "--ranks" not in result.stderr
    assert run("check", "a", "--ranks", "replica", cwd=yard).returncode == 1


def test_a_mode_that_there_is_not_is_refused_with_those_that_there_are(yard: Path) -> None:
    for command in ("inspect", "check", "clip"):
        result = run(command, "a", "--ranks", "shards", cwd=yard)
        assert (result.returncode, result.stdout) == (2, "")
        assert all(mode in result.stderr for mode in ("'shard'", "'replica'", "'each'"))


def test_clip_scales_all_ranks_by_one_coefficient(yard: Path) -> None:
    arguments = ["a", "--max-norm", "6.5", "--eps", "0", "-o", "out"]
    result = run("clip", *arguments, "--ranks", "shard", "--replicated", "b", cwd=yard)
    assert (result.returncode, result.stderr) == (0, "")
    for rank, value in enumerate((1.5, 2.0)):
        after = load_file(yard / "out" / f"rank{rank}.safetensors")
        assert (after["w"].tolist(), after["b"].tolist()) == ([value], [6.0])


def clipped_each(yard: Path, *args: str) -> dict[str, Any]:
    """What clipping every rank by its own norm to 1 reports."""
    options = ["--ranks", "each", "--max-norm", "1", "--eps", "0", "-f", "json"]
    result = run("clip", *args, *options, cwd=yard)
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    validator("clip-1").validate(found)
    for key in ("written", "norm_before"):
        assert not validator("clip-1").is_valid({**found, key: 1.0})
    return found


@pytest.mark.parametrize("place", ["a", "a/rank*", " ".join(RANKS)])
@pytest.mark.parametrize("out", [["-o", "out"], ["--dry-run"]])
def test_clip_scales_each_rank_by_its_own_norm_if_asked_to(
    out: list[str], place: str, yard: Path
) -> None:
    (yard / "a" / "log.txt").write_text("a log")
    found = clipped_each(yard, *place.split(), *out)
    assert [found[key] for key in ("clip_coef", "norm_before", "norm_after")] == [None] * 3
    assert (found["format"], found["tensors"], found["tensors_changed"]) == ("ranks", 4, 4)
    assert found["written"] == (out[0] == "-o")
    for at, (one, norm) in enumerate(zip(found["ranks"], (153**0.5, 160**0.5), strict=True)):
        assert (one["rank"], one["path"]) == (f"rank {at}", RANKS[at])
        assert one["norm_before"] == pytest.approx(norm, rel=1e-12)
        assert one["clip_coef"] == pytest.approx(1 / norm, rel=1e-12)
        if found["written"]:
            assert one["norm_after"] == pytest.approx(1.0, rel=1e-6)
            after = load_file(yard / "out" / f"rank{at}.safetensors")
            wanted = [np.float32((3.0 + at) / norm), np.float32(12.0 / norm)]
            assert [after["w"].item(), after["b"].item()] == wanted
        else:
            assert one["norm_after"] is None
    if found["written"]:
        names = sorted(path.name for path in (yard / "out").iterdir())
        beside = ["log.txt"] if place == "a" else []
        assert names == [*beside, "rank0.safetensors", "rank1.safetensors"]
    else:
        assert not (yard / "out").exists()


def test_the_table_has_a_line_for_each_rank_that_was_clipped(yard: Path) -> None:
    options = ["--ranks", "each", "--max-norm", "1", "--eps", "0", "-o", "out"]
    lines = run("clip", "a", *options, cwd=yard).stdout.splitlines()
    assert lines[0] == "a: 2 ranks, each clipped by its own norm"
    rows = [line.split() for line in lines if line.startswith("a/rank")]
    assert rows == [
        [RANKS[0], "0", f"{153**-0.5:.12g}", "12.369", "1.0000"],
        [RANKS[1], "1", f"{160**-0.5:.12g}", "12.649", "1.0000"],
    ]
    assert "changed       4 of 4 tensors" in lines
    assert not any(line.startswith(("clip_coef", "L2 norm")) for line in lines)


def test_a_rank_that_is_not_finite_is_named_and_nothing_is_written(yard: Path) -> None:
    save(yard / RANKS[1], w=[4.0, float("nan")], b=12.0)
    result = run("clip", "a", "--ranks", "each", "--max-norm", "1", "-o", "out", cwd=yard)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = error_lines(result)
    assert f"{RANKS[1]}: not clipped: non-finite gradients in 'w' (1 NaN" in line
    assert sorted(path.name for path in yard.iterdir()) == ["a", "equal", "folders", "twins"]


def test_ranks_that_are_named_are_clipped_as_one_and_written_alone(yard: Path) -> None:
    (yard / "a" / "model.safetensors").write_bytes(b"\x10garbage")
    arguments = ["--max-norm", "6.5", "--eps", "0", "--ranks", "shard", "--replicated", "b"]
    for place, out in (("a/rank*", "a/out"), (" ".join(RANKS), "out")):
        result = run("clip", *place.split(), *arguments, "-o", out, cwd=yard)
        assert (result.returncode, result.stderr) == (0, "")
        assert sorted(path.name for path in (yard / out).iterdir()) == [
            "rank0.safetensors",
            "rank1.safetensors",
        ]
        for rank, value in enumerate((1.5, 2.0)):
            after = load_file(yard / out / f"rank{rank}.safetensors")
            assert (after["w"].tolist(), after["b"].tolist()) == ([value], [6.0])


def test_a_set_that_is_named_is_not_clipped_in_place_nor_into_itself(yard: Path) -> None:
    for out, said in (
        (["--in-place"], "only a single file is clipped in place"),
        (["-o", "folders/rank0/out"], "folders/rank0/out lies inside folders/rank*"),
        (["-o", "folders"], "folders is folders/rank* itself"),
    ):
        result = run("clip", "folders/rank*", "--ranks", "shard", "--max-norm", "1", *out, cwd=yard)
        assert (result.returncode, result.stdout) == (2, "")
        assert said in error_lines(result)[0]


def test_files_with_the_same_tensors_are_joined_only_if_asked_to(yard: Path) -> None:
    commands = ["inspect", "check", "clip --max-norm 1 --dry-run"]
    for command, *options in map(str.split, commands):
        refused = run(command, "twins", *options, cwd=yard)
        assert refused.returncode in (2, 3)
        said = refused.stdout if command == "check" else error_lines(refused)[0]
        assert "both hold 'w'" in said
        assert "--join" in said
        result = run(command, "twins", *options, "--join", "-f", "json", cwd=yard)
        assert (result.returncode, result.stderr) == (0, "")
    (report,) = reports(yard, "twins", "--join")
    assert [one["name"] for one in report["tensors"]] == ["x.w", "y.w"]
    assert report["total"]["norm"] == 5.0


def digest(values: NDArray[Any]) -> str:
    """SHA-256 over the SHA-256 of each MiB, as the schema has it."""
    data = values.tobytes()
    blocks = (data[at : at + 2**20] for at in range(0, len(data), 2**20))
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


def test_digests_are_those_of_the_elements_in_every_format(tmp_path: Path) -> None:
    values = {"large": np.arange(600_000, dtype="<f4"), "small": np.float16([1, 2])}
    save_file(values, tmp_path / "grads.safetensors")
    np.savez(tmp_path / "grads.npz", **values)
    wanted = {name: digest(array) for name, array in values.items()}
    for path in ("grads.safetensors", "grads.npz"):
        (report,) = reports(tmp_path, path, "--digest")
        assert {one["name"]: one["digest"] for one in report["tensors"]} == wanted
        found = run("inspect", path, "--digest", "-f", "csv", cwd=tmp_path).stdout.splitlines()
        digests = {row["name"]: row["digest"] for row in csv.DictReader(found)}
        assert digests == {**wanted, "(total)": ""}
        table = run("inspect", path, "--digest", cwd=tmp_path).stdout
        markdown = run("inspect", path, "--digest", "-f", "markdown", cwd=tmp_path).stdout
        ((header, *rows),) = markdown_tables(markdown)
        assert header[-1] == "SHA-256"
        assert {row[0]: row[-1] for row in rows} == {n: d[:16] for n, d in wanted.items()}
        assert all(sha[:16] in table for sha in wanted.values())


def test_nobody_pays_for_digests_that_were_not_asked_for(yard: Path) -> None:
    (report,) = reports(yard, "equal")
    assert [one["digest"] for one in report["tensors"]] == [None]
    assert "SHA-256" not in run("inspect", "equal", cwd=yard).stdout
    for command in ("clip", "check"):
        result = run(command, "equal", "--digest", cwd=yard)
        assert result.returncode == 2
        assert "No such option: --digest" in result.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("inspect --ranks ", ["auto", "shard", "replica", "each"]),
        ("clip --ranks s", ["shard"]),
        ("check --ranks re", ["replica"]),
        ("inspect --re", ["--replicated"]),
        ("check --joi", ["--join"]),
        ("inspect --dig", ["--digest"]),
    ],
)
def test_shells_complete_them(typed: str, offered: list[str]) -> None:
    environment = {
        "_GRADTOOL_COMPLETE": "complete_bash",
        "COMP_WORDS": f"gradtool {typed}",
        "COMP_CWORD": str(typed.count(" ") + 1),
    }
    assert run(env=environment).stdout.split() == offered


CONFIGURED = [
    ("", "", [153**0.5, 160**0.5]),
    ('ranks = "each"', "", [153**0.5, 160**0.5]),
    ('ranks = "shard"', "", [(9 + 16 + 2 * 144) ** 0.5]),
    ('ranks = "shard"\nreplicated = ["b"]', "", [13.0]),
    ('ranks = "shard"\nreplicated = ["b"]', "--replicated x", [(9 + 16 + 2 * 144) ** 0.5]),
    ('ranks = "shard"\nreplicated = ["b"]', "--ranks each", [153**0.5, 160**0.5]),
    ('replicated = ["b"]', "--ranks shard", [13.0]),
    ('ranks = "shard"', "--ranks auto", [153**0.5, 160**0.5]),
]


@pytest.mark.parametrize(("text", "options", "expected"), CONFIGURED)
def test_they_may_stand_in_the_configuration_and_the_command_line_wins(
    text: str, options: str, expected: list[float], yard: Path
) -> None:
    (yard / "gradtool.toml").write_text(f"[check]\n{text}\n")
    result = run("check", "a", "-f", "json", *options.split(), cwd=yard)
    assert (result.returncode, result.stderr) == (0, "")
    found = [dump["total"]["norm"] for dump in json.loads(result.stdout)["dumps"]]
    assert found == pytest.approx(expected, rel=1e-12)


def test_baselines_heed_that_too(yard: Path) -> None:
    (yard / "gradtool.toml").write_text('[check]\nranks = "shard"\nreplicated = ["b"]\n')
    result = run("baseline", "save", "a", "-o", "base.json", cwd=yard)
    assert (result.returncode, result.stderr) == (0, "")
    assert run("check", "a", "--baseline", "base.json", cwd=yard).returncode == 0
    assert run("check", "a", "--expect-norm", "13", cwd=yard).returncode == 0
