"""What rules look at, and how they say what they found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from gradtool.core.brackets import Bracket, brackets
from gradtool.core.judging.baseline import Baseline
from gradtool.core.judging.rule import Rule, Thresholds
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement, summarize
from gradtool.core.names import NameFilter, every_name
from gradtool.core.tensors import Skipped
from gradtool.errors import GradtoolError
from gradtool.rules.siblings import Kind, kinds_of, peers_of, place_of


@dataclass(frozen=True)
class Evidence:
    """A measured dump, and what of it counts as gradients.

    Where sections of it are recognised, those that hold gradients do, and weights and optimizer
    state do not, unless `section_chosen`: whoever chose a section says what to judge. `baseline`
    is what to compare with, `is_chosen` which names the call's filters let through, and
    `nonfinite_reported`, that NaN and Inf in it are findings already.
    """

    measurement: Measurement
    section_chosen: bool = False
    baseline: Baseline | None = None
    is_chosen: NameFilter = every_name
    nonfinite_reported: bool = False

    def is_reported(self, norm: float) -> bool:
        """Whether what there is to say about a norm has been said: why it is not finite."""
        return self.nonfinite_reported and not math.isfinite(norm)

    @cached_property
    def knows_model(self) -> bool:
        """Whether the baseline, if there is one, has a gradient of these."""
        baseline = self.baseline
        return baseline is None or any(one.name in baseline.tensors for one in self.named_gradients)

    @cached_property
    def is_part_of_baseline(self) -> bool:
        """Whether filters left out tensors of the baseline, whose total is then of others too."""
        return self.baseline is not None and not all(map(self.is_chosen, self.baseline.tensors))

    @cached_property
    def state(self) -> tuple[TensorMeasurement, ...]:
        """What lies beside the gradients, weights and optimizer state say, each tensor once."""
        gradients = {one.name for one in self.named_gradients}
        stored = (one for one in self.measurement.tensors if one.alias_of is None)
        return tuple(one for one in stored if one.name not in gradients)

    @cached_property
    def named_gradients(self) -> tuple[TensorMeasurement, ...]:
        """The gradients, under every name."""
        if (sections := self._sections) is None:
            return self.measurement.tensors
        return tuple(one for one in self.measurement.tensors if one.spec.section in sections)

    @cached_property
    def gradients(self) -> tuple[TensorMeasurement, ...]:
        """The gradients, each once."""
        return tuple(one for one in self.named_gradients if one.alias_of is None)

    @cached_property
    def skipped(self) -> tuple[Skipped, ...]:
        """What is listed beside the gradients and not measured."""
        sections = self._sections
        skipped = self.measurement.skipped
        return tuple(one for one in skipped if sections is None or one.section in sections)

    @cached_property
    def summary(self) -> Summary:
        """The figures of all gradients together."""
        total = self.measurement.total
        if self._sections is None and total is not None:
            return total
        norm_type = self.measurement.norm_type
        return summarize("", None, self.named_gradients, self.skipped, norm_type)

    @cached_property
    def around(self) -> dict[str, Bracket]:
        """For each tensor that is not finite the nearest ones, in the order of tensors, that are.

        What stands in other sections was not computed together with it.
        """
        sections: dict[str, list[TensorMeasurement]] = {}
        for one in self.measurement.in_order:
            sections.setdefault(one.spec.section, []).append(one)
        found = (bracket for tensors in sections.values() for bracket in brackets(tensors))
        return {one.name: bracket for bracket in found for one in bracket.nonfinite}

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """All names of a stored tensor, by the first of them."""
        found: dict[str, list[str]] = {}
        for one in self.measurement.tensors:
            found.setdefault(one.alias_of or one.name, []).append(one.name)
        return found

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each gradient, by its name: itself and its siblings."""
        return kinds_of(self.gradients)

    @cached_property
    def peers(self) -> dict[str, Kind]:
        """Each gradient, by its name, and those with another index in its layer."""
        return peers_of(self.gradients)

    @cached_property
    def layers(self) -> Counter[str]:
        """Names of layers, and how many gradients each has."""
        return Counter(place_of(one.name).layer for one in self.gradients)

    @cached_property
    def _sections(self) -> frozenset[str] | None:
        """Names of the sections whose tensors are gradients; None for all there are."""
        kinds = {section.name: section.kind for section in self.measurement.sections}
        if self.section_chosen or not any(kinds.values()):
            return None
        return frozenset(name for name, kind in kinds.items() if kind == "gradients")


@dataclass(frozen=True, slots=True)
class Problem:
    """What a rule found; the fields are those of `core.verdict.Finding`."""

    message: str
    tensor: str | None = None
    index: tuple[int, ...] | None = None
    value: float | None = None
    limit: float | None = None


class Limits:
    """A rule's thresholds: `dump` for all together, called with a name those for one tensor."""

    def __init__(self, dump: Thresholds, of_tensor: Callable[[str], Thresholds | None]) -> None:
        self.dump = dump
        self._of_tensor = of_tensor

    def __call__(self, tensor: str) -> Thresholds | None:
        """The thresholds for the tensor so named; None where the rule does not judge it."""
        return self._of_tensor(tensor)

    def each(
        self, tensors: Iterable[TensorMeasurement]
    ) -> Iterator[tuple[TensorMeasurement, Thresholds]]:
        """Those of `tensors` that the rule judges, with its thresholds for them."""
        for tensor in tensors:
            thresholds = self(tensor.name)
            if thresholds is not None:
                yield tensor, thresholds


Finder: TypeAlias = Callable[[Evidence, Limits], Iterator[Problem]]


@dataclass(frozen=True, kw_only=True)
class DumpRule(Rule):
    """A rule that judges one dump.

    Attributes:
        find: what is wrong with a measured dump.
        errors: kinds of errors, of a dump that cannot be measured, that are its findings too.
        per_tensor: whether it judges tensors one by one, so that there may be exceptions.
        compares: whether it needs a baseline.
    """

    find: Finder | None = None
    errors: tuple[type[GradtoolError], ...] = ()
    per_tensor: bool = False
    compares: bool = False


def limit(thresholds: Thresholds, name: str) -> float | None:
    """A threshold that is a number; None where it sets no limit."""
    value = thresholds[name]
    return float(value) if isinstance(value, int | float) else None
