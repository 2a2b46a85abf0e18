"""Checkpoints of transformers, its Trainer, PEFT, and Accelerate in one process."""

from __future__ import annotations

import os
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from writers.oracles import Oracle, gathered, model, of_training

os.environ["HF_HUB_OFFLINE"] = "1"

WORDS: Final = 37


def llama() -> Any:
    """A Llama of some thousand parameters, in float32 and from nobody's hub."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(15)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config)


def examples() -> list[dict[str, Tensor]]:
    """Sentences of six words."""
    rows = [torch.arange(first, first + 6) % WORDS for first in range(16)]
    return [{"input_ids": row, "labels": row} for row in rows]


def stored(module: Any) -> dict[str, Tensor]:
    """The weights as files have them: what is tied once."""
    return gathered(dict(module.named_parameters()))


def _trainer() -> None:
    """Two checkpoints of a Trainer, and the model that it saves at the end beside them."""
    from transformers import (  # noqa: PLC0415
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    oracle = Oracle(("transformers", "accelerate", "safetensors"))
    arguments = TrainingArguments(
        output_dir="checkpoint",
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=15,
    )

    class Truth(TrainerCallback):
        """Looks at the live weights and moments when they have just been saved."""

        def on_save(self, _args: Any, state: Any, _control: Any, **live: Any) -> None:
            whole = stored(live["model"]) | gathered(live["optimizer"].state_dict())
            path = f"checkpoint/checkpoint-{state.global_step}"
            oracle.add(path, "directory", whole, of_training, step=state.global_step)

    trainer = Trainer(llama(), arguments, train_dataset=examples(), callbacks=[Truth()])
    trainer.train()
    trainer.save_model()
    oracle.add("checkpoint", "directory", stored(trainer.model), model)
    oracle.write()


def _sharded() -> None:
    """`save_pretrained` in shards with an index."""
    module = llama()
    module.save_pretrained("checkpoint", max_shard_size="9KB")
    oracle = Oracle(("transformers", "safetensors"))
    oracle.add("checkpoint", "directory", stored(module), model)
    oracle.write()


def _adapter(*, safetensors: bool) -> None:
    """A LoRA adapter of PEFT after two steps: before the first one half of it is zero."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict  # noqa: PLC0415

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    module = get_peft_model(llama(), config)
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=1e-2)
    for row in examples()[:2]:
        batch = {name: value[None] for name, value in row.items()}
        module(**batch).loss.backward()
        optimizer.step()
    module.save_pretrained("checkpoint", safe_serialization=safetensors)
    oracle = Oracle(("peft", "transformers", "safetensors"))
    oracle.add("checkpoint", "directory", gathered(get_peft_model_state_dict(module)), model)
    oracle.write()


def _accelerate(*, safetensors: bool) -> None:
    """`Accelerator.save_state`: model, optimizer, schedule and random states."""
    from accelerate import Accelerator  # noqa: PLC0415

    accelerator = Accelerator(cpu=True)
    module = llama()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    loader = DataLoader(examples(), batch_size=4)  # type: ignore[arg-type] - a list will do
    module, optimizer, loader, schedule = accelerator.prepare(module, optimizer, loader, schedule)
    for batch in loader:
        optimizer.zero_grad()
        accelerator.backward(module(**batch).loss)
        optimizer.step()
        schedule.step()
    accelerator.save_state("checkpoint", safe_serialization=safetensors)
    whole = stored(accelerator.unwrap_model(module)) | gathered(optimizer.state_dict())
    oracle = Oracle(("accelerate", "transformers", "safetensors"))
    oracle.add("checkpoint", "directory", whole, of_training)
    oracle.write()


WRITERS: Final = {
    "hf_trainer": _trainer,
    "hf_sharded": _sharded,
    "peft": lambda: _adapter(safetensors=True),
    "peft_bin": lambda: _adapter(safetensors=False),
    "accelerate": lambda: _accelerate(safetensors=True),
    "accelerate_bin": lambda: _accelerate(safetensors=False),
}
"""What writes each layout into the current directory."""
