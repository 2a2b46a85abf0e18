"""What a checkpoint holds in truth: norms of whole tensors, as the framework gathers them.

`oracle.json` of a layout is

    {"writer": {"torch": "2.13.0"}, "world": 2, "checkpoints": [...], "refused": [...]}

where `refused` lists what is no checkpoint but several, or a question. Each checkpoint has `path`,
`loader` (a name in `loaders.LOADERS`), `step`, `tensors` by name (`shape`, `dtype`, `section`,
`norm`) and `sections` (their norms; what is "other" has none). Norms are L2, of elements widened to
float64, whose squares `math.fsum` adds up without an error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import torch
from torch import Tensor

DTYPES: Final = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
"""What is measured, by its name in safetensors; whole numbers are not."""

SectionOf = Callable[[str], str]


def flat(_name: str) -> str:
    """The section of whatever has none."""
    return ""


def model(_name: str) -> str:
    """The section of weights."""
    return "model"


def of_training(name: str) -> str:
    """The section of a tensor by what frameworks call it in a training checkpoint.

    `step` of an optimizer is a number and no moment, the rest that no name explains are weights.
    """
    head, _, _ = name.partition(".")
    if head in {"grads", "callbacks"}:
        return "grads" if head == "grads" else "other"
    last = name.rpartition(".")[2]
    if last in {"exp_avg", "exp_avg_sq"}:
        return f"optimizer.{last}"
    return "other" if last == "step" else "model"


def norm(tensors: Iterable[Tensor]) -> float:
    """The L2 norm of all elements together."""
    return math.sqrt(
        math.fsum(
            value * value
            for tensor in tensors
            for value in tensor.detach().to(torch.float64).flatten().tolist()
        )
    )


def flattened(tree: object, start: str = "") -> dict[str, Tensor]:
    """The tensors of nested dicts, lists and tuples, under names joined by dots."""
    if isinstance(tree, Tensor):
        return {start: tree}
    found: dict[str, Tensor] = {}
    items: Iterable[tuple[object, object]] = ()
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    for key, value in items:
        found |= flattened(value, f"{start}.{key}" if start else str(key))
    return found


def gathered(tree: object) -> dict[str, Tensor]:
    """The tensors of a tree, each whole: a DTensor is gathered from all ranks, which all call."""
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()
        for name, tensor in flattened(tree).items()
    }


def _number(value: float) -> float | str:
    """A figure as JSON has it: what is not finite as a text that `float` reads."""
    return value if math.isfinite(value) else str(value)


def _release(package: str) -> str:
    return version(package).partition("+")[0]


@dataclass(slots=True)
class Oracle:
    """The truth about one layout, collected while it is written."""

    packages: tuple[str, ...] = ()
    world: int = 1
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add(
        self,
        path: str,
        loader: str,
        tensors: Mapping[str, Tensor],
        section_of: SectionOf,
        again: Collection[str] = (),
        **more: object,
    ) -> None:
        """A checkpoint at `path`, and the whole tensors that it is to hold.

        What has the elements of another `again` counts in no section.
        """
        floats = {name: each for name, each in tensors.items() if each.dtype in DTYPES}
        rows = {
            name: {
                "shape": list(each.shape),
                "dtype": DTYPES[each.dtype],
                "section": section_of(name),
                "norm": _number(norm([each])),
            }
            for name, each in floats.items()
        }
        sections = {
            section: norm(
                each
                for name, each in floats.items()
                if section_of(name) == section and name not in again
            )
            for section in sorted({section_of(name) for name in floats} - {"other"})
        }
        self.checkpoints.append(
            {"path": path, "loader": loader, **more, "sections": sections, "tensors": rows}
        )

    def write(self) -> None:
        """Write it beside `checkpoint`, in the folder of the layout, which we are in."""
        content = {
            "writer": {name: _release(name) for name in ("torch", *self.packages)},
            "world": self.world,
            "refused": self.refused,
            "checkpoints": self.checkpoints,
        }
        with open("oracle.json", "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        os.chmod("oracle.json", 0o644)
