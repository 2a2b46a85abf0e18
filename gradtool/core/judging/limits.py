"""The thresholds of a rule, as it asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from gradtool.core.judging.rule import Thresholds
from gradtool.core.measurement import TensorMeasurement


class Limits:
    """A rule's thresholds: `limits.dump` for the whole dump, `limits(name)` for one tensor.

    `of_tensor` is None where they are the same for all tensors.
    """

    def __init__(
        self, dump: Thresholds, of_tensor: Callable[[str], Thresholds | None] | None
    ) -> None:
        self.dump = dump
        self._of_tensor = of_tensor

    def __call__(self, tensor: str) -> Thresholds | None:
        """The thresholds for the tensor of that name; None if the rule does not judge it."""
        return self.dump if self._of_tensor is None else self._of_tensor(tensor)

    def each(
        self, tensors: Iterable[TensorMeasurement]
    ) -> Iterator[tuple[TensorMeasurement, Thresholds]]:
        """Each of `tensors` that the rule judges, with the thresholds for it."""
        for tensor in tensors:
            thresholds = self(tensor.name)
            if thresholds is not None:
                yield tensor, thresholds

    def runs(
        self, tensors: Sequence[TensorMeasurement]
    ) -> Iterator[tuple[Sequence[TensorMeasurement], Thresholds]]:
        """The same, for all those in a row that have the same thresholds at once."""
        if self._of_tensor is None:
            yield tensors, self.dump
            return
        for tensor, thresholds in self.each(tensors):
            yield (tensor,), thresholds


def limit(thresholds: Thresholds, name: str) -> float | None:
    """The numeric threshold `name`; None where it sets no limit."""
    value = thresholds[name]
    return float(value) if isinstance(value, int | float) else None
