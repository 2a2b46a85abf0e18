"""Numbers of shards and ranks that cannot all be of one checkpoint are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import gradtool

A = np.float32([3.0, 4.0])


def dump(path: Path, noted: dict[str, int] | None = None, name: str = "a") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: A}, path, {f"gradtool.{key}": str(n) for key, n in (noted or {}).items()})


def refusals(folder: Path) -> list[str]:
    """Why a directory is refused, a glob of all in it, and all its files named one by one."""
    given: list[list[object]] = [[folder], [f"{folder}/*"], sorted(folder.iterdir())]
    messages = []
    for sources in given:
        outcome = gradtool.check(*sources)
        assert outcome.exit_code == 3
        messages += [f.message for one in outcome.verdicts for f in one.findings]
        with pytest.raises(gradtool.GradtoolError):
            gradtool.measure(sources[0] if len(sources) == 1 else sources)
    return messages


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["rank0", "rank1", "rank01"], ["rank1.safetensors", "rank01.safetensors"]),
        (["rank0", "rank1", "rank00", "rank01"], ["rank0.safetensors", "rank00.safetensors"]),
        (["x-00001-of-00002", "x-00002-of-00002", "x-00003-of-00002"], ["x-00003-of-00002"]),
        (["x-00000-of-00002", "x-00001-of-00002", "x-00002-of-00002"], ["x-00002-of-00002"]),
        (["x-00001-of-00001", "x-00002-of-00001"], ["x-00002-of-00001"]),
        (["x-1-of-2", "x-01-of-2", "x-2-of-2"], ["x-01-of-2", "x-1-of-2"]),
        ([f"m_world_size_2_rank_{rank}" for rank in range(3)], ["m_world_size_2_rank_2"]),
        (["step_1/rank0", "step_1/rank1", "step_1/rank01"], ["rank1.safe", "rank01.safe"]),
    ],
)
@pytest.mark.parametrize("alike", [True, False])
def test_a_number_twice_or_beyond_how_many_there_are(
    names: list[str], said: list[str], alike: bool, tmp_path: Path
) -> None:
    for at, name in enumerate(names):
        dump(tmp_path / f"{name}.safetensors", name="a" if alike else f"a{at}")
    for message in refusals(tmp_path):
        assert all(part in message for part in said)


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        ([(0, 2), (1, 2), (2, 4), (3, 4)], ["rank 0", "rank 2", "2", "4"]),
        ([(0, 2), (1, 2), (0, 2), (1, 2)], ["rank 0", "rank 2"]),
        ([(0, 2), (1, 2), None, None], ["rank 2", "2"]),
        ([(0, 2), (1, 2), (2, 2)], ["rank 2", "2"]),
        ([(0, 2), (0, 2)], ["rank 0", "rank 1"]),
    ],
)
def test_what_files_note_of_ranks_must_agree(
    noted: list[tuple[int, int] | None], said: list[str], tmp_path: Path
) -> None:
    for rank, facts in enumerate(noted):
        keys = {} if facts is None else dict(zip(("rank", "world_size"), facts, strict=True))
        dump(tmp_path / f"rank{rank}.safetensors", {"dump": 1, **keys})
    for message in refusals(tmp_path):
        assert all(part in message for part in said)


def test_two_dimensions_of_ranks_repeat_each_number(tmp_path: Path) -> None:
    for row in range(2):
        for column in range(2):
            dump(tmp_path / f"mp_rank_{row:02}_{column:03}.safetensors")
    assert gradtool.measure(tmp_path).total.norm == 5.0
