"""`gradtool formats` says what is so: held against the code and against real checkpoints."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from command_line import on_terminal, run
from reports.parsers import markdown_tables, validator

import gradtool
from gradtool import formats
from gradtool.core.checkpoint import Checkpoint
from gradtool.errors import GradtoolError, UnsupportedFormatError, UsageError
from gradtool.formats import open_checkpoint
from gradtool.formats.known import known_formats
from gradtool.formats.layouts import LAYOUTS
from gradtool.formats.named import units_of
from gradtool.storage.listing import Listing

FIXTURES: Final = Path(__file__).parents[1] / "fixtures" / "checkpoints"
KNOWN: Final = {one.name: one for one in known_formats()}
LAST: Final = "directory"
"""The layout of what has no marker."""


def said(*options: str) -> list[dict[str, Any]]:
    result = run("formats", "-f", "json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    validator("formats-1").validate(found)
    rows: list[dict[str, Any]] = found["formats"]
    return rows


def test_it_lists_each_format_once_in_every_format_of_reports() -> None:
    rows = {row["name"]: row for row in said()}
    assert [*rows] == [*KNOWN]
    told = list(csv.DictReader(io.StringIO(run("formats", "-f", "csv").stdout)))
    ((_, *shown),) = markdown_tables(run("formats", "-f", "markdown").stdout)
    table = run("formats").stdout.splitlines()
    for row, cells, line, name in zip(told, shown, table[1:], KNOWN, strict=False):
        words = {True: "yes", False: "no"}
        wanted = [words[rows[name]["reads"]], words[rows[name]["clips"]]]
        assert [row["name"], row["reads"], row["clips"]] == [name, *wanted]
        assert [cells[0], *cells[2:4]] == [name, *wanted]
        assert [line.split()[0], *line.split()[2:4]] == [name, *wanted]
    assert len(told) == len(shown) == len(KNOWN)


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, on_terminal("formats", "--color", "never").splitlines())) <= 80
    assert "\x1b[1m" in on_terminal("formats")


def test_every_name_of_a_format_in_the_code_is_listed() -> None:
    """As a keyword `format`, or as what `joined` is told that it makes."""
    found = set()
    for module in Path(formats.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                named = [one.value for one in node.keywords if one.arg == "format"]
                is_joined = isinstance(node.func, ast.Name) and node.func.id == "joined"
                values = [*named, *(node.args[1:2] if is_joined else [])]
                found |= {one.value for one in values if isinstance(one, ast.Constant)}
    assert len(found) > 7
    assert found <= {name for name, one in KNOWN.items() if one.about.reads}


def checkpoints(spare: Path) -> Iterator[Path]:
    """All that the frameworks wrote, folders and files; and what none of them writes."""
    for folder in sorted(FIXTURES.glob("*/checkpoint")):
        yield from (path for path in (folder, *sorted(folder.rglob("*"))) if _is_dump(path))
    np.save(spare / "grads.npy", np.float32([3, 4]))
    yield spare / "grads.npy"
    (spare / "grads.pkl").write_bytes(pickle.dumps({"w": np.float32([3, 4])}))
    yield spare / "grads.pkl"


def _is_dump(path: Path) -> bool:
    return path.is_dir() or path.name.endswith(formats.files.SUFFIXES)


def test_real_checkpoints_are_of_formats_that_are_listed_and_clipped_as_listed(
    tmp_path: Path,
) -> None:
    found: dict[str, set[bool]] = {}
    for path in checkpoints(tmp_path):
        try:
            checkpoint = open_checkpoint(str(path))
        except GradtoolError:
            continue  # what is not read yet is told elsewhere
        if checkpoint.tensors:
            found.setdefault(checkpoint.format, set()).add(_is_clipped(checkpoint))
        if os.path.isdir(path):
            assert _is_marked(path, checkpoint.format), (path, checkpoint.format)
        elif KNOWN[checkpoint.format].kind == "file":
            assert path.name.endswith(KNOWN[checkpoint.format].suffixes)
    read = {name: one for name, one in KNOWN.items() if one.about.reads}
    assert {name: True in clipped for name, clipped in found.items()} == {
        name: one.about.clips for name, one in read.items()
    }


def _is_clipped(checkpoint: Checkpoint) -> bool:
    section = checkpoint.tensors[0].section
    options = {"clip_value": 1.0, "nonfinite": "keep", "dry_run": True}
    try:
        # Ranks that nothing tells to be copies are taken for pieces: what can be clipped counts.
        gradtool.clip(checkpoint.path, section=section, ranks="shard", **options)
    except UsageError as error:
        assert "only measures" in str(error)
        return False
    return True


def _is_marked(path: Path, name: str) -> bool:
    """Whether entries of a directory fit a marker of its format, or are one file that is of it."""
    known = KNOWN[name]
    if known.kind == "file" or name == LAST:
        return True
    patterns = [marker.replace("#", "[0-9]") for marker in known.about.markers]
    return any(entry.match(pattern) for entry in path.iterdir() for pattern in patterns)


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        (name, marker)
        for name, one in KNOWN.items()
        for marker in one.about.markers
        if one.kind == "directory" and name != LAST
    ],
)
def test_a_marker_is_what_a_layout_is_told_by(name: str, marker: str, tmp_path: Path) -> None:
    (tmp_path / marker.replace("*", "any").replace("#", "1")).touch()
    listing = Listing(str(tmp_path))
    first = next(row for row in LAYOUTS if row.recognises(listing))
    assert first.name == name
    if not KNOWN[name].about.reads:
        with pytest.raises(UnsupportedFormatError, match="does not read"):
            open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["sharded", "ranks"])
def test_a_marker_is_what_a_set_is_told_by(name: str) -> None:
    for marker in KNOWN[name].about.markers:
        if "#" in marker:
            like = re.sub("#{2,}$", "00002", marker.strip("*."))
            names = [f"grads-{re.sub('#+', number, like)}.pt" for number in ("00000", "00001")]
            (unit,) = units_of(names)
            assert unit.entries == (*names,)
            assert unit.kind == {"sharded": "shard", "ranks": "rank"}[name]
