"""ZeRO's checkpoints, laid out as DeepSpeed does it, of any tensors; and ways to make them lie.

Source: `flatten_dense_tensors_aligned` and `state_dict` of deepspeed/runtime/zero/stage_1_and_2.py,
`partition` of partition_parameters.py for stage 3, both of 0.19.8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Groups = Sequence[Mapping[str, Tensor]]
Change = Callable[[Any], None]

NAN = float("nan")


@dataclass
class fragment_address:  # noqa: N801 - as DeepSpeed calls it
    """Where a parameter lies in a partition."""

    numel: int
    start: int


@contextmanager
def _as_deepspeed() -> Iterator[None]:
    """Have torch.save name the class above as DeepSpeed's, which is not installed here."""
    name = "deepspeed.utils.tensor_fragment"
    modules = {part: ModuleType(part) for part in ("deepspeed", "deepspeed.utils", name)}
    modules[name].__dict__["fragment_address"] = fragment_address
    before = fragment_address.__module__
    others = {part: sys.modules[part] for part in modules if part in sys.modules}
    fragment_address.__module__ = name
    sys.modules.update(modules)
    try:
        yield
    finally:
        fragment_address.__module__ = before
        for part in modules:
            del sys.modules[part]
        sys.modules.update(others)


def optim_name(rank: int, prefix: str = "") -> str:
    """The file of a rank's optimizer."""
    return f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def model_name(rank: int | None = None) -> str:
    """The file of a module: of stage 3 a rank's."""
    start = "" if rank is None else f"zero_pp_rank_{rank}_"
    return f"{start}mp_rank_00_model_states.pt"


@dataclass
class Zero:
    """A checkpoint that is to be written.

    Attributes:
        groups: the parameters of each group, with what is kept of each: their weights, and as
            moments these times 2 and 3.
        stage: 1 or 3.
        world: the number of ranks.
        is_lean: whether the padding of weights is left out, as DeepSpeed does but with bfloat16
            and sums of gradients in float32.
        buffers: what the module has besides.
        frozen: parameters that no optimizer has.
    """

    groups: Groups
    stage: int = 1
    world: int = 2
    is_lean: bool = True
    buffers: Mapping[str, Tensor] | None = None
    frozen: Mapping[str, Tensor] | None = None

    def optim(self, rank: int) -> dict[str, Any]:
        """What a rank's file holds."""
        flats = [self._flat(group, rank) for group in self.groups]
        key = "optimizer_state_dict" if self.stage == 3 else "base_optimizer_state"
        masters = "fp32_flat_groups" if self.stage == 3 else "single_partition_of_fp32_groups"
        moments = {
            number: {"step": torch.tensor(4.0), "exp_avg": 2 * flat, "exp_avg_sq": 3 * flat}
            for number, (flat, _) in enumerate(flats)
        }
        state = {
            key: {"state": moments, "param_groups": [{"lr": 0.1}]},
            masters: [flat[:used] if self.is_lean else flat for flat, used in flats],
            "partition_count": self.world,
        }
        if self.stage < 3:
            state["partition_count"] = [self.world] * len(self.groups)
            state["group_paddings"] = [len(flat) - used for flat, used in flats]
            state["param_slice_mappings"] = [self._mapping(group, rank) for group in self.groups]
        return {"optimizer_state_dict": state, "ds_version": "0.19.8"}

    def _flat(self, group: Mapping[str, Tensor], rank: int) -> tuple[Tensor, int]:
        """A rank's partition, and how many of its elements are no padding, which is NaN here."""
        if self.stage == 3:
            pieces = [self._piece(tensor, rank) for tensor in group.values()]
            return torch.cat(pieces or [torch.empty(0)]), sum(map(len, pieces))
        row = torch.cat([tensor.flatten() for tensor in group.values()])
        size = 2 * self.world
        padded = torch.cat([row, torch.full((-len(row) % size,), NAN)])
        share = len(padded) // self.world
        used = min(max(len(row) - rank * share, 0), share)
        return padded[rank * share : (rank + 1) * share].clone(), used

    def _piece(self, tensor: Tensor, rank: int) -> Tensor:
        share = -(-tensor.numel() // self.world)
        padding = torch.full((share * self.world - tensor.numel(),), NAN, dtype=tensor.dtype)
        padded = torch.cat([tensor.flatten(), padding])
        return padded[rank * share : (rank + 1) * share].clone()

    def _mapping(self, group: Mapping[str, Tensor], rank: int) -> dict[str, fragment_address]:
        share = len(self._flat(group, rank)[0])
        found, at = {}, -rank * share
        for name, tensor in group.items():
            start, end = max(at, 0), min(at + tensor.numel(), share)
            if start < end:
                found[name] = fragment_address(numel=end - start, start=start)
            at += tensor.numel()
        return found

    def model(self, rank: int) -> dict[str, Any]:
        """What the file of a module holds."""
        weights = {name: tensor for group in self.groups for name, tensor in group.items()}
        weights |= self.frozen or {}
        if self.stage == 3:
            weights = {name: torch.empty(0) for name in weights}
        frozen = self.frozen or {}
        in_pieces = self.stage == 3
        return {
            "module": {**weights, **(self.buffers or {})},
            "buffer_names": list(self.buffers or {}),
            "optimizer": None,
            "param_shapes": [
                {name: tensor.shape for name, tensor in group.items()} for group in self.groups
            ],
            "frozen_param_shapes": {name: tensor.shape for name, tensor in frozen.items()},
            "frozen_param_fragments": {
                name: self._piece(tensor, rank) if in_pieces else tensor.clone()
                for name, tensor in frozen.items()
            },
            "shared_params": {},
            "global_steps": 4,
            "dp_world_size": self.world,
        }

    def write(
        self, folder: Path, optim: Change | None = None, model: Change | None = None, rank: int = -1
    ) -> None:
        """Write it; `optim` and `model` change what is in the files of a rank, or of all."""
        folder.mkdir(parents=True, exist_ok=True)
        with _as_deepspeed():
            for number in range(self.world):
                is_meant = rank in (-1, number)
                state, module = self.optim(number), self.model(number)
                if optim is not None and is_meant:
                    optim(state["optimizer_state_dict"])
                if model is not None and is_meant:
                    model(module)
                torch.save(state, folder / optim_name(number))
                if self.stage == 3 or number == 0:
                    name = model_name(number if self.stage == 3 else None)
                    torch.save(module, folder / name)

    @property
    def whole(self) -> dict[str, Tensor]:
        """What the optimizer keeps of each parameter, by name."""
        kinds = {"master": 1, "exp_avg": 2, "exp_avg_sq": 3}
        return {
            f"optimizer.state.{name}.{what}": tensor * factor
            for what, factor in kinds.items()
            for group in self.groups
            for name, tensor in group.items()
        }


def some(world: int = 2, stage: int = 1) -> Zero:
    """A small one, of which no size divides by the number of ranks."""
    generator = torch.Generator().manual_seed(19)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    groups = [{"a.weight": draw(5, 3), "b.weight": draw(3, 2, 2)}, {"a.bias": draw(7)}]
    frozen = {"c.weight": draw(3, 3)}
    return Zero(groups, stage, world, buffers={"mean": draw(3)}, frozen=frozen)
