"""The network of which torch's checkpoints are: small, and awkward in each way that counts.

No dimension but one divides by 2 and 4, `gate` has fewer rows than there are ranks, one block is
bfloat16; beside the parameters there are a 0-d buffer, a replicated one and one of whole numbers.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

WIDTH: Final = 12
WORDS: Final = 17


class Block(nn.Module):
    """A feed-forward block with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH + 1)
        self.down = nn.Linear(2 * WIDTH + 1, WIDTH, bias=False)
        self.gate = nn.Parameter(torch.linspace(0.5, 1.0, 3))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.tanh(self.up(x.to(self.gate.dtype)))
        return x + (self.down(inner) * self.gate.sum()).to(x.dtype)


class Net(nn.Module):
    """An embedding, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList([Block(), Block().to(torch.bfloat16)])
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.register_buffer("temperature", torch.tensor(0.75))
        self.register_buffer("rotary", torch.linspace(-1.0, 1.0, 5, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        for layer in self.layers:
            x = layer(x)
        return self.head(x) / self.temperature


def net() -> Net:
    """The same on every rank and at every time."""
    torch.manual_seed(15)
    return Net()


def mesh_of(world: int) -> DeviceMesh:
    """All ranks in a row."""
    return init_device_mesh("cpu", (world,))


def sharded(module: Net, mesh: DeviceMesh) -> Net:
    """The network by FSDP2, block by block."""
    for layer in module.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range, seed: int = 0) -> None:
    """Some steps on words that the numbers of the steps choose; gradients stay."""
    for step in steps:
        optimizer.zero_grad()
        words = torch.randint(
            0, WORDS, (4, 9), generator=torch.Generator().manual_seed(100 * seed + step)
        )
        logits = module(words).flatten(0, 1)
        nn.functional.cross_entropy(logits, words.flatten()).backward()
        optimizer.step()


def adam(module: nn.Module) -> torch.optim.Optimizer:
    """AdamW in a rate that moves the moments."""
    return torch.optim.AdamW(module.parameters(), lr=1e-2)
