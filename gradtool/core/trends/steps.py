"""One step of a run as a row: its verdict, and what of its tensors the row shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradtool.core.judging.verdict import Verdict
from gradtool.core.judging.weights import Weight, share_of
from gradtool.core.measurement import Summary, TensorMeasurement
from gradtool.core.order.frontier import of_all
from gradtool.core.stats import TensorStats


@dataclass(frozen=True, slots=True)
class Breakage:
    """The tensors of a step that are not finite.

    Attributes:
        first: name of the first of them, in the order that tells which tensors are neighbours.
        tensors: how many there are.
        among: of how many.
        in_model_order: whether that order is the model's.
        advice: where to look, if it is all of them; else "".
    """

    first: str
    tensors: int
    among: int
    in_model_order: bool
    advice: str


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of a step, or a group of them: its name, figures and share of the whole."""

    name: str
    stats: TensorStats
    share: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run.

    Attributes:
        verdict: what the policy says of it; it has the step's number, path and total figures.
        breakage: None where all is finite.
        model: a digest of the names and shapes of its gradients; "" where there are none.
        tensors, groups: those that were asked for, in order.
        logged_norm: what the trainer logged as its norm; None where it did not, or no log is given.
    """

    verdict: Verdict
    breakage: Breakage | None = None
    model: str = ""
    tensors: tuple[Part, ...] = ()
    groups: tuple[Part, ...] = ()
    logged_norm: float | None = None

    @property
    def number(self) -> int | None:
        """Of the step, as the dump notes it or else its path."""
        return self.verdict.step

    @property
    def path(self) -> str:
        """Of the dump."""
        return self.verdict.path

    @property
    def label(self) -> str:
        """What to call it: `step 9`, or the path of a dump without a number."""
        return self.path if self.number is None else f"step {self.number}"

    @property
    def total(self) -> Summary | None:
        """The figures of all gradients; None where it could not be read or has none."""
        return self.verdict.summary

    @property
    def top(self) -> Weight | None:
        """The tensor that weighs most; None where none has a norm."""
        return next(iter(self.verdict.heaviest), None)

    @property
    def log_quotient(self) -> float | None:
        """The logged norm by the true one; None where either is not finite, or the latter is 0."""
        return self.quotient_to(None if self.total is None else self.total.norm)

    def quotient_to(self, norm: float | None) -> float | None:
        """The logged norm by another, as `log_quotient`."""
        if self.logged_norm is None or norm is None or not 0.0 < norm < math.inf:
            return None
        quotient = self.logged_norm / norm
        return quotient if math.isfinite(quotient) else None


def step_of(
    verdict: Verdict, gradients: Sequence[TensorMeasurement], model: str, *, in_model_order: bool
) -> Step:
    """The row of a judged dump, whose gradients are `gradients`, each once and in order.

    `model` is a digest of their names and shapes.
    """
    if verdict.summary is None:
        return Step(verdict)
    bad = [tensor for tensor in gradients if tensor.stats.nonfinite]
    breakage = None
    if bad:
        is_all = 1 < len(bad) == len(gradients)
        advice = of_all(bad) if is_all else ""
        breakage = Breakage(bad[0].name, len(bad), len(gradients), in_model_order, advice)
    return Step(
        verdict=verdict,
        breakage=breakage,
        model=model,
    )


def parts_of(named: Iterable[tuple[str, TensorStats]], total: Summary | None) -> tuple[Part, ...]:
    """Tensors or groups, as names and statistics, with their shares of the whole."""
    return tuple(
        Part(name, stats, None if total is None else share_of(stats, total))
        for name, stats in named
    )
