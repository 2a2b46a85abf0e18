"""Which entries of a line of a log are the step and the norm of its gradients, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from gradtool.storage.logs.nested import BETWEEN

_NORMS: Final = (
    "grad_norm",
    "grad_norm_step",
    "total_grad_norm",
    "global_grad_norm",
    "gradient_norm",
    "total_norm",
    "grad_norm_total",
    "grad_2.0_norm_total",
    "gnorm",
)
"""As Trainer and TorchTune log it, Lightning with a suffix, others; the likeliest first."""

_STEPS: Final = (
    "global_step",
    "step",
    "_step",
    "iteration",
    "iter",
    "num_updates",
    "update",
)
"""Counts of optimizer steps before those of lines, which are wandb's `_step`."""

_BETWEEN: Final = re.compile(r"[-\s]+")


def norm_rank(key: str) -> int | None:
    """How likely a key is that of the norm, 0 being the likeliest; None for others."""
    return _rank(key, _NORMS)


def step_key(keys: Iterable[str], norm: str) -> str | None:
    """The key of the step that a norm is of, among these; None where none is.

    Of several that say it equally, the one that was logged where the norm was, else the one that is
    logged nowhere in particular.
    """
    place = norm.rpartition(BETWEEN)[0]
    ranked = [
        (rank, key.rpartition(BETWEEN)[0] != place, key.count(BETWEEN), key)
        for key in keys
        if (rank := _rank(key, _STEPS)) is not None
    ]
    return min(ranked)[-1] if ranked else None


def _rank(key: str, names: tuple[str, ...]) -> int | None:
    # `train/grad_norm`: what stands before the slash says where it was logged.
    name = _BETWEEN.sub("_", key.rpartition(BETWEEN)[2].strip().lower())
    return names.index(name) if name in names else None


def likeliest(found: Mapping[str, object]) -> list[str]:
    """The keys whose names are most those of a norm; several where they say it equally."""
    ranks = {key: rank for key in found if (rank := norm_rank(key)) is not None}
    best = min(ranks.values(), default=None)
    return [key for key, rank in ranks.items() if rank == best]
