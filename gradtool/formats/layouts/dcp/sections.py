"""Sections of a torch distributed checkpoint, whatever its writer called them.

Source of the names: `get_state_dict` of torch/distributed/checkpoint/state_dict.py, flattened or
not, and torchtitan, whose model's names have no prefix beside `optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gradtool.core.sections import SECTION_KINDS
from gradtool.core.tensors import SectionKind

GRADS: Final = "grads"
MODEL: Final = "model"
OPTIMIZER: Final = "optimizer"
OTHER: Final = "other"
"""What is neither gradient, weight nor moment: a step, a learning rate, a scheduler's state."""

_NAMES: Final[Mapping[SectionKind, str]] = {"gradients": GRADS, "weights": MODEL}
_NO_MOMENTS: Final = frozenset({"step", "steps", "lr"})
_OTHERS: Final = frozenset(
    {
        *("dataloader", "extra_state", "loss", "lr_scheduler", "lr_schedulers", "rng", "rng_state"),
        *("scheduler", "train_state"),
    }
)


def sections_of(
    names: Iterable[str], paths: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, str], dict[str, SectionKind]]:
    """The section of each tensor, and the kinds of the sections that are recognised.

    `paths` are the keys that led to each name. A name that is a key by itself has none to say what
    it is; beside an optimizer's it is a weight.
    """
    tops = {name: path[0] for name in names if len(path := paths.get(name, ())) > 1}
    beside_moments = any(SECTION_KINDS.get(top) == "optimizer" for top in tops.values())
    sections: dict[str, str] = {}
    kinds: dict[str, SectionKind] = {}
    for name in names:
        top = tops.get(name)
        kind = None if top is None else SECTION_KINDS.get(top)
        if kind == "optimizer":
            section = _moment(paths[name])
        elif kind is not None:
            section = _NAMES[kind]
        elif (top or name) in _OTHERS:
            section = OTHER
        elif beside_moments:
            section, kind = MODEL, "weights"
        else:
            section = ""
        sections[name] = section
        if kind is not None and section != OTHER:
            kinds[section] = kind
    return sections, kinds


def _moment(path: tuple[str, ...]) -> str:
    """The section of what an optimizer keeps of a parameter: named by the last key."""
    parts = ".".join(path[1:]).split(".")
    if parts[0] != "state" or len(parts) < 3 or parts[-1] in _NO_MOMENTS:
        return OTHER
    return f"{OPTIMIZER}.{parts[-1]}"
