"""What a training is told of by the way: in a line of the log, which ends no training."""

from __future__ import annotations

import logging
import operator
from typing import Final

from gradtool.errors import GradtoolError, InputError, UsageError

LOG: Final = logging.getLogger("gradtool")
"""Where a run is told of; without a handler of its own it ends on stderr."""


class Failures:
    """Tells of what fails, and not again for the same reason until something succeeds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: str | None = None

    def tell(self, step: int, error: Exception) -> None:
        """A line of the log, if this is another reason than the last one."""
        # No path in it: that has the number of the step.
        problem = error.problem if isinstance(error, InputError) else str(error)
        if problem != self._told:
            self._told = problem
            LOG.warning("step %s: %s: %s", step, self._what, line_of(error))

    def none(self) -> None:
        """Note that something succeeded."""
        self._told = None


def line_of(error: Exception) -> str:
    """The error in a line; of those that are not gradtool's, what it is too."""
    if isinstance(error, GradtoolError):
        return error.line()
    first = str(error).splitlines()[:1]
    return ": ".join([type(error).__name__, *first])


def positive(name: str, value: int) -> int:
    """A whole number of at least 1; UsageError for anything else."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise UsageError(f"`{name}` must be a whole number, at least 1, not {value!r}")
    return operator.index(value)
