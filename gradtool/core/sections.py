"""What the top-level keys of training checkpoints hold.

A training checkpoint keeps weights, optimizer moments and gradients side by side; one norm
over all of them means nothing, and moments or weights are never called gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gradtool.core.tensors import SectionKind

SECTION_KINDS: Final[dict[str, SectionKind]] = {
    **dict.fromkeys(("grad", "grads", "gradients", "main_grad", "main_grads"), "gradients"),
    **dict.fromkeys(
        (
            "ema",
            "ema_state_dict",
            "model",
            "model_ema",
            "model_state",
            "model_state_dict",
            "module",
            "network",
            "params",
            "state_dict",
            "weights",
        ),
        "weights",
    ),
    **dict.fromkeys(
        (
            "opt_state",
            "optim",
            "optim_state",
            "optimizer",
            "optimizer_state",
            "optimizer_state_dict",
            "optimizer_states",
            "optimizers",
        ),
        "optimizer",
    ),
}


def sections_of_flat_names(names: Iterable[str]) -> dict[str, SectionKind]:
    """The recognised sections of a format that knows no nesting, by first dotted component.

    `model.layers.0.weight` alone is how many gradients are called, so first components
    count as sections only where two different kinds of them stand side by side.
    """
    found = {name.partition(".")[0] for name in names} & SECTION_KINDS.keys()
    kinds = {head: SECTION_KINDS[head] for head in sorted(found)}
    return kinds if len(set(kinds.values())) > 1 else {}
