"""Whatever a file, a path or an argument puts into words, each line that says so stays short."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from dumps import write_safetensors
from hypothesis import given
from hypothesis import strategies as st

import gradtool
from gradtool.report import CHECK_REPORTERS, CLIP_REPORTERS, REPORTERS
from gradtool.report.escaping import visible
from gradtool.shortening import LONGEST_LINE, fitted, shortened

LONG = 100_000
LETTERS = {"plain": "n", "hidden": "\U000e0001"}
ONE = np.ones(1, np.float32)


def word(letter: str, length: int = LONG) -> str:
    """A long word with a beginning and an end to know it by."""
    return f"head{letter * (length // len(letter))}tail"


def safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes = bytes(8)) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), end: int = 8, **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end], **more}


def torch_zip(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/data/0", bytes(8))
    return path


def torch_named(*names: str, storage: str = "0", kind: str = "FloatStorage") -> bytes:
    """A pickle of a dict of tensors of two elements, as torch writes it."""

    def text(value: str) -> bytes:
        raw = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(raw)) + raw

    items = b""
    for name in names:
        stored = text("storage") + f"ctorch\n{kind}\n".encode() + text(storage) + text("cpu")
        view = b"(" + stored + b"K\x02tQK\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)R"
        items += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tR"
    return b"\x80\x02}(" + items + b"u."


def npz(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def twice(path: Path) -> Path:
    """The archive with its two members under one name."""
    path.write_bytes(path.read_bytes().replace(b"2.npy", b"1.npy"))
    return path


def npy(header: str, data: bytes = bytes(8)) -> bytes:
    raw = header.encode("latin-1")
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(raw)) + raw + data


DESCR = "{'descr': %r, 'fortran_order': False, 'shape': (2,)}"

Maker = Callable[[Path, str], Path]

FILES: dict[str, Maker] = {
    "name": lambda at, w: write_safetensors(at / "x.safetensors", {w: ("F32", ONE)}),
    "nan": lambda at, w: write_safetensors(
        at / "x.safetensors", {f"{w}0": ("F32", ONE), w: ("F32", ONE * np.nan), "z": ("F32", ONE)}
    ),
    "skipped": lambda at, w: safetensors(at / "x.safetensors", {w: entry("I32")}),
    "dtype": lambda at, w: safetensors(at / "x.safetensors", {"w": entry(w)}),
    "key": lambda at, w: safetensors(at / "x.safetensors", {"w": entry(**{w: 1})}),
    "past the end": lambda at, w: safetensors(at / "x.safetensors", {w: entry(end=4 << 40)}),
    "offsets": lambda at, w: safetensors(
        at / "x.safetensors", {"w": {"dtype": "F32", "shape": [2], "data_offsets": w}}
    ),
    "twice": lambda at, w: safetensors(
        at / "x.safetensors", "{%s: 0, %s: 0}".replace("%s", json.dumps(w)).encode()
    ),
    "shape": lambda at, w: safetensors(
        at / "x.safetensors", {w: entry(shape=(0, *[10**15] * 60), end=0), "v": entry()}
    ),
    "metadata": lambda at, w: safetensors(
        at / "x.safetensors", {"__metadata__": {w: w, "gradtool.step": w}, "w": entry()}
    ),
    "no metadata": lambda at, w: safetensors(
        at / "x.safetensors", {"__metadata__": {w: 3}, "w": entry()}
    ),
    "torch": lambda at, w: torch_zip(at / "x.pt", torch_named(w)),
    "torch tied": lambda at, w: torch_zip(at / "x.pt", torch_named(w, f"{w}0")),
    "torch storage": lambda at, w: torch_zip(at / "x.pt", torch_named("w", storage=w)),
    "torch type": lambda at, w: torch_zip(
        at / "x.pt", torch_named("w", kind=re.sub(r"\W", "_", w))
    ),
    "torch class": lambda at, w: torch_zip(
        at / "x.pt", b"\x80\x02c" + re.sub(r"\W", "_", w).encode() * 2 + b"\nC\n)R."
    ),
    "torch objects": lambda at, w: torch_zip(at / "x.pt", pickle.dumps({w: {w: [w, 1.5]}}, 2)),
    "npz": lambda at, w: npz(at / "x.npz", (f"{w[:15_000]}.npy", npy(DESCR % "<f4"))),
    "npz twice": lambda at, w: twice(
        npz(at / "x.npz", *((f"{w[:9_000]}{one}.npy", npy(DESCR % "<f4")) for one in "12"))
    ),
    "npz other": lambda at, w: npz(at / "x.npz", (w[:15_000], b"x")),
    "npy type": lambda at, w: npz(
        at / "x.npz", ("w.npy", npy(DESCR % [(re.sub(r"\W", "_", w[:15_000]), "<f4")]))
    ),
    "npy header": lambda at, w: npz(
        at / "x.npz", ("w.npy", npy(DESCR % re.sub(r"\W", "_", w[:15_000])))
    ),
}


def index(at: Path, w: str) -> Path:
    write_safetensors(at / "a.safetensors", {w: ("F32", ONE)})
    path = at / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {w: "a.safetensors", f"{w}0": f"{w}.safetensors"}}))
    return path


FILES["index"] = index
FILES["shard"] = lambda at, w: index(at, w).rename(at / "b.safetensors.index.json")


@pytest.fixture(scope="module", params=LETTERS)
def letter(request: pytest.FixtureRequest) -> str:
    return LETTERS[request.param]


def assert_said_in_short(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode in (0, 1, 2, 3), result.stderr[-2000:]
    assert result.returncode < 2 or error_lines(result) or "NOT JUDGED" in result.stdout
    for line in result.stderr.splitlines():
        assert len(line) <= LONGEST_LINE
        assert line.isprintable()


def commands(path: str, out: Path) -> Iterator[tuple[str, ...]]:
    """Every command that reads a dump, in every format."""
    for name in REPORTERS:
        yield "inspect", path, "-f", name, "--all", "--max-norm", "1"
    for name in CHECK_REPORTERS:
        yield "check", path, "-f", name, "--all"
    for name in CLIP_REPORTERS:
        yield "clip", path, "--max-norm", "0.1", "--per-tensor", "-f", name, "-o", str(out / name)
    yield "baseline", "save", path, "-o", str(out / "b.json")


WIDEST = 2_500
"""Characters of a line of a report that people read: two names, each of them cut, and figures."""


@pytest.mark.parametrize("kind", FILES)
def test_words_of_a_file_are_cut_wherever_people_read_them(
    kind: str, letter: str, tmp_path: Path
) -> None:
    path = str(FILES[kind](tmp_path, word(letter)))
    for args in commands(path, tmp_path):
        result = run(*args)
        assert_said_in_short(result)
        if not {"json", "csv", "junit"} & set(args):
            widest = max(map(len, result.stdout.splitlines()), default=0)
            assert widest <= WIDEST * (10 if "markdown" in args else 1), args


def test_names_stay_whole_where_programs_read_them(letter: str, tmp_path: Path) -> None:
    name = word(letter)
    path = str(FILES["nan"](tmp_path, name))
    tensors = json.loads(run("inspect", path, "-f", "json").stdout)["reports"][0]["tensors"]
    assert {tensor["name"] for tensor in tensors} == {name, f"{name}0", "z"}
    (finding,) = json.loads(run("check", path, "-f", "json").stdout)["dumps"][0]["findings"]
    assert finding["tensor"] == name


def test_lines_of_findings_are_short_as_well(letter: str, tmp_path: Path) -> None:
    path = str(FILES["nan"](tmp_path, word(letter)))
    for name in ("text", "github"):
        result = run("check", path, "-f", name)
        said = [line for line in result.stdout.splitlines() if "GT101" in line and "head" in line]
        assert said
        assert all(len(line) <= LONGEST_LINE and "tail" in line for line in said)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A dump at a path of nearly as many characters as the system takes."""
    folder = os.open(tmp_path, os.O_RDONLY)
    path = tmp_path
    while len(str(path)) < 3_800:
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
        path /= "d" * 200
    os.close(folder)
    return write_safetensors(path / "x.safetensors", {"w": ("F32", ONE * np.nan)})


def test_long_paths_are_cut_and_known_by_their_ends(deep: Path, tmp_path: Path) -> None:
    broken = deep.with_name("broken.safetensors")
    broken.write_bytes(bytes(100))
    for path in (deep, broken, deep.with_name("missing.safetensors"), Path("/" + "d/" * 60_000)):
        for args in commands(str(path), tmp_path):
            result = run(*args)
            assert_said_in_short(result)
            for line in error_lines(result):
                assert str(tmp_path)[:20] in line or line.startswith("gradtool: error: /d/d")
                assert path.name[-8:] in line


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "DUMP", "-f", "WORD"],
        ["inspect", "DUMP", "--include", "WORD"],
        ["inspect", "DUMP", "--section", "WORD"],
        ["inspect", "DUMP", "--WORD"],
        ["inspect", "DUMP", "--raw-dtype", "WORD"],
        ["inspect", "DUMP", "--device", "WORD"],
        ["inspect", "DUMP", "--device-memory", "WORD"],
        ["inspect", "DUMP", "--norm-type", "WORD"],
        ["inspect", "DUMP", "--group-by", "WORD"],
        ["inspect", "DUMP", "-o", "WORD"],
        ["check", "DUMP", "--set", "WORD=3"],
        ["check", "DUMP", "--set", "GT203.WORD=3"],
        ["check", "DUMP", "--set", "GT203.max_norm=WORD"],
        ["check", "DUMP", "--select", "WORD"],
        ["check", "DUMP", "--config", "WORD"],
        ["check", "DUMP", "--baseline", "WORD"],
        ["check", "DUMP", "-f", "text:WORD/x"],
        ["clip", "DUMP", "--max-norm", "1", "-o", "WORD"],
        ["explain", "WORD"],
        ["WORD"],
    ],
)
def test_words_of_a_user_are_cut_as_well(args: list[str], tmp_path: Path) -> None:
    dump = str(write_safetensors(tmp_path / "x.safetensors", {"w": ("F32", ONE)}))
    for letter in ("n", "é", "\x1b"):
        filled = [a.replace("DUMP", dump).replace("WORD", word(letter, 50_000)) for a in args]
        result = run(*filled)
        assert result.returncode in (2, 3)
        assert_said_in_short(result)


@pytest.mark.parametrize(
    "content",
    [
        "[check]\nWORD = 3",
        "[check]\nselect = ['WORD']",
        "[check]\nbaseline = 'WORD'",
        "[check.GT203]\nWORD = 1",
        "[[check.overrides]]\npattern = 'WORD'\nWORD = 1",
        "[WORD]",
        "WORD",
    ],
)
def test_words_of_a_configuration_are_cut_as_well(content: str, tmp_path: Path) -> None:
    dump = str(write_safetensors(tmp_path / "x.safetensors", {"w": ("F32", ONE)}))
    config = tmp_path / "gradtool.toml"
    config.write_text(content.replace("WORD", word("n")))
    result = run("check", dump, "--config", str(config))
    assert_said_in_short(result)


def test_words_of_a_baseline_are_cut_as_well(tmp_path: Path) -> None:
    dump = str(write_safetensors(tmp_path / "x.safetensors", {"w": ("F32", ONE)}))
    baseline = tmp_path / "b.json"
    gradtool.save_baseline(dump, baseline)
    saved = json.loads(baseline.read_text())
    long = word("n")
    for changed in (
        {**saved, "tensors": {long: saved["tensors"]["w"]}},
        {**saved, "schema": long},
        {**saved, long: 1},
        {**saved, "tensors": {"w": long}},
        {**saved, "dumps": [long]},
    ):
        baseline.write_text(json.dumps(changed))
        for args in (["check", dump, "--baseline"], ["baseline", "update", dump, "--baseline"]):
            result = run(*args, str(baseline))
            assert_said_in_short(result)
            assert max(map(len, result.stdout.splitlines()), default=0) <= WIDEST


def test_each_part_of_an_error_is_left_to_know_it_by() -> None:
    path, tensor, problem, hint = (
        f"<{part}{'x' * LONG}{part}>" for part in ("path", "tensor", "problem", "hint")
    )
    error = gradtool.CorruptFileError(path, problem, tensor=tensor, byte=10**18, hint=hint)
    for line, room in ((str(error), LONGEST_LINE), (error.line(300, visible), 300)):
        assert len(line) <= room
        assert re.fullmatch(
            "<pathx+…x+path>: '<tensorx+…x+tensor>': <problemx+…x+problem> "
            r"\(at byte 1000000000000000000\); <hintx+…x+hint>",
            line,
        )


@given(st.lists(st.integers(0, 400), min_size=1, max_size=5), st.integers(20, 500))
def test_only_what_is_longer_than_its_share_is_cut(lengths: list[int], room: int) -> None:
    texts = ["x" * length for length in lengths]
    cut = fitted(texts, room)
    assert sum(map(len, cut)) <= max(room, 0)
    for text, left in zip(texts, cut, strict=True):
        assert left == text or len(left) >= room // len(texts)
    if sum(lengths) <= room:
        assert cut == texts
    else:
        assert sum(map(len, cut)) > room - len(texts)


@given(st.text(max_size=60), st.integers(2, 60))
def test_a_cut_text_keeps_its_beginning_and_its_end(text: str, length: int) -> None:
    cut = shortened(text, length)
    assert len(cut) == min(len(text), length)
    if cut != text:
        beginning, end = cut.rsplit("…", 1)
        assert text.startswith(beginning)
        assert text.endswith(end)
        assert beginning or end
