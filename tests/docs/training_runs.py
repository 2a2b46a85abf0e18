"""The five training runs of docs/trend.md: a small net that goes right, and wrong in four ways.

    python tests/docs/training_runs.py DIR

writes DIR/healthy, DIR/exploding, DIR/dying and DIR/overflow, directories of dumps, and
DIR/changed.rows, the store of a recorder, with what the trainer logged beside them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradtool.torch import Recorder, dump_gradients

INPUTS, WIDTH, LAYERS, CLASSES, BATCH = 12, 16, 4, 5, 32
CHANGED_AT = 400


class Layer(nn.Module):
    """What a hidden layer finds, added to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """The states for the next layer."""
        return states + self.up(self.norm(states)).relu()


class Net(nn.Module):
    """Classes of vectors, by a residual net."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(INPUTS, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.layers(self.embed(inputs)))


def batches(seed: int, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The number of each step, vectors around the centre of their class, and the classes."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, INPUTS, generator=draw)
    for step in range(1, steps + 1):
        labels = torch.randint(CLASSES, (BATCH,), generator=draw)
        noise = torch.randn(BATCH, INPUTS, generator=draw)
        yield step, (centres[labels] + 1.5 * noise).double(), labels


def net(seed: int = 0) -> Net:
    """In float64, so that every machine has the same run."""
    torch.manual_seed(seed)
    return Net().double()


def healthy(folder: Path) -> None:
    """200 steps, of which every tenth is dumped; the log has each norm, multiplied by 4.

    The trainer forgot to divide the sum over 4 batches of a step by 4 before it logged the norm.
    """
    model, log = net(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, inputs, labels in batches(1, 200):
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        log.append({"step": step, "grad_norm": 4.0 * norm.item()})
        if step % 10 == 0:
            dump_gradients(model, folder / "healthy" / f"step{step:03}.safetensors", step=step)
        optimizer.step()
    lines = "".join(json.dumps(line) + "\n" for line in log)
    (folder / "healthy.jsonl").write_text(lines, encoding="utf-8")


def exploding(folder: Path) -> None:
    """A learning rate that is too large, in float32, and nothing that clips."""
    model = net().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.5)
    for step, inputs, labels in batches(2, 14):
        optimizer.zero_grad()
        cross_entropy(model(inputs.float()), labels).backward()
        dump_gradients(model, folder / "exploding" / f"step{step:03}.safetensors", step=step)
        optimizer.step()


def dying(folder: Path) -> None:
    """At step 60 an update pushes the biases of layer 2 so low that its ReLUs never open again."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, inputs, labels in batches(3, 120):
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        if step % 10 == 0:
            dump_gradients(model, folder / "dying" / f"step{step:03}.safetensors", step=step)
        optimizer.step()
        if step == 60:
            with torch.no_grad():
                model.get_parameter("layers.2.up.bias").sub_(100.0)


def overflow(folder: Path) -> None:
    """Weights and gradients in float16, under a loss scale that doubles at every fourth step.

    As a GradScaler does it, steps that are not finite are skipped, and the scale is halved.
    """
    model = net().half()
    masters = [p.detach().double() for p in model.parameters()]
    scale = 2.0**14
    for step, inputs, labels in batches(4, 20):
        model.zero_grad()
        loss = cross_entropy(model(inputs.half()).float(), labels)
        (loss * scale).backward()
        path = folder / "overflow" / f"step{step:03}.safetensors"
        dump_gradients(model, path, step=step, loss_scale=scale)
        grads = [p.grad.double() for p in model.parameters() if p.grad is not None]
        if not all(bool(grad.isfinite().all()) for grad in grads):
            scale /= 2.0
            continue
        with torch.no_grad():
            for parameter, master, grad in zip(model.parameters(), masters, grads, strict=True):
                parameter.copy_(master.sub_(grad, alpha=0.05 / scale))
        scale *= 2.0 if step % 4 == 0 else 1.0


def changed(folder: Path) -> None:
    """From step 400 on the vectors are of other classes, and five times as long."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with Recorder(model, folder / "changed.rows", dump_on="nonfinite|spike") as recorder:
        for one, other in zip(batches(5, 450), batches(6, 450), strict=True):
            step, inputs, labels = one if one[0] < CHANGED_AT else other
            optimizer.zero_grad()
            cross_entropy(model(inputs * (5.0 if step >= CHANGED_AT else 1.0)), labels).backward()
            recorder.before_clipping(step=step)
            optimizer.step()


def main(folder: Path) -> None:
    """All five."""
    torch.set_num_threads(1)
    for name in ("healthy", "exploding", "dying", "overflow"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for make in (healthy, exploding, dying, overflow, changed):
        make(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
