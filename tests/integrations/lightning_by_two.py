"""A small network that Lightning trains, and how two ranks do it.

torchrun --nproc-per-node 2 lightning_by_two.py FOLDER [fsdp1]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from witness import Witness, live_norm

from gradtool.integrations import LightningDumpCallback


def module_of(package: Any) -> Any:
    """The network as a module of that package, under one or the other of Lightning's names."""

    class Module(package.LightningModule):  # type: ignore[misc, name-defined]
        """Notes the norm before each clipping, by a witness, and after it."""

        def __init__(self, optimizer: Callable[[Any], Any] | None = None) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
            self.before: list[float] = []
            self.after: list[float] = []
            self._optimizer = optimizer or (lambda own: torch.optim.SGD(own.parameters(), lr=0.1))
            self._witness = Witness(self.net)

        def loss(self, inputs: Tensor) -> Tensor:
            """Large enough for all clipping here."""
            return 10.0 * (self.net(inputs) - inputs[:, :3]).square().mean()

        def training_step(self, batch: Any, _index: int) -> Any:
            """The loss of a batch."""
            return self.loss(batch[0])

        def configure_optimizers(self) -> Any:
            """The one that was asked for, or plain descent."""
            return self._optimizer(self)

        def configure_gradient_clipping(self, optimizer: Any, **how: Any) -> None:
            """Lightning's own, between two looks."""
            before = self._witness.norm() if self.trainer.world_size == 1 else live_norm(self)
            self.before.append(before)
            super().configure_gradient_clipping(optimizer, **how)
            self.after.append(live_norm(self))

    return Module


Module: Any = module_of(lightning.pytorch)


def batches() -> Any:
    """Ten or so for each step that is asked for."""
    inputs = torch.randn(48, 5, generator=torch.Generator().manual_seed(15))
    return DataLoader(TensorDataset(inputs), batch_size=4)


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a Trainer that makes six steps on a CPU and saves nothing."""
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    fixed = {"max_steps": 6, "accelerator": "cpu", "devices": 1, "default_root_dir": str(folder)}
    return quiet | fixed | changes


def main(folder: Path) -> None:
    """One of the ranks; the first writes the norms that clipping found, step by step."""
    callback = LightningDumpCallback(folder / "grads", every=3, on_error="raise")
    changes: dict[str, Any] = {"devices": 2, "strategy": "ddp", "gradient_clip_val": 0.01}
    module = Module()
    trainer = lightning.pytorch.Trainer(**options(folder, callbacks=[callback], **changes))
    trainer.fit(module, batches())
    if trainer.global_rank == 0:
        (folder / "before.txt").write_text("\n".join(map(repr, module.before)))


class OnCpu(FSDPStrategy):
    """Lightning's own is refused without a GPU, and so is one that it is told of by name."""


class InPieces(lightning.pytorch.LightningModule):
    """A network that it has FSDP1 split, as the strategy would where there is a GPU."""

    def configure_model(self) -> None:
        """Wrap it, on a CPU."""
        net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        device = torch.device("cpu")
        self.net = FullyShardedDataParallel(net, use_orig_params=True, device_id=device)

    def training_step(self, batch: Any, _index: int) -> Any:
        """The loss of a batch."""
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def in_pieces(folder: Path) -> None:
    """One of the ranks, under FSDP1; writes how far it came."""
    callback = LightningDumpCallback(folder / "grads", every=3)
    changes: dict[str, Any] = {"devices": 2, "strategy": OnCpu()}
    trainer = lightning.pytorch.Trainer(**options(folder, callbacks=[callback], **changes))
    trainer.fit(InPieces(), batches())
    (folder / f"steps{trainer.global_rank}.txt").write_text(str(trainer.global_step))


if __name__ == "__main__":
    (in_pieces if sys.argv[2:] == ["fsdp1"] else main)(Path(sys.argv[1]))
