"""A small Llama that the Trainer trains, and how two ranks do it.

torchrun --nproc-per-node 2 trained_by_two.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import Trainer, TrainingArguments
from witness import live_norm
from writers.hugging_face import examples, llama

from gradtool.integrations import TrainerDumpCallback

__all__ = ["arguments", "examples", "llama"]


def arguments(folder: Path, **changes: Any) -> Any:
    """Of six steps on a CPU, of which nothing is saved, and each is logged."""
    options: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(options | changes))


def main(folder: Path) -> None:
    """One of the ranks; the first writes the norms that clipping found, step by step."""
    before: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def observed(parameters: Any, *others: Any, **options: Any) -> Any:
        before.append(live_norm(run.model))
        return clip(parameters, *others, **options)

    torch.nn.utils.clip_grad_norm_ = observed
    callback = TrainerDumpCallback(folder / "grads", every=2, on_error="raise")
    options = arguments(folder, max_grad_norm=0.01, gradient_accumulation_steps=2)
    run = Trainer(llama(), options, train_dataset=examples(), callbacks=[callback])
    run.train()
    if run.args.process_index == 0:
        (folder / "before.txt").write_text("\n".join(map(repr, before)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
