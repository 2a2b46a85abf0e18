"""Where non-finite tensors lie: between which sound ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gradtool.core.measurement import TensorMeasurement


@dataclass(frozen=True, slots=True)
class Bracket:
    """A run of non-finite tensors and the finite tensors next to it.

    A gradient that overflows in one layer spoils those computed after it, so the edge of a
    run is where to look. `before` and `after` are None where the run is at an end.
    """

    before: TensorMeasurement | None
    nonfinite: tuple[TensorMeasurement, ...]
    after: TensorMeasurement | None


def brackets(tensors: Sequence[TensorMeasurement]) -> Iterator[Bracket]:
    """The runs of non-finite tensors among `tensors`, which are as `core.names.ordered` has them.

    An alias names elements that stand elsewhere: it is neither in a run nor next to one.
    """
    stored = [tensor for tensor in tensors if tensor.alias_of is None]
    runs = [
        (bool(nonfinite), tuple(run))
        for nonfinite, run in groupby(stored, lambda tensor: tensor.stats.nonfinite > 0)
    ]
    for at, (nonfinite, run) in enumerate(runs):
        if nonfinite:
            before = runs[at - 1][1][-1] if at else None
            after = runs[at + 1][1][0] if at + 1 < len(runs) else None
            yield Bracket(before, run, after)
