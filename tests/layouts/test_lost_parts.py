"""Directories in which something was lost, and that passed for whole."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gradtool

A, B = np.float32([3.0, 0.0]), np.float32([4.0])
NAN = np.float32([np.nan, 1.0])


def dump(path: Path, /, noted: dict[str, int] | None = None, **tensors: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {f"gradtool.{key}": str(value) for key, value in (noted or {}).items()}
    save_file(tensors, path, metadata)  # type: ignore[arg-type]
    return path


def judged(*sources: object) -> dict[str, bool]:
    return {one.path: one.failed for one in gradtool.check(*sources).verdicts}


def test_ranks_of_different_steps_or_too_few_are_refused(tmp_path: Path) -> None:
    for rank in range(2):
        noted = {"dump": 1, "rank": rank, "world_size": 2}
        dump(tmp_path / "steps" / f"rank{rank}.safetensors", {**noted, "step": rank}, a=A)
        few = {**noted, "world_size": 4}
        dump(tmp_path / "few" / f"rank{rank}.safetensors", few, a=A)
    with pytest.raises(gradtool.InputError, match="rank 0 notes step 0 and rank 1 step 1"):
        gradtool.measure(tmp_path / "steps")
    with pytest.raises(gradtool.InputError, match="rank 2 of 4 is missing"):
        gradtool.measure(tmp_path / "few")


def test_an_index_that_forgets_a_shard_hides_none(tmp_path: Path) -> None:
    shard = dump(tmp_path / "model-00001-of-00002.safetensors", a=A)
    index = {"weight_map": {"a": shard.name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(gradtool.InputError, match=r"'model-00002-of-00002\.safe"):
        gradtool.measure(tmp_path)


def test_a_save_that_was_not_finished_is_a_step_of_the_run(tmp_path: Path) -> None:
    dump(tmp_path / "step-1" / "g.safetensors", a=A)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "__0_0.distcp").write_bytes(b"")
    assert judged(tmp_path) == {str(tmp_path / "step-1"): False, str(tmp_path / "step-2"): True}


def test_sets_that_fit_the_globs_of_others_are_judged_once_each(tmp_path: Path) -> None:
    for step in range(2):
        dump(tmp_path / f"rank0-ema-step{step}.safetensors", a=B)
        for rank in range(2):
            dump(tmp_path / f"rank{rank}-step{step}.safetensors", a=A)
    assert list(judged(tmp_path).values()) == [False] * 4
    assert judged(tmp_path) == judged(f"{tmp_path}/*")


def test_ranks_that_are_one_file_are_all_there_and_clipped(tmp_path: Path) -> None:
    first = dump(tmp_path / "flat" / "rank0.safetensors", a=A)
    os.link(first, tmp_path / "flat" / "rank1.safetensors")
    dump(tmp_path / "flat" / "rank2.safetensors", a=A)
    first = dump(tmp_path / "nested" / "rank0" / "g.safetensors", a=A)
    (tmp_path / "nested" / "rank1").mkdir()
    os.link(first, tmp_path / "nested" / "rank1" / "g.safetensors")
    for name, count in (("flat", 3), ("nested", 2)):
        out = tmp_path / f"{name}-clipped"
        gradtool.clip(tmp_path / name, max_norm=1.5, eps=0.0, out=out)
        written = [load_file(path)["a"] for path in sorted(out.rglob("*.safetensors"))]
        assert [list(one) for one in written] == [[1.5, 0.0]] * count


def test_long_names_take_no_time_by_their_square(tmp_path: Path) -> None:
    for number in range(300):
        letters = f"{number:03}".translate(str.maketrans("0123456789", "bcdefghijk"))
        dump(tmp_path / ("a" * 220 + letters + ".safetensors"), **{letters: A})
    started = time.process_time()
    assert len(gradtool.measure(tmp_path).tensors) == 300
    assert time.process_time() - started < 1.0  # 2 seconds if it did
