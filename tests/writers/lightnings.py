"""Checkpoints of Lightning's Trainer."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils.data import DataLoader

from writers.nets import WORDS, adam, net
from writers.oracles import Oracle, flattened, of_training


def _lightning() -> None:
    """Two checkpoints in a directory, whose callback keeps the best ones: `kth_value` is inf."""
    import lightning  # noqa: PLC0415
    from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: PLC0415

    oracle = Oracle(("lightning",))

    class Module(lightning.LightningModule):
        """The network with a loss."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, _index: int) -> Any:
            words = batch[0]
            logits = self.net(words).flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, words.flatten())
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return adam(self)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            whole = {name: each.clone() for name, each in flattened(checkpoint).items()}
            step = checkpoint["global_step"]
            path = f"checkpoint/step={step}.ckpt"
            oracle.add(path, "torch_trusted", whole, of_training, step=step)

    keeps = ModelCheckpoint(monitor="loss", save_top_k=3, every_n_train_steps=2, filename="{step}")
    keeps.dirpath = "checkpoint"  # given when it is made, it would be an absolute path
    words = torch.randint(0, WORDS, (16, 9), generator=torch.Generator().manual_seed(15))
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu",
        callbacks=[keeps],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Module(), DataLoader(torch.utils.data.TensorDataset(words), batch_size=4))
    oracle.refused = ["checkpoint"]
    oracle.write()


WRITERS: Final = {"lightning": _lightning}
"""What writes each layout into the current directory."""
