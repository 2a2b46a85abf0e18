"""Small models of other architectures than the sample's, and what can be wrong with them.

A GPT-2 with tied embeddings, a convolutional net with batch normalization, and LoRA on that GPT-2,
all as they are initialized elsewhere: what rules call sick must not be what is usual there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradtool.torch import dump_gradients

WIDTH, HEADS, LAYERS, CONTEXT, BATCH, WORDS = 64, 4, 6, 32, 8, 2000
IMAGE, CLASSES = 16, 10
RANK = 4
STD = 0.02
"""Of the weights of GPT-2 at the start."""


class Attention(nn.Module):
    """Causal attention, named as in GPT-2 but for queries and values apart, as LoRA takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """What each position reads from those before it."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, in the shape of its input."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Gpt(nn.Module):
    """GPT-2 as it is initialized, with one weight for embedding and head."""

    def __init__(self, zero_projections: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        for name, parameter in self.named_parameters():
            if name.endswith(("wte.weight", "wpe.weight", "proj.weight", "c_fc.weight")):
                nn.init.normal_(parameter, std=STD)
            if name.endswith("c_proj.weight"):
                nn.init.normal_(
                    parameter, std=0.0 if zero_projections else STD / (2 * LAYERS) ** 0.5
                )
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next word at every place."""
        x = self.wte(tokens) + self.wpe.weight
        for layer in self.h:
            x = layer(x)
        return self.ln_f(x) @ self.wte.weight.T


class Lora(nn.Module):
    """A linear layer that stays, and a product of two factors beside it that learns."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(WIDTH, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, WIDTH, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return self.base_layer(x) + 2.0 * self.lora_B(self.lora_A(x))


def lora() -> Gpt:
    """A GPT-2 of which only the factors of queries and values learn."""
    model = Gpt()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    for layer in model.h:
        layer.attn.q_proj, layer.attn.v_proj = Lora(layer.attn.q_proj), Lora(layer.attn.v_proj)
    return model


def cnn() -> nn.Sequential:
    """Convolutions with batch normalization in a row, as VGG has them."""
    layers: list[nn.Module] = []
    sizes = [3, 16, 16, 32, 32, 64, 64]
    for at, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        if at % 2:
            layers.append(nn.MaxPool2d(2))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], CLASSES)]
    return nn.Sequential(*layers, *head)


def noise(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words of which none tells anything about another."""
    tokens = torch.randint(WORDS, (BATCH, CONTEXT + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def text(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words of which some are far more frequent, each telling something about the next."""
    first = torch.empty(BATCH, 1).log_normal_(3.0, 1.5, generator=generator).long() % WORDS
    words = [first]
    for _ in range(CONTEXT):
        noise = torch.empty(BATCH, 1).log_normal_(2.0, 1.5, generator=generator).long()
        words.append((3 * words[-1] + noise) % WORDS)
    tokens = torch.cat(words, dim=1)
    return tokens[:, :-1], tokens[:, 1:]


def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stripes in ten directions, under noise."""
    labels = torch.randint(CLASSES, (32,), generator=generator)
    angle = labels[:, None, None] * torch.pi / CLASSES
    grid = torch.arange(IMAGE).float()
    waves = torch.sin(grid[:, None] * angle.cos() + grid[None, :] * angle.sin())
    noise = torch.randn(32, 3, IMAGE, IMAGE, generator=generator)
    return waves[:, None] + 0.5 * noise, labels


def cut_before(module: nn.Module) -> None:
    """Detach what a module reads: nothing before it learns."""
    module.register_forward_pre_hook(lambda _module, inputs: tuple(x.detach() for x in inputs))


def cut_after(module: nn.Module) -> None:
    """Detach what a module gives: it does not learn, and what goes around it does."""
    module.register_forward_hook(lambda _module, _inputs, output: output.detach())


def spoil(module: nn.Module) -> None:
    """Make the gradient of what a module gives NaN: 0 times an infinite slope, at a square root."""

    def spoilt(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + (output * 0.0).square().sum().sqrt()

    module.register_forward_hook(spoilt)


def enlarge(module: nn.Module) -> None:
    """Multiply what a module gives by 10,000."""
    module.register_forward_hook(lambda _module, _inputs, output: output * 1e4)


def forget(*names: str) -> Callable[[nn.Module], None]:
    """Leave out of the graph: these parameters have no gradient at all."""

    def change(model: nn.Module) -> None:
        for name in names:
            model.get_parameter(name).requires_grad_(requires_grad=False)

    return change


def zero_factors(model: nn.Module) -> None:
    """Set every A of LoRA to 0, of which the gradient of B is a multiple."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.zero_()


def at(path: str, change: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    """Do that to the module of that name."""
    return lambda model: change(model.get_submodule(path))


@dataclass(frozen=True, slots=True)
class Trial:
    """A run of one architecture, healthy or with a fault.

    Attributes:
        build: makes the model.
        batch: draws inputs and targets.
        code: of the rule that finds the fault; None in a healthy run.
        fault: changes the model before step `SICK_FROM`; None in a healthy run.
        where: what the finding says.
        keeps_zeros: whether gradients that are not reached are 0, as where they lie in a buffer,
            and not missing.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    code: str | None = None
    fault: Callable[[nn.Module], None] | None = None
    where: str = ""
    keeps_zeros: bool = True


_gpt, _cnn, _lora = (
    partial(Trial, Gpt, text),
    partial(Trial, cnn, images),
    partial(Trial, lora, text),
)
TRIALS = {
    "gpt2-healthy": _gpt(),
    "gpt2-noise": Trial(Gpt, noise),
    "gpt2-zero-init": Trial(partial(Gpt, zero_projections=True), text),
    "gpt2-cut": _gpt("GT208", at("h.4", cut_before), "only layers 4 and 5 get"),
    "gpt2-cut-none": Trial(
        Gpt, text, "GT208", at("h.4", cut_before), "only layers 4 and 5 get", keeps_zeros=False
    ),
    "gpt2-layer-cut": _gpt("GT207", at("h.2.mlp.c_proj", cut_after), "layer 2"),
    "gpt2-layer-cut-none": Trial(
        Gpt, text, "GT010", at("h.2.mlp.c_proj", cut_after), "layer 2", keeps_zeros=False
    ),
    "gpt2-attention-cut": _gpt(
        "GT209",
        lambda model: [cut_after(layer.attn) for layer in model.h] and None,
        "6 of 6 layers",
    ),
    "gpt2-nan": _gpt("GT101", at("h.3.attn.c_proj", spoil), "h.3.attn"),
    "gpt2-layer-x1e4": _gpt("GT302", at("h.1.mlp.c_proj", enlarge), "layers 0 and 1"),
    "gpt2-missing": Trial(
        Gpt, text, "GT010", forget("h.2.ln_2.weight", "h.2.ln_2.bias"), "layer 2", keeps_zeros=False
    ),
    "cnn-healthy": _cnn(),
    "cnn-cut": _cnn("GT208", at("17", cut_before), "get gradients"),
    "cnn-nan": _cnn("GT101", at("10", spoil), "'10.bias'"),
    "lora-healthy": _lora(),
    "lora-cut": _lora("GT208", at("h.5", cut_before), "only layer 5 gets gradients"),
    "lora-zero-A": _lora("GT209", zero_factors, "lora_B: 0 in 6 of 6 layers"),
    "lora-nan": _lora("GT101", at("h.2.attn.c_proj", spoil), "h.2.attn"),
}
STEPS = (*range(1, 21), 30, 40, 60, 80, 100)
SICK_FROM = 40


def train_trial(directory: Path, name: str, seed: int) -> str:
    """Train one trial and dump its gradients; a line about how it went."""
    torch.set_num_threads(1)
    place = directory / name / f"seed-{seed}"
    place.mkdir(parents=True, exist_ok=True)

    def dump(model: nn.Module, step: int) -> None:
        dump_gradients(model, place / f"step-{step:04}.safetensors", step=step)

    return f"{name} seed {seed}: loss {train(TRIALS[name], seed, dump):.3f}"


def train(
    trial: Trial,
    seed: int,
    dump: Callable[[nn.Module, int], None],
    steps: Sequence[int] = STEPS,
) -> float:
    """Train a run, and give the model to `dump` at each of `steps`; the last loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = trial.build()
    learning = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    for step in range(1, steps[-1] + 1):
        if step == SICK_FROM and trial.fault is not None:
            trial.fault(model)
        inputs, targets = trial.batch(generator)
        optimizer.zero_grad(set_to_none=not trial.keeps_zeros)
        outputs = model(inputs)
        loss = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        loss.backward()
        if step in steps:
            dump(model, step)
        optimizer.step()
        if step >= SICK_FROM and trial.fault is not None:
            break  # the step with the fault is what is looked at, and not what follows from it
    return loss.item()
