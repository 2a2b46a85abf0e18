"""A character-level transformer, small enough to train in seconds, whose gradients are real."""

from __future__ import annotations

import inspect
import statistics
import textwrap
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 32, 4, 3, 64, 16
LEARNING_RATE = 3e-3

Grads = dict[str, Tensor]


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and a residual."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up: nn.Module = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, in the shape of its input."""
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(*heads.chunk(3, dim=1), attn_mask=self.mask)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class CharModel(nn.Module):
    """Predicts the next character; `head` and `embed` share one weight."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.position.weight, std=0.1)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next character at every place."""
        x = self.embed(tokens) + self.position.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class FragileLinear(nn.Linear):
    """A linear layer with weight normalization written by hand, as it is often got wrong.

    Forward it is safe: lengths are kept away from zero. Backward it is not: the square root
    has an infinite slope at 0, so that a pruned gain gives an infinity and a pruned row, for
    which the clamp multiplies that infinity by 0, gives NaN.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        length = self.weight.square().sum(dim=1).sqrt().clamp(min=1e-6)
        scale = self.gain.clamp(min=0).sqrt() / length
        return functional.linear(x, self.weight * scale[:, None], self.bias)

    def prune(self, rows: int) -> None:
        """Set the `rows` smallest rows and, apart from them, the `rows` smallest gains to 0."""
        order = self.weight.norm(dim=1).argsort()
        with torch.no_grad():
            self.weight[order[:rows]] = 0.0
            self.gain[order[rows:][self.gain[order[rows:]].argsort()[:rows]]] = 0.0


class Corpus:
    """Text that ships with Python, as batches of characters."""

    def __init__(self, seed: int) -> None:
        text = inspect.getsource(statistics) + inspect.getsource(textwrap)
        self.vocabulary = sorted(set(text))
        code = {char: number for number, char in enumerate(self.vocabulary)}
        self._tokens = torch.tensor([code[char] for char in text])
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Characters, and the characters that follow them."""
        last = len(self._tokens) - CONTEXT - 1
        starts = torch.randint(last, (BATCH, 1), generator=self._generator)
        places = starts + torch.arange(CONTEXT)
        return self._tokens[places], self._tokens[places + 1]


class Run:
    """One training run from a fixed seed."""

    def __init__(self, seed: int, build: Callable[[CharModel], None] | None = None) -> None:
        torch.manual_seed(seed)
        self.corpus = Corpus(seed)
        self.model = CharModel(len(self.corpus.vocabulary))
        if build is not None:
            build(self.model)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE
        )
        self.step = 0

    def backward(self) -> float:
        """The loss of a fresh batch, its gradients left in the parameters."""
        tokens, targets = self.corpus.batch()
        self.optimizer.zero_grad()
        logits = self.model(tokens)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.item()

    def train(self, steps: int) -> float:
        """The loss after `steps` updates; the gradients of one more batch stay in place."""
        for _ in range(steps):
            self.backward()
            self.optimizer.step()
            self.step += 1
        return self.backward()

    def grads(self, *, every_name: bool = False) -> Grads:
        """Gradients by parameter name; a shared parameter under all its names on request."""
        named = self.model.named_parameters(remove_duplicate=not every_name)
        return {name: p.grad for name, p in named if p.grad is not None}


def healthy(steps: int = 300) -> Run:
    """An ordinary run."""
    run = Run(seed=1)
    print(f"healthy: loss {run.train(steps):.3f} after {run.step} steps")
    return run


def exploded(limit: float = 1e5) -> Run:
    """A run with a far too high learning rate, stopped once the gradient norm passes `limit`."""
    run = Run(seed=2)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=3.0)
    norm = 0.0
    while norm < limit and run.step < 300:
        loss = run.train(1)
        norm = torch.nn.utils.get_total_norm(list(run.grads().values())).item()
    print(f"exploded: loss {loss:.3g}, norm {norm:.3g} after {run.step} steps")
    return run


def nonfinite(steps: int = 100) -> Run:
    """A run whose middle layer was pruned to exact zeros behind a careless square root."""
    fragile = FragileLinear(WIDTH, 4 * WIDTH)

    def build(model: CharModel) -> None:
        model.layers[LAYERS // 2].up = fragile

    run = Run(seed=3, build=build)
    run.train(steps)
    fragile.prune(rows=4)
    print(f"nonfinite: loss {run.backward():.3f} after {run.step} steps and pruning")
    return run
