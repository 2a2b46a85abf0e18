"""Files that only what they note tells to be ranks: their names have bare numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool

A, NAN = np.float32([3.0, 4.0]), np.float32([np.nan, 1.0])


def dump(path: Path, rank: int, ranks: int, step: int | None, values: object = A) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noted = {"dump": 1, "rank": rank, "world_size": ranks}
    if step is not None:
        noted["step"] = step
    metadata = {f"gradtool.{key}": str(value) for key, value in noted.items()}
    save_file({"a": values}, path, metadata)  # type: ignore[dict-item]


def sources_of(folder: Path) -> list[list[object]]:
    return [[folder], [f"{folder}/*"], sorted(folder.iterdir())]


NAMES = [
    "step{step}-{rank}",
    "{rank}-step{step}",
    "{step}_{rank}",
    "g.{step}.{rank}",
    "s{step}r{rank}",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_ranks_of_each_step_are_put_together(name: str, tmp_path: Path) -> None:
    for step in (0, 1, 2):
        for rank in range(2):
            values = NAN if step == 1 else A
            path = tmp_path / f"{name.format(step=step, rank=rank)}.safetensors"
            dump(path, rank, 2, step, values)
    for sources in sources_of(tmp_path):
        outcome = gradtool.check(*sources, thresholds={"GT103.max_consecutive": 1})
        assert [one.step for one in outcome.verdicts] == [0, 1, 2]
        assert outcome.exit_code == 0
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path)
    assert caught.value.kind == "run"
    assert [(one.step, one.files) for one in caught.value.found] == [(0, 2), (1, 2), (2, 2)]
    for one in caught.value.found:  # the path given picks that step
        found = gradtool.measure(one.path)
        assert (found.step, "2 ranks" in found.essential_notes) == (one.step, True)


@given(st.integers(1, 3), st.integers(2, 3), st.sampled_from(NAMES), st.booleans())
def test_any_run_gets_one_verdict_a_step_and_lacks_what_is_lost(
    scratch: Path, steps: int, ranks: int, name: str, is_lost: bool
) -> None:
    folder = scratch / f"noted{len(list(scratch.iterdir()))}"
    for step in range(steps):
        for rank in range(ranks):
            dump(folder / f"{name.format(step=step, rank=rank)}.safetensors", rank, ranks, step)
    is_lost = is_lost and steps > 1  # else nothing there is of several ranks
    if is_lost:
        last = name.format(step=steps - 1, rank=ranks - 1)
        (folder / f"{last}.safetensors").unlink()
    for sources in sources_of(folder):
        outcome = gradtool.check(*sources)
        assert [one.failed for one in outcome.verdicts] == [False] * (steps - 1) + [is_lost]


def test_bare_numbers_are_the_ranks_that_files_note_in_a_glob_too(tmp_path: Path) -> None:
    for rank in range(3):
        dump(tmp_path / f"{rank}.safetensors", rank, 3, None)
    for sources in sources_of(tmp_path):
        found = gradtool.measure(sources[0] if len(sources) == 1 else sources)
        assert (found.total.norm, "3 ranks" in found.essential_notes) == (5.0, True)
