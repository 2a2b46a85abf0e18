"""What `gradtool.torch.Recorder` takes of a training step on a CPU, in processor seconds.

    python -m benchmarks.live.recorder [--steps 5]

A transformer of 98 million parameters in float32, AdamW, two sequences of 1,024 tokens a step. Both
are timed in the same steps, so that whatever else the machine does is the same for both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from benchmarks.harness.tables import limit
from gradtool.torch import Recorder

WIDTH, LAYERS, HEADS, WORDS, TOKENS = 768, 12, 12, 16_384, 1_024
SEQUENCES = 2
MOST = 0.01
"""The share of a step that a recorder may take."""


class Block(nn.Module):
    """Attention and a feed-forward net, each added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attention, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """The states of the next layer."""
        size = *states.shape[:2], 3, HEADS, WIDTH // HEADS
        heads = self.attention(self.norms[0](states)).view(size).permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(*heads, is_causal=True)
        states = states + self.out(found.transpose(1, 2).flatten(2))
        return states + self.down(gelu(self.up(self.norms[1](states))))


class Model(nn.Module):
    """A language model whose words' embeddings are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """The loss."""
        states = self.blocks(self.words(tokens) + self.places.weight)
        return cross_entropy(self.head(states).flatten(0, 1), tokens.flatten())


def compare(steps: int, folder: str) -> None:
    """Time steps and the recorder in them, the first one apart."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, WORDS, (SEQUENCES, TOKENS))
    path = os.path.join(folder, "run.rows")
    recorder = Recorder(model, path, dump_on="nonfinite|spike")
    nbytes = sum(parameter.nbytes for parameter in model.parameters())

    def forth_and_back() -> None:
        optimizer.zero_grad()
        model(tokens).backward()

    found: list[tuple[float, float]] = []
    for step in range(steps + 1):
        training = _cpu_s(forth_and_back)
        recording = _cpu_s(lambda step=step: recorder.before_clipping(step=step))
        found.append((training + _cpu_s(optimizer.step), recording))
    recorder.close()
    step_s, own_s = (median(column) for column in zip(*found[1:], strict=True))
    print(f"a step of {nbytes / 4e6:.0f} million parameters: {step_s:.1f} CPU s")
    print(f"the recorder: {own_s:.3f} CPU s, {own_s / (nbytes / 1e9):.3f} for each GB")
    print(f"on disk: {os.path.getsize(path) / (steps + 1):,.0f} bytes a step")
    print(limit("the recorder's share of a step", own_s / step_s, MOST))


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed (5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options.steps, folder)


if __name__ == "__main__":
    main()
