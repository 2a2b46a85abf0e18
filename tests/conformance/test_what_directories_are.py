"""What a directory is: one checkpoint, several of which one has to be named, or refused by name."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run as gradtool_command
from safetensors.numpy import save_file

import gradtool

A, B = np.float32([3.0, 0.0]), np.float32([4.0])


def dump(path: Path, **tensors: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def norm(source: object, **options: Any) -> float:
    total = gradtool.measure(source, **options).total
    assert total is not None
    return total.norm


def steps_in(path: Path) -> list[tuple[str, int | None]]:
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(path)
    assert caught.value.exit_code == 2
    return [(str(Path(one.path).relative_to(path)), one.step) for one in caught.value.found]


def test_equal_ranks_count_once_and_said_to_be_pieces_all(tmp_path: Path) -> None:
    for rank in range(2):
        dump(tmp_path / f"grads_rank{rank}.safetensors", a=A, b=B)
    found = gradtool.measure(tmp_path)
    assert found.format == "ranks"
    assert found.replicas == 2
    assert norm(tmp_path) == 5.0
    assert any("counted once" in note for note in found.notes)
    assert norm(tmp_path, ranks="replica") == 5.0
    assert norm(tmp_path, ranks="shard") == pytest.approx(math.sqrt(50), rel=1e-15)
    assert norm(tmp_path, ranks="shard", replicated="a") == pytest.approx(math.sqrt(41), rel=1e-15)
    verdict, *others = gradtool.check(tmp_path).verdicts
    assert (others, verdict.failed) == ([], False)


def test_ranks_that_differ_are_a_question(tmp_path: Path) -> None:
    dump(tmp_path / "rank0.safetensors", a=A, b=B)
    dump(tmp_path / "rank1.safetensors", a=A + np.float32([0.0, np.nan]), b=B)
    with pytest.raises(gradtool.RanksQuestionError, match=r"'a': 1 element .* rank 1.*1 NaN") as q:
        gradtool.measure(tmp_path)
    assert q.value.exit_code == 2
    with pytest.raises(gradtool.RanksDifferError, match=r"'a': 1 element .* first at \[1\]") as d:
        gradtool.measure(tmp_path, ranks="replica")
    assert d.value.exit_code == 3
    outcome = gradtool.check(tmp_path, ranks="replica")
    (finding,) = (one for one in outcome.all_findings if one.code == "GT009")
    assert (finding.tensor, finding.index, outcome.exit_code) == ("a", (1,), 1)
    each = gradtool.check(tmp_path).verdicts
    assert [Path(one.path).name for one in each] == ["rank0.safetensors", "rank1.safetensors"]
    assert [one.failed for one in each] == [False, True]
    assert all("by itself" in " ".join(one.notes) for one in each)


def test_ranks_of_other_shapes_are_a_question_without_reading(tmp_path: Path) -> None:
    dump(tmp_path / "rank0.safetensors", a=A)
    dump(tmp_path / "rank1.safetensors", a=B)
    with pytest.raises(gradtool.RanksQuestionError, match=r"shape is \[2\] in rank 0 and \[1\]"):
        gradtool.measure(tmp_path)
    with pytest.raises(gradtool.RanksDifferError, match=r"shape is \[2\] in rank 0 and \[1\]"):
        gradtool.measure(tmp_path, ranks="replica")
    (piece,) = gradtool.measure(tmp_path, ranks="shard").tensors
    assert (piece.norm, piece.spec.shape) == (5.0, (3,))


def test_experts_that_one_rank_holds_are_simply_there(tmp_path: Path) -> None:
    dump(tmp_path / "rank0.safetensors", shared=A, e0=B)
    dump(tmp_path / "rank1.safetensors", shared=A, e1=B)
    assert norm(tmp_path) == pytest.approx(math.sqrt(41), rel=1e-15)


@pytest.mark.parametrize("mode", ["auto", "shard", "replica"])
def test_a_missing_rank_is_named(mode: Any, tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        dump(tmp_path / f"rank{rank}.safetensors", a=A)
    with pytest.raises(gradtool.MissingShardError, match=r"'rank2\.safetensors' is missing"):
        gradtool.measure(tmp_path, ranks=mode)
    (finding,) = gradtool.check(tmp_path, ranks=mode).all_findings
    assert finding.code == "GT003"


def test_each_rank_by_itself_asks_for_no_completeness(tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        dump(tmp_path / f"rank{rank}.safetensors", a=A * (rank + 1))
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path, ranks="each")
    assert caught.value.kind == "ranks"
    verdicts = gradtool.check(tmp_path, ranks="each").verdicts
    assert [one.summary and one.summary.norm for one in verdicts] == [3.0, 6.0, 12.0]


def test_folders_of_ranks_are_ranks(tmp_path: Path) -> None:
    for rank in range(2):
        dump(tmp_path / f"rank_{rank}" / "grads.safetensors", a=A, b=B)
    assert norm(tmp_path) == 5.0


def test_steps_are_listed_and_never_added_up(tmp_path: Path) -> None:
    for step in (10, 9, 1000):
        dump(tmp_path / "run" / f"step_{step}.safetensors", a=A)
    names = [(f"step_{step}.safetensors", step) for step in (9, 10, 1000)]
    assert steps_in(tmp_path / "run") == names
    with pytest.raises(gradtool.SeveralCheckpointsError, match="3 steps of a run"):
        gradtool.clip(tmp_path / "run", tmp_path / "out", max_norm=1.0)
    assert not (tmp_path / "out").exists()


def test_a_run_of_ranks_is_one_of_steps_however_its_folders_nest(tmp_path: Path) -> None:
    for step in (1, 2):
        for rank in (0, 1):
            dump(tmp_path / "a" / f"step{step}" / f"rank{rank}.safetensors", a=A, b=B)
            dump(tmp_path / "b" / f"rank{rank}" / f"step{step}.safetensors", a=A, b=B)
            dump(tmp_path / "c" / f"step{step}_rank{rank}.safetensors", a=A, b=B)
    assert steps_in(tmp_path / "a") == [("step1", 1), ("step2", 2)]
    assert steps_in(tmp_path / "b") == [
        ("rank*/step1.safetensors", 1),
        ("rank*/step2.safetensors", 2),
    ]
    assert steps_in(tmp_path / "c") == [
        ("step1_rank*.safetensors", 1),
        ("step2_rank*.safetensors", 2),
    ]
    for folder in "abc":
        with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
            gradtool.measure(tmp_path / folder)
        assert caught.value.kind == "run"
        for one in caught.value.found:
            assert norm(one.path) == 5.0


@pytest.mark.parametrize("pattern", ["*.safetensors", "step*"])
def test_check_says_of_a_glob_what_it_says_of_the_directory(pattern: str, tmp_path: Path) -> None:
    for step in (1, 2, 10):
        for rank in (0, 1):
            value = A if step != 2 else A * np.float32(np.nan)
            dump(tmp_path / f"step{step}_rank{rank}.safetensors", a=value)
    limits = {"GT103.max_consecutive": 1}
    whole = gradtool.check(tmp_path, thresholds=limits)
    globbed = gradtool.check(tmp_path / pattern, thresholds=limits)
    listed = gradtool.check(*sorted(tmp_path.iterdir()), thresholds=limits)
    for outcome in (globbed, listed):
        assert [(one.path, one.step, one.findings) for one in outcome.verdicts] == [
            (one.path, one.step, one.findings) for one in whole.verdicts
        ]
        assert (outcome.findings, outcome.exit_code) == (whole.findings, whole.exit_code)
    assert [one.step for one in whole.verdicts] == [1, 2, 10]


def test_dumps_that_note_their_steps_are_a_run(tmp_path: Path) -> None:
    for name, step in (("before", "7"), ("after", "8")):
        metadata = {"gradtool.dump": "1", "gradtool.step": step}
        save_file({"a": A}, tmp_path / f"{name}.safetensors", metadata)
    assert steps_in(tmp_path) == [("before.safetensors", 7), ("after.safetensors", 8)]


def test_one_file_a_module_is_one_checkpoint(tmp_path: Path) -> None:
    for layer in range(3):
        dump(tmp_path / "layers" / f"layer_{layer}.safetensors", w=A)
        np.save(tmp_path / f"{layer}.weight.npy", B)
        np.save(tmp_path / f"{layer}.bias.npy", B)
    names = [tensor.name for tensor in gradtool.measure(tmp_path / "layers").in_order]
    assert names == ["layer_0.w", "layer_1.w", "layer_2.w"]
    assert len(gradtool.measure(tmp_path).tensors) == 6


def test_shards_need_no_index_but_all_of_them(tmp_path: Path) -> None:
    first = dump(tmp_path / "m-00001-of-00003.safetensors", a=A)
    dump(tmp_path / "m-00002-of-00003.safetensors", b=B)
    last = dump(tmp_path / "m-00003-of-00003.safetensors", c=B * 0)
    assert norm(tmp_path) == norm(tmp_path / "m-*.safetensors") == 5.0
    assert norm([first, tmp_path / "m-00002-of-00003.safetensors", last]) == 5.0
    assert any("1 of 3" in note for note in gradtool.measure(first).notes)
    last.unlink()
    for source in (tmp_path, tmp_path / "m-*.safetensors"):
        with pytest.raises(gradtool.MissingShardError, match=r"m-00003-of-00003\.safe"):
            gradtool.measure(source)


def test_a_stale_index_is_said_to_be_one(tmp_path: Path) -> None:
    dump(tmp_path / "m-00001-of-00002.safetensors", a=A)
    dump(tmp_path / "m-00002-of-00002.safetensors", b=B)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "m-00001-of-00004.safetensors", "b": "gone"}}')
    with pytest.raises(gradtool.MissingShardError, match="stale: all 2 tensors") as caught:
        gradtool.measure(tmp_path)
    assert str(tmp_path / "m-*-of-00002.safetensors") in str(caught.value)
    dump(tmp_path / "m-00002-of-00002.safetensors", c=B)
    with pytest.raises(gradtool.MissingShardError) as caught:
        gradtool.measure(tmp_path)
    assert "stale:" not in str(caught.value)


def test_a_parent_lists_what_is_below_it_and_a_checkpoint_is_itself(tmp_path: Path) -> None:
    for step in (500, 1000):
        dump(tmp_path / "out" / f"checkpoint-{step}" / "model.safetensors", a=A)
    (tmp_path / "out" / "runs").mkdir()
    assert steps_in(tmp_path / "out") == [("checkpoint-500", 500), ("checkpoint-1000", 1000)]
    assert steps_in(tmp_path) == [("out/checkpoint-500", 500), ("out/checkpoint-1000", 1000)]
    dump(tmp_path / "out" / "model.safetensors", a=A)
    found = gradtool.measure(tmp_path / "out")
    assert found.total is not None
    assert found.total.norm == 3.0
    assert any("checkpoint-500/, checkpoint-1000/" in note for note in found.notes)


def test_levels_below_the_third_are_not_looked_into_and_links_not_followed(tmp_path: Path) -> None:
    dump(tmp_path / "a" / "b" / "c" / "d" / "x.safetensors", a=A)
    assert steps_in(tmp_path / "a") == [("b/c/d", None)]
    with pytest.raises(gradtool.EmptyDumpError, match="3 levels"):
        gradtool.measure(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "self").symlink_to(tmp_path / "links")
    (tmp_path / "links" / "d").symlink_to(tmp_path / "a" / "b" / "c" / "d")
    with pytest.raises(gradtool.EmptyDumpError, match="holds no tensor file"):
        gradtool.measure(tmp_path / "links")


def test_files_for_random_states_are_no_steps(tmp_path: Path) -> None:
    dump(tmp_path / "model.safetensors", a=A)
    for rank in range(2):
        torch.save({"cpu": torch.get_rng_state()}, tmp_path / f"rng_state_{rank}.pth")
    assert [tensor.name for tensor in gradtool.measure(tmp_path).tensors] == ["a"]


def test_two_files_with_the_same_tensors_are_refused_by_name(tmp_path: Path) -> None:
    dump(tmp_path / "model.safetensors", a=A)
    torch.save({"a": torch.ones(2)}, tmp_path / "consolidated.00.pth")
    with pytest.raises(gradtool.SameTensorsError, match=r"model.* and .*consolidated") as caught:
        gradtool.measure(tmp_path)
    assert caught.value.exit_code == 2
    assert len(gradtool.measure(tmp_path, join=True).tensors) == 2


def test_clip_scales_every_rank_by_the_norm_that_counts_once(tmp_path: Path) -> None:
    for rank in range(2):
        dump(tmp_path / "in" / f"rank{rank}.safetensors", a=A, b=B, **{f"e{rank}": B})
    outcome = gradtool.clip(tmp_path / "in", tmp_path / "out", max_norm=1.0, eps=0.0)
    assert outcome.before.total is not None
    coef = 1 / math.sqrt(9 + 16 + 16 + 16)
    for rank in range(2):
        found = gradtool.measure(tmp_path / "out" / f"rank{rank}.safetensors")
        for tensor in found.tensors:
            assert tensor.norm == pytest.approx((3 if tensor.name == "a" else 4) * coef, rel=1e-6)
    shutil.rmtree(tmp_path / "out")
    each = gradtool.clip(tmp_path / "in" / "rank0.safetensors", tmp_path / "o", max_norm=1.0)
    assert each.clip_coef == pytest.approx(1 / math.sqrt(41), rel=1e-5)


def test_clip_writes_each_file_into_its_own_folder(tmp_path: Path) -> None:
    for rank in range(2):
        dump(tmp_path / "in" / f"rank_{rank}" / "grads.safetensors", a=A, **{f"e{rank}": B})
        (tmp_path / "in" / f"rank_{rank}" / "log.txt").write_text(f"rank {rank}")
        (tmp_path / "in" / f"rank_{rank}").chmod(0o750)
    gradtool.clip(tmp_path / "in", tmp_path / "out", max_norm=1.0, eps=0.0)
    coef = 1 / math.sqrt(9 + 16 + 16)
    for rank in range(2):
        folder = tmp_path / "out" / f"rank_{rank}"
        found = gradtool.measure(folder / "grads.safetensors")
        assert {tensor.name for tensor in found.tensors} == {"a", f"e{rank}"}
        assert norm(folder / "grads.safetensors") == pytest.approx(5 * coef, rel=1e-6)
        assert (folder / "log.txt").read_text() == f"rank {rank}"
        assert folder.stat().st_mode & 0o777 == 0o750


def test_files_that_note_their_ranks_are_ranks_whatever_they_are_called(tmp_path: Path) -> None:
    for rank in range(3):
        noted = {"gradtool.rank": str(rank), "gradtool.world_size": "3", "gradtool.dump": "1"}
        save_file({"a": A, "b": B}, tmp_path / f"{rank}.safetensors", noted)
    assert norm(tmp_path) == 5.0
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(gradtool.MissingShardError, match="'rank 1' is missing"):
        gradtool.measure(tmp_path)


def test_what_figures_would_be_misread_without_is_said_in_any_case(tmp_path: Path) -> None:
    for rank in range(2):
        dump(tmp_path / "ranks" / f"rank{rank}.safetensors", a=A)
    dump(tmp_path / "m-00001-of-00002.safetensors", a=A)
    counted_once = gradtool.measure(tmp_path / "ranks")
    assert set(counted_once.essential_notes) <= set(counted_once.notes)
    assert any("counted once" in note for note in counted_once.essential_notes)
    for path in (tmp_path / "ranks", tmp_path / "m-00001-of-00002.safetensors"):
        for command in ("inspect", "check"):
            shown = gradtool_command(command, "-q", str(path)).stdout
            for note in gradtool.measure(path).essential_notes:
                assert note in shown
