"""Single files that torch writes in its other two formats."""

from __future__ import annotations

import os
import warnings
from typing import Any, Final

import torch
from torch import Tensor, nn

from writers.nets import Net, adam, net, train
from writers.oracles import Oracle, gathered, model, of_training


def _trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = net()
    optimizer = adam(module)
    train(module, optimizer, range(2))
    os.makedirs("checkpoint")
    return module, optimizer


def _legacy() -> None:
    """The format of before 1.6: pickles and bytes one after another."""
    module, optimizer = _trained()
    state: dict[str, Any] = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "grads": {name: parameter.grad for name, parameter in module.named_parameters()},
    }
    torch.save(state, "checkpoint/training.pt", _use_new_zipfile_serialization=False)
    oracle = Oracle()
    oracle.add("checkpoint/training.pt", "torch", gathered(state), of_training)
    oracle.write()


class _Silent(Net):
    """The network without what it computes: of each operation torch notes where its code lies."""

    def forward(self, words: Tensor) -> Tensor:
        return words


def _script() -> None:
    """A module that was traced."""
    module = _Silent()
    os.makedirs("checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, torch.zeros((1, 3), dtype=torch.int64))
        torch.jit.save(traced, "checkpoint/traced.pt")
    oracle = Oracle()
    oracle.add("checkpoint/traced.pt", "torchscript", gathered(module.state_dict()), model)
    oracle.write()


WRITERS: Final = {"torch_legacy": _legacy, "torchscript": _script}
"""What writes each layout into the current directory."""
