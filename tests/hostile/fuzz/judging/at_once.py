"""An executor for measuring in the caller's own thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.progress import whole_progress
from gradtool.engine.schedule import Runner


class AtOnce(Executor):
    """Runs everything when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """What `fn` returns, in a future that is done."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def alone() -> Runner:
    """Who measures in the caller's own thread."""
    return Runner(AtOnce(), 1, NUMPY, whole_progress(None))
