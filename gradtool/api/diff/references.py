"""The dump that others are to be the same as, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradtool.api.diff.comparison import SIDES, Side, Terms, compare, opened_side
from gradtool.api.diff.tolerances import tolerances_of
from gradtool.core.comparing.difference import Difference
from gradtool.core.comparing.tolerances import Tolerances
from gradtool.core.judging.policy import Policy
from gradtool.engine.progress import Progress
from gradtool.request import MeasureRequest
from gradtool.rules.config_file import Config
from gradtool.rules.reference import DIFFERS


@dataclass(frozen=True, slots=True)
class Reference:
    """A dump that is open, and what may differ from it."""

    side: Side
    allowed: Tolerances

    @property
    def path(self) -> str:
        """Where it lies."""
        return self.side.checkpoint.path

    def beside(
        self, source: object, request: MeasureRequest, progress: Sequence[Progress]
    ) -> Difference:
        """How another dump differs from it; names that do not pair are differences."""
        terms = Terms(request, self.allowed, must_pair=False)
        return compare(self.side, opened_side(source, SIDES[1], request), terms, progress)


def reference_of(
    source: Any, policy: Policy, config: Config, request: MeasureRequest
) -> Reference | None:
    """The dump `against` which others are judged, by the thresholds of the rule in force; or None.

    Where these set no bound, those of the configuration for `diff` hold. Raises what `measure` does
    for a dump that cannot be read.
    """
    if source is None or DIFFERS not in policy.rules:
        return None
    thresholds = policy.rules[DIFFERS].thresholds
    allowed, _ = tolerances_of({**thresholds, "ulps": None}, (), config, equal_nan=False)
    return Reference(opened_side(source, SIDES[0], request), allowed)
