"""Checkpoints of ZeRO whose numbers lie: one line that says which, and never a figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts.zero.zeros import NAN, fragment_address, some

import gradtool

State = dict[str, Any]


def _moments(state: State) -> Any:
    return state["base_optimizer_state"]["state"]


def _count(state: State) -> None:
    state["partition_count"] = [1, 1]


def _more(state: State) -> None:
    state["partition_count"] = [1 << 50, 1 << 50]


def _no_number(state: State) -> None:
    state["partition_count"] = "two"


def _experts(state: State) -> None:
    state["partition_count"] = [2, 1]


def _group(state: State) -> None:
    state["single_partition_of_fp32_groups"].pop()


def _hidden(state: State) -> None:
    more = torch.full((9,), NAN)
    state["single_partition_of_fp32_groups"][0] = torch.cat(
        [state["single_partition_of_fp32_groups"][0], more]
    )


def _short(state: State) -> None:
    _moments(state)[0]["exp_avg"] = _moments(state)[0]["exp_avg"][:-5].clone()


def _lost(state: State) -> None:
    del _moments(state)[0]["exp_avg"]


def _type(state: State) -> None:
    _moments(state)[0]["exp_avg"] = _moments(state)[0]["exp_avg"].half()


def _shared(state: State) -> None:
    _moments(state)[0]["exp_avg"] = _moments(state)[0]["exp_avg_sq"]


def _in_one(state: State) -> None:
    whole = torch.cat([_moments(state)[0]["exp_avg"], _moments(state)[0]["exp_avg_sq"]])
    half = len(whole) // 2
    _moments(state)[0]["exp_avg"] = whole[1 : half + 1]
    _moments(state)[0]["exp_avg_sq"] = whole[:half]


def _integers(state: State) -> None:
    state["single_partition_of_fp32_groups"][1] = torch.ones(4, dtype=torch.int32)


def _overlapping(state: State) -> None:
    for place in state["param_slice_mappings"][0].values():
        place.start = 0


def _beyond(state: State) -> None:
    for place in state["param_slice_mappings"][1].values():
        place.start += 3


def _negative(state: State) -> None:
    for place in state["param_slice_mappings"][0].values():
        place.numel = -4


def _stranger(state: State) -> None:
    mapping = state["param_slice_mappings"][1]
    mapping["stranger"] = mapping.pop("a.bias")


def _none(state: State) -> None:
    state["param_slice_mappings"][0] = {"a.weight": 7}


def _paddings(state: State) -> None:
    state["param_alignment_paddings"] = [[0], [0]]


def _negative_padding(state: State) -> None:
    state["param_alignment_paddings"] = [[-15, 0], [0]]


@pytest.mark.parametrize(
    ("lie", "rank", "words"),
    [
        (_count, -1, "two checkpoints are mixed"),
        (_count, 1, "not of one checkpoint"),
        (_more, -1, "is missing"),
        (_no_number, 0, "partition_count"),
        (_experts, -1, "different numbers of partitions"),
        (_group, -1, "for each group"),
        (_group, 1, "for each group"),
        (_hidden, 1, "no parameter's"),
        (_short, 1, "not all in"),
        (_short, 0, "not all in"),
        (_lost, 1, "not all in"),
        (_lost, 0, "not all in"),
        (_type, 1, "different types"),
        (_shared, 0, "shares elements"),
        (_in_one, 1, "shares elements"),
        (_integers, 1, "floating-point"),
        (_overlapping, 1, "which another has"),
        (_beyond, 1, "beyond"),
        (_negative, 0, "param_slice_mappings"),
        (_stranger, 0, "elements of it"),
        (_none, 0, "param_slice_mappings"),
        (_paddings, -1, "param_alignment_paddings"),
        (_negative_padding, -1, "param_alignment_paddings"),
    ],
)
def test_numbers_of_an_optimizer(
    tmp_path: Path, lie: Callable[[State], None], rank: int, words: str
) -> None:
    some().write(tmp_path, optim=lie, rank=rank)
    _refused(tmp_path, words)


def _larger(module: State) -> None:
    module["param_shapes"][0]["a.weight"] = torch.Size([5, 300])


def _endless(module: State) -> None:
    module["param_shapes"][0]["a.weight"] = torch.Size([1 << 40, 1 << 40, 1 << 40])


def _smaller(module: State) -> None:
    module["param_shapes"][0]["a.weight"] = torch.Size([2, 3])


def _no_shape(module: State) -> None:
    module["param_shapes"][0]["a.weight"] = (5, -3)


def _twice(module: State) -> None:
    module["param_shapes"][1]["a.weight"] = torch.Size([7])


def _one_group(module: State) -> None:
    module["param_shapes"].pop()


def _world(module: State) -> None:
    module["dp_world_size"] = 4


def _no_dict(module: State) -> None:
    module["param_shapes"] = [7, 8]


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (_larger, "not all in"),
        (_endless, "not all in"),
        (_smaller, "no parameter's"),
        (_no_shape, "shape is none"),
        (_twice, "two groups"),
        (_one_group, "param_shapes"),
        (_world, "number of ranks"),
        (_no_dict, "no dict"),
    ],
)
def test_shapes(tmp_path: Path, lie: Callable[[State], None], words: str, stage: int) -> None:
    some(stage=stage).write(tmp_path, model=lie)
    _refused(tmp_path, words)


def test_ranks_of_stage_3_that_say_different_shapes(tmp_path: Path) -> None:
    some(stage=3).write(tmp_path, model=_smaller, rank=1)
    _refused(tmp_path, "not of one checkpoint")


def _more_in_a_partition(state: State) -> None:
    flat = state["fp32_flat_groups"][0]
    state["fp32_flat_groups"][0] = torch.cat([flat, torch.full((1,), NAN)])


def test_elements_of_stage_3_that_no_shape_names(tmp_path: Path) -> None:
    some(stage=3).write(tmp_path, optim=_more_in_a_partition, rank=1)
    _refused(tmp_path, "no parameter's")


def test_mappings_that_are_in_another_order_are_said(tmp_path: Path) -> None:
    """As DeepSpeed writes them with `round_robin_gradients`."""

    def swapped(state: State) -> None:
        numels = {"b.weight": 12, "a.weight": 15}
        rank = swapped.rank  # type: ignore[attr-defined]
        swapped.rank = 1  # type: ignore[attr-defined]
        pieces = [("b.weight", 12, 0), ("a.weight", 2, 12)] if rank == 0 else [("a.weight", 13, 0)]
        assert sum(numels.values()) == 27
        state["param_slice_mappings"][0] = {
            name: fragment_address(numel=numel, start=start) for name, numel, start in pieces
        }

    swapped.rank = 0  # type: ignore[attr-defined]
    some().write(tmp_path, optim=swapped)
    (note,) = gradtool.measure(tmp_path).essential_notes
    assert "2 parameters elsewhere" in note
    assert "round_robin_gradients" in note


def _refused(path: Path, words: str) -> None:
    with pytest.raises(gradtool.InputError, match=words) as caught:
        gradtool.measure(path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 700
