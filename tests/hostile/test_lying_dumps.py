"""Dumps whose notes lie: one line that names the file and the note, exit code 3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import error_lines, run
from dumps import write_safetensors

import gradtool
from gradtool.errors import CorruptFileError

DEEP = "[" * 100_000 + "]" * 100_000
LIES: dict[str, tuple[dict[str, str], str]] = {
    "alias of none": ({"aliases": '{"tied": "gone"}'}, "'tied': is noted to be 'gone', which"),
    "alias of an integer": ({"aliases": '{"tied": "i"}'}, "'tied': is noted to be 'i', which"),
    "alias of an alias": ({"aliases": '{"a": "w", "b": "a"}'}, "'b': is noted to be 'a', which"),
    "stored alias": ({"aliases": '{"v": "w"}'}, "'v': is noted to be 'w', which contradicts"),
    "alias of itself": ({"aliases": '{"w": "w"}'}, "'w': is noted to be 'w', which contradicts"),
    "stored, and absent": ({"absent": '{"w": "F32"}'}, "'w': is noted to have no gradient"),
    "alias, and absent": (
        {"aliases": '{"t": "w"}', "absent": '{"t": "F32"}'}, "'t': is noted to have no gradient",
    ),
    **{
        f"{name} {text[:20]}": ({name: text}, f"gradtool.{name} in __metadata__ is not what")
        for name, texts in {
            "loss_scale": (
                "0", "-1", "NaN", "1e999", "Infinity", "1" * 400, "1" * 5000, '"2"', "true", "null",
                "text", "", DEEP,
            ),
            "step": ("-1", "1.5", "true", '"7"', "[]", DEEP),
            "rank": ("-1", "0.0"),
            "world_size": ("{}", "x"),
            "absent": ("[]", '"w"', '{"w": 3}', DEEP, '{"\\ud800": "F32"}', '{"x": "\\udfff"}'),
            "aliases": ("[]", "not JSON", '{"a": ["w"]}', DEEP, '{"\\ud800": "w"}'),
            "shards": ("[]", "3", DEEP),
            "sparse": ("[]", '"x"', DEEP),
            "names": ("{}", '"w"', "[3]", "w", DEEP, '["\\ud800"]'),
        }.items()
        for text in texts
    },
}  # fmt: skip


def lying(path: Path, notes: dict[str, str]) -> Path:
    tensors = {
        "w": ("F32", np.ones(3, np.float32)),
        "v": ("F32", np.ones(1, np.float32)),
        "i": ("I64", np.ones(1, np.int64)),
    }
    metadata = {f"gradtool.{name}": text for name, text in notes.items()}
    return write_safetensors(path, tensors, {"format": "pt", **metadata})


@pytest.mark.parametrize("case", LIES)
def test_a_note_that_lies_is_named(case: str, tmp_path: Path) -> None:
    notes, words = LIES[case]
    path = lying(tmp_path / "dump.safetensors", notes)
    with pytest.raises(CorruptFileError) as error:
        gradtool.measure(path)
    assert str(error.value).startswith(f"{path}: {words}")


@pytest.mark.parametrize(
    "case", ["alias of none", "stored, and absent", "loss_scale 1e999", f"aliases {DEEP[:20]}"]
)
@pytest.mark.parametrize("command", [["inspect"], ["clip", "--max-norm", "1", "--in-place"]])
def test_a_note_that_lies_is_one_line_and_exit_code_3(
    command: list[str], case: str, tmp_path: Path
) -> None:
    notes, words = LIES[case]
    path = lying(tmp_path / "dump.safetensors", notes)
    before = path.read_bytes()
    result = run(*command, str(path))
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = error_lines(result)
    assert f"{path}: {words}" in line
    assert (path.read_bytes(), [*tmp_path.iterdir()]) == (before, [path])


def test_a_note_of_the_largest_scale_and_of_foreign_ones_is_read(tmp_path: Path) -> None:
    path = lying(tmp_path / "dump.safetensors", {"loss_scale": str(2**1023), "later": "anything"})
    found = gradtool.measure(path)
    assert (found.loss_scale, type(found.loss_scale)) == (2.0**1023, float)
    result = run("inspect", str(path), "-f", "json")
    assert (result.returncode, json.loads(result.stdout)["reports"][0]["loss_scale"]) == (
        0, 2.0**1023,
    )  # fmt: skip


@pytest.mark.parametrize(
    "names", [[], ["w"], ["w", "v", "i", "x"], ["w", "v", "v", "i"], ["w", "v", "x"]]
)
def test_an_order_of_other_names_is_no_lie(names: list[str], tmp_path: Path) -> None:
    whole = {"order": "model", "names": json.dumps(["w", "v", "i"])}
    path = lying(tmp_path / "dump.safetensors", whole)
    assert gradtool.measure(path).in_model_order
    for notes in (
        {**whole, "names": json.dumps(names)},
        {"order": "model"},
        whole | {"order": None},
        whole | {"order": "of a version to come"},
    ):
        given = {name: text for name, text in notes.items() if text is not None}
        found = gradtool.measure(lying(path, given))
        assert (found.in_model_order, [t.name for t in found.tensors]) == (False, ["w", "v"])


def test_names_and_types_that_only_a_note_has_are_shown_escaped(tmp_path: Path) -> None:
    absent, aliases = json.dumps({"\x1b[31m": "\x1b[2J"}), json.dumps({"\x1b]0;": "w"})
    path = lying(tmp_path / "dump.safetensors", {"absent": absent, "aliases": aliases})
    for form in ("table", "json", "csv", "markdown"):
        result = run("inspect", str(path), "--all", "-f", form)
        assert (result.returncode, "\x1b" in result.stdout) == (0, False)
