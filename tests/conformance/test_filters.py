"""Filters while a catalogue is made: what is asked for is the same, and less is made on the way."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from dumps import write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool
from gradtool.core.checkpoint import Checkpoint
from gradtool.errors import EmptyDumpError, GradtoolError, UsageError
from gradtool.formats import Opening, open_checkpoint
from gradtool.request import MeasureRequest, chosen, opened, opened_in_part
from gradtool.torch import dump_gradients

ONE = np.ones(1, np.float32)
COUNT = np.ones(1, np.int64)


def flat(folder: Path) -> Path:
    save_file({"h.0.w": ONE, "h.1.w": ONE, "h.0.b": ONE, "step": COUNT}, folder / "x.safetensors")
    return folder / "x.safetensors"


def sections(folder: Path) -> Path:
    names = ("grads.h.0.w", "grads.h.1.w", "model.h.0.w", "model.step", "lr")
    path = folder / "x.safetensors"
    save_file({name: COUNT if "step" in name else ONE for name in names}, path)
    return path


def dumped(folder: Path) -> Path:
    tied, lost = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    tied.grad = torch.ones(2)
    named = [("h.1.w", tied), ("h.0.b", lost), ("step", torch.nn.Parameter(torch.ones(1)))]
    named[2][1].grad = torch.ones(1, dtype=torch.float32)
    return Path(dump_gradients([*named, ("h.0.w", tied)], folder / "x.safetensors", loss_scale=4))


def nothing_but_counts(folder: Path) -> Path:
    save_file({"step": COUNT, "h.0.b": COUNT}, folder / "x.safetensors")
    return folder / "x.safetensors"


def zipped(folder: Path) -> Path:
    torch.save({"h": [{"w": torch.ones(1)}, {"w": torch.ones(2)}], "step": 1}, folder / "x.pt")
    return folder / "x.pt"


def archive(folder: Path) -> Path:
    np.savez(folder / "x.npz", **{"h.0.w": ONE, "h.1.b": ONE, "step": COUNT})
    return folder / "x.npz"


def shards(folder: Path) -> Path:
    save_file({"h.0.w": ONE, "step": COUNT}, folder / "a.safetensors")
    save_file({"h.1.w": ONE, "h.0.b": ONE}, folder / "b.safetensors")
    weight_map = {"h.0.w": "a.safetensors", "h.1.w": "b.safetensors", "h.0.b": "b.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def folder_of_shards(folder: Path) -> Path:
    shards(folder)
    return folder


def folder_of_others(folder: Path) -> Path:
    flat(folder)
    torch.save({"h.2.w": torch.ones(1)}, folder / "y.pt")
    return folder


def folder_of_repeats(folder: Path) -> Path:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"h.0.w": ONE, "step": COUNT}, folder / name)
    return folder


def folder_of_stems(folder: Path) -> Path:
    torch.save({"h.0.w": torch.ones(1)}, folder / "a.pt")
    return folder_of_repeats(folder)


def folder_of_scales(folder: Path) -> Path:
    """Dumps of two loss scales, and counts, which have none."""
    for name, scale in (("a", 1), ("b", 2)):
        grads = {f"h.{scale}.w": ("F32", ONE)}
        notes = {"gradtool.loss_scale": str(scale), "gradtool.step": "1"}
        write_safetensors(folder / f"{name}.safetensors", grads, notes)
    save_file({"step": COUNT}, folder / "counts.safetensors")
    return folder


def folder_of_one_scale(folder: Path) -> Path:
    folder_of_scales(folder)
    (folder / "a.safetensors").unlink()
    return folder


KINDS: Final[tuple[Callable[[Path], Path], ...]] = (
    *(flat, sections, dumped, nothing_but_counts, zipped, archive),
    *(shards, folder_of_shards, folder_of_others, folder_of_repeats, folder_of_stems),
    *(folder_of_scales, folder_of_one_scale),
)
PIECES = ["h", ".", "0", "1", "2", "w", "b", "*", "?", "step", "a", "a.safetensors", "grads"]
GLOBS = st.lists(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), max_size=2)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(make(tmp_path_factory.mktemp(make.__name__))) for make in KINDS]


def outcome_of(found: Callable[[], Checkpoint]) -> tuple[object, ...]:
    """A catalogue but for the names that it leaves out, or an error and its words."""
    try:
        return (replace(found(), left_out=(), skipped_left_out=()),)
    except GradtoolError as error:
        return type(error), str(error), error.hint


@given(
    at=st.integers(0, len(KINDS) - 1),
    include=GLOBS,
    exclude=GLOBS,
    section=st.none() | st.sampled_from(["", "grads", "model", "b"]),
)
def test_what_is_asked_for_is_the_same_or_refused_in_the_same_words(
    at: int, include: list[str], exclude: list[str], section: str | None, paths: list[str]
) -> None:
    request = MeasureRequest(include=include, exclude=exclude, section=section)
    whole = outcome_of(lambda: chosen(opened(paths[at], request), request))
    assert outcome_of(lambda: opened_in_part(paths[at], request)) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_left_out_by_name_alone(kind: Any, tmp_path: Path) -> None:
    path = str(kind(tmp_path))
    whole = open_checkpoint(path, Opening(join=True))
    names = [*whole.names]
    for wanted in ({names[0]}, {names[-1]}, set(names[:-1])):
        part = open_checkpoint(path, Opening(wanted=wanted.__contains__, join=True))
        assert sorted(part.names) == sorted(names)
        assert {spec.name for spec in whole.tensors if spec.name in wanted} <= {
            spec.name for spec in part.tensors
        }
        if part.format in ("safetensors", "sharded"):
            assert {item.name for item in (*part.tensors, *part.skipped)} == wanted
        # Loss scales and steps are those of the files, whatever is chosen from them.
        assert replace(part, tensors=(), skipped=(), left_out=(), skipped_left_out=()) == replace(
            whole, tensors=(), skipped=()
        )


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        (flat, {"include": "none"}, UsageError, "no tensor matches the filters"),
        (flat, {"include": "step"}, UsageError, "no tensor matches the filters"),
        (flat, {"section": "grads"}, UsageError, "has no section 'grads'"),
        (sections, {"include": "grads.*", "section": "model"}, UsageError, "no tensor matches"),
        (sections, {"include": "none", "section": "opt"}, UsageError, "has no section 'opt'"),
        (nothing_but_counts, {"include": "none"}, EmptyDumpError, "is skipped (integer)"),
        (folder_of_repeats, {"include": "h.0.w"}, UsageError, "no tensor matches the filters"),
        (folder_of_scales, {"include": "h.1.w"}, UsageError, "different loss scales"),
    ],
)
def test_why_there_is_nothing_is_told_as_of_the_whole(
    kind: Any, options: dict[str, Any], error: type[GradtoolError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        gradtool.measure(kind(tmp_path), join=True, **options)
    assert words in str(caught.value)
    if "opt" in words:
        assert caught.value.hint == "its sections are 'grads', 'model', 'other'"


def test_who_measures_a_tensor_of_many_pays_for_the_names_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {f"h.{layer}.w": ("F32", ONE) for layer in range(5_000)})

    def peak(**options: Any) -> int:
        tracemalloc.start()
        measurement = gradtool.measure(path, **options)
        assert measurement.total is not None
        nbytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return nbytes

    peak(include="h.7.w")  # what is imported on first use
    assert peak(include="h.7.w") < peak() / 3


def test_a_filter_is_of_the_names_that_files_of_one_directory_end_up_with(tmp_path: Path) -> None:
    path = folder_of_stems(tmp_path)
    (found,) = gradtool.measure(path, include="a.pt.*", join=True).tensors
    assert found.name == "a.pt.h.0.w"
    (found,) = gradtool.measure(path, exclude="a.*", join=True).tensors
    assert found.name == "b.h.0.w"
