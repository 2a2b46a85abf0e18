"""Being told when a backward pass has left its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Variable

_ENGINE: Final[Any] = Variable._execution_engine


class BackwardWatch:
    """Calls `call` whenever a backward pass has put gradients into any of `parameters`.

    It is called inside of `backward()`, after all gradients of this pass are there, summed over
    the ranks where DDP or FSDP2 does that: they do it in callbacks that the autograd engine runs
    at the end of a pass, and so is this one, queued from among these so that it comes last.
    What it raises comes out of `backward()`.

    A pass inside another one (reentrant checkpointing) has an end of its own, and the outer one
    calls again.
    """

    def __init__(self, parameters: Iterable[Tensor], call: Callable[[], None]) -> None:
        self._call = call
        self._passes: set[int] = set()
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for parameter in parameters
            if parameter.requires_grad
        ]

    def stop(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _accumulated(self, _parameter: Tensor) -> None:
        # The number of a pass, and no flag: a pass that raises ends without its callbacks.
        running = torch._C._current_graph_task_id()
        if running not in self._passes:
            self._passes.add(running)
            _ENGINE.queue_callback(partial(self._all_accumulated, running))

    def _all_accumulated(self, running: int) -> None:
        # DDP's own callback may have been queued after this one.
        _ENGINE.queue_callback(partial(self._ended, running))

    def _ended(self, running: int) -> None:
        self._passes.discard(running)
        self._call()
