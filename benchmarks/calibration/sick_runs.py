"""Training runs of the sample model, healthy and sick, with their gradients on the way.

    python -m benchmarks.calibration.sick_runs --dir DIR [--seeds 1 2 3]
        [--variants healthy lr-x100 ...]

needs gradtool's `test` extra and writes DIR/VARIANT/seed-N/step-0025.safetensors and so on: what
it takes to find thresholds that tell the one from the other on some seeds, and to say on others
how well they do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradtool.torch import dump_gradients

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sample_ckpts"))
from charmodel import LEARNING_RATE, WIDTH, CharModel, Run

STEPS, EVERY = 200, 25
SICK_FROM = 100
"""The first step with the fault, for faults that a run catches on its way."""

LOSS_SCALE = 4096.0
PROCESSES = 2


class HalfRun(Run):
    """Classic mixed precision: float16 weights, activations and gradients, float32 masters.

    `model` holds the masters, which AdamW updates; `half` is what is trained and dumped. Only
    the loss is computed in float32, as torch.autocast does.
    """

    def __init__(self, seed: int, scale: float) -> None:
        super().__init__(seed)
        self.scale = scale
        self.half = deepcopy(self.model).half()

    def backward(self) -> float:
        """The loss of a fresh batch; gradients times the scale in `half`, true ones in `model`."""
        pairs = list(zip(self.half.parameters(), self.model.parameters(), strict=True))
        with torch.no_grad():
            for half, master in pairs:
                half.copy_(master)
        tokens, targets = self.corpus.batch()
        self.half.zero_grad()
        logits = self.half(tokens)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        torch.autograd.backward(loss * self.scale)
        for half, master in pairs:
            master.grad = None if half.grad is None else half.grad.float() / self.scale
        return loss.item()


def untie(model: CharModel) -> None:
    """Give the head a weight of its own."""
    model.head = nn.Linear(WIDTH, model.embed.num_embeddings, bias=False)


def enlarge_layer(model: CharModel) -> None:
    """Multiply what layer 1's perceptron adds to the residual by 10,000."""

    def enlarged(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * 1e4

    model.get_submodule("layers.1.down").register_forward_hook(enlarged)


def cut_head(model: CharModel) -> None:
    """Detach the head's weight: it predicts as before and is not learned from."""

    def cut(module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        return functional.linear(inputs[0], module.get_parameter("weight").detach())

    model.head.register_forward_hook(cut)


@dataclass(frozen=True, slots=True)
class Variant:
    """What sets a run apart from an ordinary one.

    Attributes:
        build: changes the model before it is trained.
        half_scale: the loss scale of mixed precision; None in float32.
        rate: the learning rate.
        fault: changes the model before step `SICK_FROM`.
    """

    build: Callable[[CharModel], None] | None = None
    half_scale: float | None = None
    rate: float = LEARNING_RATE
    fault: Callable[[CharModel], None] | None = None

    def start(self, seed: int) -> Run:
        """A run of which no step is done."""
        if self.half_scale is not None:
            return HalfRun(seed, self.half_scale)
        run = Run(seed, self.build)
        for group in run.optimizer.param_groups:
            group["lr"] = self.rate
        return run


VARIANTS = {
    "healthy": Variant(),
    "healthy-f16": Variant(half_scale=LOSS_SCALE),
    "healthy-untied": Variant(build=untie),
    "lr-x100": Variant(rate=100 * LEARNING_RATE),
    "f16-unscaled": Variant(half_scale=1.0),
    "layer-x1e4": Variant(fault=enlarge_layer),
    "head-cut": Variant(fault=cut_head),
    "head-cut-untied": Variant(build=untie, fault=cut_head),
}


def train(directory: Path, name: str, seed: int) -> str:
    """Train one run and dump its gradients; a line about how it went."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    place = directory / name / f"seed-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    variant = VARIANTS[name]
    run = variant.start(seed)
    end = ""
    for step in range(1, STEPS + 1):
        if step == SICK_FROM and variant.fault is not None:
            variant.fault(run.model)
        loss = run.backward()
        if step % EVERY == 0:
            dump(run, place / f"step-{step:04}.safetensors", step)
        run.optimizer.step()
        run.step = step
        if not all(parameter.isfinite().all() for parameter in run.model.parameters()):
            end = f", stopped after step {step}: weights are not finite"
            break
    seconds = time.perf_counter() - began
    return f"{name} seed {seed}: loss {loss:.3f}, {seconds:.1f} s{end}"


def dump(run: Run, path: Path, step: int) -> None:
    """Write the gradients as the backward pass left them."""
    if isinstance(run, HalfRun):
        dump_gradients(run.half, path, step=step, loss_scale=run.scale)
    else:
        dump_gradients(run.model, path, step=step)


def train_all(directory: Path, names: list[str], seeds: list[int]) -> None:
    """Train every variant from every seed, two at a time."""
    jobs = [(name, seed) for name in names for seed in seeds]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as executor:
        for future in [executor.submit(train, directory, *job) for job in jobs]:
            print(future.result(), flush=True)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dir", type=Path, required=True, help="for the dumps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(1 2 3)")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(VARIANTS),
        choices=VARIANTS,
        metavar="VARIANT",
        help=f"some of {', '.join(VARIANTS)} (all)",
    )
    options = parser.parse_args()
    train_all(options.dir, options.variants, options.seeds)


if __name__ == "__main__":
    main()
