"""The norm of each step of healthy training runs, kept in a directory between calls."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.calibration.architectures import (
    CLASSES,
    TRIALS,
    WORDS,
    Trial,
    cnn,
    images,
    text,
    train,
)

STATES: Final = 96


class Lstm(nn.Module):
    """Two layers of an LSTM between an embedding and a head, as they are initialized by torch."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, STATES)
        self.layers = nn.LSTM(STATES, STATES, num_layers=2, batch_first=True)
        self.head = nn.Linear(STATES, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next word at every place."""
        states, _ = self.layers(self.words(tokens))
        return self.head(states)


def mislabelled(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stripes of which one in ten has the label of any class, so that no net is ever sure."""
    inputs, labels = images(generator)
    wrong = torch.rand(len(labels), generator=generator) < 0.1
    others = torch.randint(CLASSES, (len(labels),), generator=generator)
    return inputs, torch.where(wrong, others, labels)


RUNS: Final = {
    "GPT-2": TRIALS["gpt2-healthy"],
    "CNN": Trial(cnn, mislabelled),
    "CNN, loss to 0": TRIALS["cnn-healthy"],
    "LSTM": Trial(Lstm, text),
    "LoRA": TRIALS["lora-healthy"],
}


def norms_of(directory: Path, name: str, seed: int, steps: int) -> list[float]:
    """Those of the run of that architecture and seed, which is trained unless they are there."""
    stem = re.sub(r"\W+", "-", name).lower()
    kept = directory / f"{stem}-seed-{seed}-steps-{steps}.json"
    if kept.exists():
        norms: list[float] = json.loads(kept.read_text(encoding="utf-8"))
        return norms
    norms = []

    def note(model: nn.Module, _step: int) -> None:
        grads = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    train(RUNS[name], seed, note, range(1, steps + 1))
    directory.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(norms), encoding="utf-8")
    return norms
