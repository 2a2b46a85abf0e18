"""Gradients of a small GPT, faults planted in a copy of them, and layouts to save both in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from distcp import Item, write_distcp
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from gradtool.core.shapes.boxes import Box

WORDS, WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 96, 32, 4, 4, 16, 8
WORLD = 8

Grads = dict[str, Tensor]
Save = Callable[[Mapping[str, Tensor], Path], str]


class Attention(nn.Module):
    """Causal attention with a matrix for each projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """What each position reads from those before it."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.up_proj, self.down_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        x = x + self.attn(self.ln_1(x))
        return x + self.down_proj(functional.gelu(self.up_proj(self.ln_2(x))))


class Gpt(nn.Module):
    """A GPT with a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.wte(tokens) + self.wpe(torch.arange(CONTEXT))
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.ln_f(x))


def gradients(
    seed: int = 0, batch: int = 0, dtype: torch.dtype = torch.float32, parts: int = 1
) -> Grads:
    """Gradients of the model of a seed for a batch, computed in a dtype, summed over its parts."""
    torch.manual_seed(seed)
    model = Gpt().to(dtype)
    generator = torch.Generator().manual_seed(1000 + batch)
    tokens = torch.randint(WORDS, (BATCH, CONTEXT + 1), generator=generator)
    for part in tokens.chunk(parts):
        logits = model(part[:, :-1]).float()
        loss = functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
        (loss / parts).backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@dataclass(frozen=True)
class Fault:
    """What is planted in B, and how a diagnosis names it.

    Attributes:
        plant: changes a copy of the gradients.
        rule: the name of the one rule that has to tell it.
        words: what its sentence has to say.
        tensors: the names that it has to be about; None for all.
    """

    plant: Callable[[Grads], Grads]
    rule: str
    words: tuple[str, ...]
    tensors: tuple[str, ...] | None = None


Q, UP, HEAD = "layers.2.attn.q_proj.weight", "layers.1.up_proj.weight", "lm_head.weight"


def scaled(by: float) -> Callable[[Grads], Grads]:
    """All tensors times a number."""
    return lambda grads: {name: one * by for name, one in grads.items()}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Grads], Grads]:
    """One tensor changed."""
    return lambda grads: {**grads, name: change(grads[name].clone())}


def swapped_rows(one: Tensor) -> Tensor:
    """Rows 3 and 7 in each other's place."""
    one[[3, 7]] = one[[7, 3]]
    return one


def flipped(bit: int) -> Callable[[Tensor], Tensor]:
    """A bit of the element at [5, 6] flipped."""

    def flip(one: Tensor) -> Tensor:
        one.view(torch.int32)[5, 6] ^= 1 << bit
        return one

    return flip


def double_counted(grads: Grads) -> Grads:
    """What tensor-parallel ranks hold copies of, added up over two of them."""
    copied = ("ln_1.", "ln_2.", "ln_f.", "o_proj.bias", "down_proj.bias")
    return {n: 2.0 * one if any(c in n for c in copied) else one for n, one in grads.items()}


def other_head(grads: Grads) -> Grads:
    """The head's gradient with a term that is not in the other's."""
    noise = torch.randn(grads[HEAD].shape, generator=torch.Generator().manual_seed(5))
    return {**grads, HEAD: grads[HEAD] + 0.1 * grads[HEAD].std() * noise}


COPIED = tuple(
    name
    for name, _ in Gpt().named_parameters()
    if any(part in name for part in ("ln_", "o_proj.bias", "down_proj.bias"))
)

FAULTS = {
    "scale by 2": Fault(
        scaled(2.0), "factor", ("factor 2 (", "sum against a mean) in all 69 tensors")
    ),
    "1/world size": Fault(
        scaled(1.0 / WORLD),
        "factor",
        ("factor 0.125 (1/8", "accumulation steps or ranks", "in all 69 tensors"),
    ),
    "sign": Fault(changed(UP, lambda one: -one), "sign", ("sign is flipped", UP), (UP,)),
    "swapped rows": Fault(
        changed(UP, swapped_rows),
        "moved-rows",
        ("permuted rows: 2 of 128", "row 3 of A is row 7 of B", UP),
        (UP,),
    ),
    "shifted column": Fault(
        changed(UP, lambda one: one.roll(1, dims=1)),
        "moved-columns",
        ("columns shifted by 1 on, cyclically", UP),
        (UP,),
    ),
    "transposition": Fault(
        changed(Q, lambda one: one.T.contiguous()), "transposed", ("B is transposed", Q), (Q,)
    ),
    "bit in the exponent": Fault(
        changed(UP, flipped(30)), "flipped-bits", ("bit 30 (of the exponent)", "[5, 6]", UP), (UP,)
    ),
    "bit in the mantissa": Fault(
        changed(UP, flipped(17)), "flipped-bits", ("bit 17 (of the mantissa)", "[5, 6]", UP), (UP,)
    ),
    "tensor-parallel double count": Fault(
        double_counted, "double-counted", ("factor 2 in", "replicated", "2 tensor-parallel"), COPIED
    ),
    "two dead runs": Fault(scaled(0.0), "dead-sides", ("two dead runs",), ()),
    "bf16 against float32": Fault(
        lambda grads: {name: one.bfloat16() for name, one in grads.items()},
        "rounding",
        ("only rounding to BF16: equal once rounded", "in all 69 tensors"),
    ),
    "only the head different": Fault(
        other_head, "only-here", (f"only '{HEAD}' differs", "the other"), (HEAD,)
    ),
}
"""Of two dead runs A is dead, too."""


def reference(name: str, grads: Grads) -> Grads:
    """A, beside which the fault of that name is planted in B."""
    return scaled(0.0)(grads) if name == "two dead runs" else grads


def one_gpu_and_ddp() -> tuple[Grads, Grads]:
    """Gradients of one GPU and of DDP over two, of which the last layer really differs."""
    generator = torch.Generator().manual_seed(0)
    one = {
        f"encoder.layer.{layer}.{name}.weight": torch.randn(16, 16, generator=generator) * 1e-3
        for layer in range(4)
        for name in "qkvo"
    }
    ddp = {f"module.{name}": tensor * 0.5 for name, tensor in one.items()}
    for name in ddp:
        if ".3." in name:
            ddp[name] += torch.randn(16, 16, generator=generator) * 2e-4
    return one, ddp


def save_safetensors(grads: Mapping[str, Tensor], stem: Path) -> str:
    """One safetensors file."""
    path = str(stem.with_suffix(".safetensors"))
    save_file({name: one.contiguous() for name, one in grads.items()}, path)
    return path


def save_dcp(grads: Mapping[str, Tensor], stem: Path) -> str:
    """A distributed checkpoint by two ranks, each with half of every tensor's rows."""
    ranks: list[list[Item]] = [[], []]
    for name, one in grads.items():
        half = len(one) // 2
        rest = tuple(one.shape[1:])
        for rank, (start, size) in enumerate(((0, half), (half, len(one) - half))):
            box = Box((start, *[0] * len(rest)), (size, *rest))
            ranks[rank].append(Item(name, box))
    write_distcp(stem, dict(grads), ranks)
    return str(stem)


def save_npz(grads: Mapping[str, Tensor], stem: Path) -> str:
    """An npz whose arrays are in Fortran order."""
    path = str(stem.with_suffix(".npz"))
    np.savez(path, **{name: np.asfortranarray(one.numpy()) for name, one in grads.items()})
    return path


def save_views(grads: Mapping[str, Tensor], stem: Path) -> str:
    """A torch file of views: columns of wider tensors, each wider one a storage."""
    path = str(stem.with_suffix(".pt"))
    torch.save({name: _view(one) for name, one in grads.items()}, path)
    return path


def _view(one: Tensor) -> Tensor:
    wide = torch.full((*one.shape[:-1], one.shape[-1] + 3), 7.0, dtype=one.dtype)
    view = wide[..., 2:-1]
    view.copy_(one)
    return view


LAYOUTS: dict[str, tuple[Save, Save]] = {
    "safetensors, DCP of 2 ranks": (save_safetensors, save_dcp),
    "npz in Fortran order, torch views": (save_npz, save_views),
}
