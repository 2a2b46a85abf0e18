"""Directories in which something was lost, and that passed for whole."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gradtool
from gradtool.formats.dump_metadata import DumpMetadata

A, B = np.float32([3.0, 0.0]), np.float32([4.0])
NAN = np.float32([np.nan, 1.0])


def dump(path: Path, /, noted: dict[str, int] | None = None, **tensors: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {f"gradtool.{key}": str(value) for key, value in (noted or {}).items()}
    save_file(tensors, path, metadata)  # type: ignore[arg-type]
    return path


def judged(*sources: object) -> dict[str, bool]:
    return {one.path: one.failed for one in gradtool.check(*sources).verdicts}


@pytest.mark.parametrize("inner", ["step_{}/g.safetensors", "g_{}.safetensors"])
def test_steps_in_folders_of_ranks_are_judged_in_all_ranks(tmp_path: Path, inner: str) -> None:
    for rank in range(2):
        for step in range(1, 3):
            broken = rank == 1 and step == 2
            dump(tmp_path / f"rank{rank}" / inner.format(step), a=NAN if broken else A)
    ranks = [tmp_path / "rank0", tmp_path / "rank1"]
    for sources in ([tmp_path], ranks, [f"{tmp_path}/rank*"]):
        failed = [Path(path).parts for path, failed in judged(*sources).items() if failed]
        assert len(failed) == 1
        assert "rank1" in failed[0]
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path)
    assert [(one.step, one.files) for one in caught.value.found] == [(1, 2), (2, 2)]


def test_what_one_rank_lacks_of_a_run_is_missing(tmp_path: Path) -> None:
    for rank, step in ((0, 1), (0, 2), (1, 1)):
        dump(tmp_path / f"rank{rank}" / f"step_{step}" / "g.safetensors", a=A)
    with pytest.raises(gradtool.InputError, match="rank1/step_2 is missing"):
        gradtool.measure(tmp_path)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_rank_without_tensors_is_missing(tmp_path: Path, is_link: bool) -> None:
    for rank in range(2):
        dump(tmp_path / "run" / f"rank{rank}" / "g.safetensors", a=A)
    dump(tmp_path / "elsewhere" / "g.safetensors", a=NAN)
    last = tmp_path / "run" / "rank2"
    last.symlink_to(tmp_path / "elsewhere") if is_link else last.mkdir()
    with pytest.raises(gradtool.InputError, match="'rank2'"):
        gradtool.measure(tmp_path / "run")
    assert judged(tmp_path / "run") == {str(tmp_path / "run"): True}


def test_bare_tensors_of_several_steps_are_not_added_up(tmp_path: Path) -> None:
    for name in ("w", "b"):
        for step in range(2):
            np.save(tmp_path / f"{name}_step{step}.npy", A)
    with pytest.raises(gradtool.SeveralCheckpointsError):
        gradtool.measure(tmp_path)


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


def test_sets_of_other_steps_in_a_folder_with_brackets_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    for step, name in enumerate(("a", "b")):
        for rank in range(2):
            noted = {"dump": 1, "step": step, "rank": rank, "world_size": 2}
            dump(folder / f"{name}_rank{rank}.safetensors", noted, **{name: A})
    assert list(judged(folder).values()) == [False, False]


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


def test_a_gap_in_a_glob_names_what_was_given(tmp_path: Path) -> None:
    for rank in (0, 2):
        dump(tmp_path / f"rank{rank}.safetensors", a=A)
    with pytest.raises(gradtool.InputError) as caught:
        gradtool.measure(f"{tmp_path}/*")
    assert str(caught.value).startswith(f"{tmp_path}/rank*.safetensors: ")


def test_long_names_take_no_time_by_their_square(tmp_path: Path) -> None:
    for number in range(300):
        letters = f"{number:03}".translate(str.maketrans("0123456789", "bcdefghijk"))
        dump(tmp_path / ("a" * 220 + letters + ".safetensors"), **{letters: A})
    started = time.process_time()
    assert len(gradtool.measure(tmp_path).tensors) == 300
    assert time.process_time() - started < 1.0  # 2 seconds if it did


def test_a_rank_that_stopped_early_is_missed_in_the_steps_after(tmp_path: Path) -> None:
    for step, rank in ((1, 0), (1, 1), (2, 0)):
        save_file({"w": np.ones(4, np.float32)}, tmp_path / f"step{step}_rank{rank}.safetensors")
    for source in (tmp_path, tmp_path / "*", tmp_path / "step*_rank*.safetensors"):
        first, second = gradtool.check(source).verdicts
        assert (first.failed, second.failed) == (False, True)
        assert "'step2_rank1.safetensors' is missing" in second.findings[0].message.replace(
            f"{tmp_path}/", ""
        )
    alone = gradtool.check(tmp_path / "step2_rank0.safetensors")
    assert alone.exit_code == 0


def test_a_rank_as_a_folder_beside_one_as_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rank1").mkdir()
    for path in ("rank0.safetensors", "rank1/g.safetensors"):
        save_file({"w": np.ones(4, np.float32)}, tmp_path / path)
    with pytest.raises(gradtool.UnsupportedFormatError, match="as files and as folders"):
        gradtool.measure(tmp_path)


def test_metadata_of_other_programs_are_no_distributed_checkpoint(tmp_path: Path) -> None:
    save_file({"w": np.ones(4, np.float32)}, tmp_path / "g.safetensors")
    (tmp_path / ".metadata").write_text("of an editor")
    assert gradtool.measure(tmp_path).format == "safetensors"
    (tmp_path / ".metadata").unlink()
    (tmp_path / ".metadata").mkdir()
    assert gradtool.measure(tmp_path).format == "safetensors"


@pytest.mark.parametrize("axis", [0, 1])
def test_a_rank_may_hold_several_boxes_of_a_tensor(axis: int, tmp_path: Path) -> None:
    """FSDP over tensor parallelism: of each half of an axis every rank holds a half."""
    whole = np.moveaxis(np.arange(1, 25, dtype=np.float32).reshape(8, 3), 0, axis)
    whole[np.unravel_index(13, whole.shape)] = np.nan
    held = {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}
    run = tmp_path / "run"
    run.mkdir()
    for rank, indices in held.items():
        shard = {"shape": list(whole.shape), "mesh": [2], "coordinate": [rank]}
        shard |= {"placements": [f"_StridedShard(dim={axis}, sf=2)"]}
        facts = DumpMetadata(1, rank=rank, world_size=2, shards={"w": shard}).strings()
        local = np.ascontiguousarray(np.take(whole, indices, axis))
        save_file({"w": local}, run / f"rank{rank}.safetensors", facts)
    (found,) = gradtool.measure(run).tensors
    assert found.spec.shape == whole.shape
    assert found.first_nonfinite == np.unravel_index(13, whole.shape)
    finite = whole[np.isfinite(whole)].astype(np.float64)
    assert found.finite_norm == pytest.approx(math.sqrt(math.fsum(finite**2)), rel=1e-12)
    gradtool.clip(run, tmp_path / "out", clip_value=7.0, nonfinite="keep")
    for rank, indices in held.items():
        written = load_file(tmp_path / "out" / f"rank{rank}.safetensors")["w"]
        assert np.array_equal(written, np.minimum(np.take(whole, indices, axis), 7), equal_nan=True)
