"""DeepSpeed's checkpoints read back whole, with torch alone, after DeepSpeed's `zero_to_fp32.py`.

Classes of DeepSpeed's own in the files, of loss scales and the like, are made of nothing here.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from writers.oracles import flattened

Tensors = dict[str, Tensor]


class _Nothing(int):
    """An object of a class that is not installed: a number where it is an enumeration's."""

    def __new__(cls, *values: object) -> Self:
        return super().__new__(cls, values[0] if values else 0)

    def __setstate__(self, state: object) -> None:
        """Whatever it is, it is no tensor."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Nothing if module.startswith("deepspeed.") else super().find_class(module, name)


class _Pickle:
    """What torch wants of a pickle module."""

    Unpickler = _Unpickler
    load = pickle.load
    __name__ = "pickle"


def _load(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_Pickle)


def _of_ranks(path: str, ending: str) -> list[Any]:
    return [_load(file) for file in sorted(Path(path).glob(f"*mp_rank_00_{ending}.pt"))]


def zero(path: str) -> Tensors:
    """The tensors of a checkpoint of stage 1, 2 or 3, of fewer than ten ranks."""
    states = [each["optimizer_state_dict"] for each in _of_ranks(path, "optim_states")]
    models = _of_ranks(path, "model_states")
    is_stage_3 = "fp32_flat_groups" in states[0]
    key = "optimizer_state_dict" if is_stage_3 else "base_optimizer_state"
    found = _module(models)
    for number, shapes in enumerate(models[0]["param_shapes"]):
        of_group = [state[key]["state"][number] for state in states]
        masters = "fp32_flat_groups" if is_stage_3 else "single_partition_of_fp32_groups"
        for state, of_rank in zip(states, of_group, strict=True):
            of_rank["master"] = state[masters][number]
        found[f"optimizer_state_dict.{key}.state.{number}.step"] = of_group[0].pop("step")
        for what in of_group[0]:
            flats = [of_rank[what] for of_rank in of_group]
            for name, whole in (_zipped if is_stage_3 else _in_a_row)(shapes, flats):
                found[f"optimizer.state.{name}.{what}"] = whole
    return found


def _module(models: list[Any]) -> Tensors:
    """What a module's files have: in those of stage 3, pieces of what is not trained."""
    module = {name: each for name, each in models[0]["module"].items() if each.numel()}
    for name, shape in (models[0]["frozen_param_shapes"] or {}).items():
        pieces = [model["frozen_param_fragments"][name].flatten() for model in models]
        module[name] = torch.cat(pieces)[: shape.numel()].view(shape)
    return {f"module.{name}": each for name, each in module.items()}


def _in_a_row(shapes: dict[str, torch.Size], flats: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    row, at = torch.cat(flats), 0
    for name, shape in shapes.items():
        yield name, row[at : at + shape.numel()].view(shape)
        at += shape.numel()


def _zipped(shapes: dict[str, torch.Size], flats: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    at = 0
    for name, shape in shapes.items():
        end = at + math.ceil(shape.numel() / len(flats))
        whole = torch.cat([flat[at:end] for flat in flats])
        yield name, whole[: shape.numel()].view(shape)
        at = end


def universal(path: str) -> Tensors:
    """The tensors of a universal checkpoint, which has none of stage 3's shapes."""
    found = _module(_of_ranks(path, "model_states"))
    for file in sorted(Path(path, "zero").glob("*/*.pt")):
        what = {"fp32": "master"}.get(file.stem, file.stem)
        (tensor,) = flattened(_load(file)).values()
        found[f"optimizer.state.{file.parent.name}.{what}"] = tensor
    return found
