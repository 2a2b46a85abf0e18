"""Hooks that dump gradients before they are clipped: for Trainer, Lightning, and plain loops.

    >>> from gradtool.integrations import TrainerDumpCallback
    >>> Trainer(..., callbacks=[TrainerDumpCallback("grads", every=100)])

    >>> from gradtool.integrations import LightningDumpCallback
    >>> lightning.Trainer(..., callbacks=[LightningDumpCallback("grads", every=100)])

    >>> from gradtool.integrations import GradientDumps
    >>> dumps = GradientDumps("grads", every=100)
    >>> dumps.before_clipping(model, step=step)

All write `grads/grads_step000100.safetensors` ..., with `-rank0` ... where there are several
processes, which `gradtool inspect grads` lists and `gradtool check grads` judges as the steps of a
run. Names are resolved on first use: whoever uses one needs torch, and no framework but its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtool.integrations.dumps import GradientDumps as GradientDumps
    from gradtool.integrations.lightning import LightningDumpCallback as LightningDumpCallback
    from gradtool.integrations.trainer import TrainerDumpCallback as TrainerDumpCallback

_HOMES = {
    "GradientDumps": "gradtool.integrations.dumps",
    "LightningDumpCallback": "gradtool.integrations.lightning",
    "TrainerDumpCallback": "gradtool.integrations.trainer",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - drawn from the one table of names


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
