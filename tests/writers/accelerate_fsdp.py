"""Accelerate's sharded state of FSDP2."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch

from writers.hugging_face import examples, llama
from writers.oracles import Oracle, gathered, of_training
from writers.processes import run_ranks


def _accelerate_fsdp(rank: int, world: int) -> None:
    """`save_state` of two ranks: DCP in `pytorch_model_fsdp_0` and `optimizer_0`."""
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin  # noqa: PLC0415
    from torch.distributed.checkpoint import filesystem  # noqa: PLC0415
    from torch.distributed.checkpoint.state_dict import (  # noqa: PLC0415
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    filesystem._generate_uuid = lambda: "00000000-0000-4000-8000-000000000000"
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        state_dict_type="SHARDED_STATE_DICT",
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
    )
    accelerator = Accelerator(cpu=True)
    # Accelerate takes FSDP for what only accelerators can do.
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    module = llama()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module, optimizer = accelerator.prepare(module, optimizer)
    for row in examples()[rank::world][:3]:
        optimizer.zero_grad()
        accelerator.backward(module(**{name: value[None] for name, value in row.items()}).loss)
        optimizer.step()
    accelerator.state.distributed_type = DistributedType.FSDP  # states made since have undone it
    accelerator.save_state("checkpoint")
    live: dict[str, Any] = {
        "model": get_model_state_dict(module),
        "optimizer": get_optimizer_state_dict(module, optimizer.optimizer),
    }
    whole = gathered(live)
    if rank == 0:
        oracle = Oracle(("accelerate", "transformers"), world)
        oracle.add("checkpoint", "directory", whole, of_training)
        oracle.write()


WRITERS: Final = {"accelerate_fsdp": partial(run_ranks, _accelerate_fsdp, 2)}
"""What writes each layout into the current directory."""
