"""DeepSpeed's checkpoints of ZeRO, and a universal one, on the CPU.

Left out of what it leaves behind are `zero_to_fp32.py` and `zero_to_torch.py`, copies of its own
source. What optimizers keep is gathered by DeepSpeed itself in stage 3, and by hand before, of the
tensors that its engine has, in the order in which that has the parameters: version 0.19.8 gathers
no moments of other groups than the first, and other parameters with `round_robin_gradients`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from writers.oracles import Oracle
from writers.processes import run_ranks

WIDTH: Final = 12
WORDS: Final = 17
STEPS: Final = 3
TIED: Final = ("module.head.weight",)
"""What is another weight by a second name."""


class Net(nn.Module):
    """Sizes that no number of ranks divides, tied weights, what is not trained, one number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH + 1)
        self.down = nn.Linear(2 * WIDTH + 1, WIDTH, bias=False)
        self.frozen = nn.Linear(WIDTH, 7)
        self.scale = nn.Parameter(torch.tensor([0.75]))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("rotary", torch.linspace(-1.0, 1.0, 5, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(7))
        for parameter in self.frozen.parameters():
            parameter.requires_grad_(requires_grad=False)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        x = x + self.down(torch.tanh(self.up(x))) * self.scale
        return self.head(x) + self.frozen(x).sum()


def _groups(module: Net) -> list[dict[str, Any]]:
    trained = [one for one in module.parameters() if one.requires_grad and one is not module.scale]
    return [
        {"params": [one for one in trained if one.ndim > 1], "weight_decay": 0.1},
        {"params": [one for one in trained if one.ndim == 1], "weight_decay": 0.0},
        {"params": [module.scale]},
    ]


def _engine(config: dict[str, Any]) -> Any:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: PLC0415
    from deepspeed.accelerator import get_accelerator  # noqa: PLC0415

    # Built once for all processes, it waits for ever for a lock that one of them left behind.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    if "fp16" in config:
        # Arithmetic in it is there on every CPU; DeepSpeed wants it to be fast.
        type(get_accelerator()).is_fp16_supported = lambda _: True
    module = Net()
    optimizer = torch.optim.AdamW(_groups(module), lr=1e-2)
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings | config)
    return engine


def _train(engine: Any, rank: int, steps: range) -> None:
    for step in steps:
        chosen = torch.Generator().manual_seed(100 * rank + step)
        words = torch.randint(0, WORDS, (4, 9), generator=chosen)
        logits = engine(words).flatten(0, 1).float()
        engine.backward(nn.functional.cross_entropy(logits, words.flatten()))
        engine.step()


def _trained(engine: Any) -> dict[str, nn.Parameter]:
    named = engine.module.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _gathered(engine: Any) -> dict[str, Tensor]:
    """What the optimizer keeps of each parameter, whole; every rank calls."""
    from deepspeed.utils import (  # noqa: PLC0415
        safe_get_full_fp32_param,
        safe_get_full_optimizer_state,
    )

    found = {}
    for name, parameter in _trained(engine).items():
        found[f"optimizer.state.{name}.master"] = safe_get_full_fp32_param(parameter)
        for what in ("exp_avg", "exp_avg_sq"):
            whole = safe_get_full_optimizer_state(parameter, what)
            found[f"optimizer.state.{name}.{what}"] = whole
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _gathered_in_a_row(engine: Any) -> dict[str, Tensor]:
    """The same of stages 1 and 2: rows of all ranks, cut as the engine laid them."""
    names = {id(parameter): name for name, parameter in _trained(engine).items()}
    found = {}
    zero = engine.optimizer
    is_bf16 = hasattr(zero, "bf16_groups")  # another class, for sums of gradients in float32
    groups = zero.bf16_groups if is_bf16 else zero.round_robin_bit16_groups
    masters = zero.fp32_groups_flat_partition if is_bf16 else zero.single_partition_of_fp32_groups
    for number, parameters in enumerate(groups):
        mine = masters[number]
        state = {"master": mine, **zero.optimizer.state[mine]}
        for what in ("master", "exp_avg", "exp_avg_sq"):
            pieces = [torch.empty_like(state[what]) for _ in range(zero.partition_count[number])]
            torch.distributed.all_gather(pieces, state[what].detach())
            row = torch.cat(pieces)
            for parameter in parameters:
                name = f"optimizer.state.{names[id(parameter)]}.{what}"
                found[name] = row[: parameter.numel()].view(parameter.shape).clone()
                row = row[parameter.numel() :]
    return found


def _steps(engine: Any, stage: int) -> dict[str, Tensor]:
    """The numbers of steps, one for each group, under the names that they have in files."""
    key = "optimizer_state_dict" if stage == 3 else "base_optimizer_state"
    counts = [state["step"] for state in engine.optimizer.optimizer.state.values()]
    return {
        f"optimizer_state_dict.{key}.state.{number}.step": count.clone()
        for number, count in enumerate(counts)
    }


def _module(engine: Any, stage: int) -> dict[str, Tensor]:
    """What a module's files hold of it: of stage 3 buffers, and what is not trained."""
    import deepspeed  # noqa: PLC0415

    module = engine.module
    if stage < 3:
        state = {name: each.clone() for name, each in module.state_dict().items()}
        return {f"module.{name}": each for name, each in state.items()}
    found = {f"module.{name}": each.clone() for name, each in module.named_buffers()}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter]):
                found[f"module.{name}"] = parameter.detach().clone()
    return found


def section_of(name: str) -> str:
    """The section of a tensor by its name here."""
    head, *_, last = name.split(".")
    if head == "module":
        return "model"
    return "other" if last == "step" else f"optimizer.{last}"


def _save(engine: Any, stage: int, oracle: Oracle, how: str = "zero") -> None:
    """Save what there is as the next step, with what it is."""
    engine.save_checkpoint("checkpoint")
    whole = _module(engine, stage)
    whole |= _gathered_in_a_row(engine) if stage < 3 else _gathered(engine)
    whole |= _steps(engine, stage)
    step = engine.global_steps
    oracle.add(f"checkpoint/global_step{step}", how, whole, section_of, TIED, step=step)
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        for name in ("zero_to_fp32.py", "zero_to_torch.py"):
            os.remove(os.path.join("checkpoint", name))


def _zero(
    rank: int, world: int, *, stage: int, steps: tuple[int, ...] = (STEPS,), **config: Any
) -> None:
    zero = {"stage": stage, **config.pop("zero", {})}
    engine = _engine({"zero_optimization": zero, **config})
    oracle, done = Oracle(("deepspeed",), world), 0
    for step in steps:
        _train(engine, rank, range(done, step))
        _save(engine, stage, oracle)
        done = step
    if rank == 0:
        if len(steps) > 1:
            oracle.refused = ["checkpoint"]
        oracle.write()


def _universal(rank: int, world: int) -> None:
    """What `ds_to_universal.py` makes of stage 1 in bfloat16; the former is thrown away."""
    engine = _engine({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}})
    _train(engine, rank, range(STEPS))
    engine.save_checkpoint("saved")
    whole = _module(engine, 1) | _gathered_in_a_row(engine)
    if rank:
        return
    from deepspeed.checkpoint import ds_to_universal  # noqa: PLC0415

    folder = f"global_step{STEPS}"
    made = argparse.Namespace(
        input_folder=f"saved/{folder}",
        output_folder=f"checkpoint/{folder}_universal",
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    ds_to_universal.main(made)
    shutil.rmtree("saved")
    trained = _trained(engine)
    count = torch.tensor(float(STEPS))
    whole |= {f"optimizer.state.{name}.step": count for name in trained}
    whole |= {
        f"optimizer.state.{name}.master": each.float()
        for name, each in engine.module.state_dict().items()
        if name not in trained
    }

    def section(name: str) -> str:
        is_trained = name.removeprefix("optimizer.state.").rpartition(".")[0] in trained
        return section_of(name) if is_trained or name.startswith("module.") else "other"

    oracle = Oracle(("deepspeed",), world)
    oracle.add(made.output_folder, "universal", whole, section, TIED, step=STEPS)
    oracle.write()


BF16: Final = {"bf16": {"enabled": True}}
WRITERS: Final = {
    "deepspeed_zero1": partial(run_ranks, partial(_zero, stage=1, steps=(2, 3)), 2),
    "deepspeed_zero1_three": partial(run_ranks, partial(_zero, stage=1), 3),
    "deepspeed_bf16_optimizer": partial(
        run_ranks,
        partial(_zero, stage=1, data_types={"grad_accum_dtype": "fp32"}, **BF16),
        2,
    ),
    "deepspeed_fp16": partial(
        run_ranks, partial(_zero, stage=2, fp16={"enabled": True, "initial_scale_power": 8}), 2
    ),
    "deepspeed_zero2_bf16": partial(run_ranks, partial(_zero, stage=2, **BF16), 2),
    "deepspeed_zero2_round_robin": partial(
        run_ranks, partial(_zero, stage=2, zero={"round_robin_gradients": True}), 2
    ),
    "deepspeed_zero3": partial(run_ranks, partial(_zero, stage=3), 2),
    "deepspeed_zero3_bf16": partial(
        run_ranks, partial(_zero, stage=3, zero={"sub_group_size": 200}, **BF16), 2
    ),
    "deepspeed_universal": partial(run_ranks, _universal, 2),
}
"""What writes each layout into the current directory."""
