"""The interface of rules that judge one dump: what they are given, and what they give back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, Self, TypeAlias

from gradtool.core.comparing.difference import Difference
from gradtool.core.judging.baseline import Baseline
from gradtool.core.judging.limits import Limits
from gradtool.core.judging.rule import Rule
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement, summarize
from gradtool.core.names import ONLY_WRAPPERS, BareNames, NameFilter, every_name
from gradtool.core.order.frontier import Frontier
from gradtool.core.order.structure import Shape, Structure
from gradtool.core.sections import OTHER
from gradtool.core.tensors import SectionKind, Skipped
from gradtool.errors import GradtoolError
from gradtool.rules.siblings import Kind, by_name

StructureOf: TypeAlias = Callable[[tuple[tuple[str, Shape], ...]], Structure]
"""Makes a structure of names and shapes, or knows it of a dump before."""


@dataclass(frozen=True)
class Evidence:
    """A measured dump as rules see it, with its gradients set apart.

    In a dump with recognised sections only those of gradients count as gradients, not weights,
    optimizer state, or what is neither; if the user chose the section to judge, all tensors count.

    Attributes:
        measurement: the dump.
        section_chosen: whether the user chose a section.
        baseline: to compare with.
        is_chosen: whether a name passes the filters of the call.
        nonfinite_reported: whether NaN and Inf of the dump are findings already.
        bare: names as patterns may have them, too.
        step: of the training, as the dump notes it or else its path; None where neither does.
        difference: of the dump that gradients are to be those of, and this one.
        structure_of: what tells the structure of tensors.
    """

    measurement: Measurement
    section_chosen: bool = False
    baseline: Baseline | None = None
    is_chosen: NameFilter = every_name
    nonfinite_reported: bool = False
    bare: BareNames = ONLY_WRAPPERS
    step: int | None = None
    difference: Difference | None = None
    structure_of: StructureOf = Structure

    def but(self, **changes: Any) -> Self:
        """The same with other fields, and all that was found out of the dump already.

        Not for another dump, nor for what says which of its tensors are gradients.
        """
        changed = replace(self, **changes)
        known = vars(self).keys() - {one.name for one in fields(self)} - _OF_BASELINES
        vars(changed).update({name: vars(self)[name] for name in known})
        return changed

    def is_reported(self, norm: float) -> bool:
        """Whether `norm` is not finite, and the reason for that is a finding already."""
        return self.nonfinite_reported and not math.isfinite(norm)

    @cached_property
    def baseline_fits(self) -> bool:
        """Whether any gradient of the dump is in the baseline; true without a baseline."""
        if (baseline := self.baseline) is None:
            return True
        return any(tensor.name in baseline.tensors for tensor in self.named_gradients)

    @cached_property
    def lacks_baseline_tensors(self) -> bool:
        """Whether filters leave out tensors that are part of the baseline's total norm."""
        return self.baseline is not None and not all(map(self.is_chosen, self.baseline.tensors))

    @cached_property
    def state(self) -> tuple[TensorMeasurement, ...]:
        """The stored tensors that are weights or optimizer state; nothing is known of others."""
        if self._sections is None:
            return ()  # all are gradients
        gradients = {tensor.name for tensor in self.named_gradients}
        stored = (tensor for tensor in self.measurement.in_order if tensor.alias_of is None)
        return tuple(
            tensor
            for tensor in stored
            if tensor.name not in gradients and tensor.spec.section != OTHER
        )

    @cached_property
    def others(self) -> tuple[TensorMeasurement, ...]:
        """The stored tensors that are neither gradients, weights nor moments."""
        if self._sections is None:
            return ()
        gradients = {tensor.name for tensor in self.named_gradients}
        return tuple(
            tensor
            for tensor in self.measurement.tensors
            if tensor.spec.section == OTHER
            and tensor.alias_of is None
            and tensor.name not in gradients
        )

    @cached_property
    def state_by_kind(self) -> dict[SectionKind, list[TensorMeasurement]]:
        """The weights and the optimizer's moments."""
        kinds = {section.name: section.kind for section in self.measurement.sections}
        found: dict[SectionKind, list[TensorMeasurement]] = {}
        for tensor in self.state:
            if (kind := kinds[tensor.spec.section]) is not None:
                found.setdefault(kind, []).append(tensor)
        return found

    @property
    def has_only_state(self) -> bool:
        """Whether it holds weights or moments, and no gradient: no dump, but a checkpoint."""
        return not self.gradients and bool(self.state_by_kind)

    @cached_property
    def named_gradients(self) -> tuple[TensorMeasurement, ...]:
        """The gradients under all their names: one that has several comes several times."""
        tensors = self.measurement.in_order
        if (sections := self._sections) is None:
            return tensors
        return tuple(tensor for tensor in tensors if tensor.spec.section in sections)

    @cached_property
    def gradients(self) -> tuple[TensorMeasurement, ...]:
        """The gradients, each once, under its first name."""
        return tuple(tensor for tensor in self.named_gradients if tensor.alias_of is None)

    @cached_property
    def skipped(self) -> tuple[Skipped, ...]:
        """The tensors that are not measured in the sections of the gradients."""
        sections = self._sections
        skipped = self.measurement.skipped
        return tuple(item for item in skipped if sections is None or item.section in sections)

    @cached_property
    def summary(self) -> Summary:
        """The figures of all gradients together."""
        total = self.measurement.total
        if self._sections is None and total is not None:
            return total
        norm_type = self.measurement.norm_type
        return summarize("", None, self.named_gradients, self.skipped, norm_type)

    @cached_property
    def frontiers(self) -> dict[str, Frontier]:
        """For each section, where its tensors stop being finite.

        Those of two sections were not computed one after the other.
        """
        sections: dict[str, list[TensorMeasurement]] = {}
        for tensor in self.measurement.in_order:
            sections.setdefault(tensor.spec.section, []).append(tensor)
        in_model_order = self.measurement.in_model_order
        return {name: Frontier(tensors, in_model_order) for name, tensors in sections.items()}

    @cached_property
    def by_name(self) -> dict[str, TensorMeasurement]:
        """All measured tensors by their names."""
        return {tensor.name: tensor for tensor in self.measurement.tensors}

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """All names of each stored tensor, as they are and as they are matched, by the first."""
        names: dict[str, list[str]] = {}
        for tensor in self.measurement.tensors:
            forms = self.bare.forms(tensor.name)
            names.setdefault(tensor.alias_of or tensor.name, []).extend(forms)
        return names

    @cached_property
    def names_by_noun(self) -> dict[str, frozenset[str]]:
        """The names of all gradients, of all weights and of all moments, under what one is."""
        nouns: dict[SectionKind, str] = {"weights": "weight", "optimizer": "optimizer state"}
        kinds = {nouns[kind]: tensors for kind, tensors in self.state_by_kind.items()}
        everything = {"gradient": self.gradients, **kinds}
        return {
            noun: frozenset(tensor.name for tensor in tensors)
            for noun, tensors in everything.items()
        }

    @cached_property
    def structure(self) -> Structure:
        """What the names of the gradients, each once, tell of layers."""
        return self._structure(self.gradients)

    @cached_property
    def named_structure(self) -> Structure:
        """What the names of the gradients tell, under all their names."""
        has_aliases = len(self.named_gradients) > len(self.gradients)
        return self._structure(self.named_gradients) if has_aliases else self.structure

    def _structure(self, tensors: Iterable[TensorMeasurement]) -> Structure:
        return self.structure_of(tuple((one.spec.name, one.spec.shape) for one in tensors))

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """For each gradient's name, it and its siblings in other layers."""
        return by_name(self.structure.kinds, self.gradients)

    @cached_property
    def peers(self) -> dict[str, Kind]:
        """For each gradient's name, it and those in its layer with another index, as experts."""
        return by_name(self.structure.peers, self.gradients)

    @cached_property
    def blocks(self) -> dict[str, Kind]:
        """For each gradient's name in a block of a stage, it and those of the other blocks."""
        return by_name(self.structure.blocks, self.gradients)

    @cached_property
    def layers(self) -> Counter[str]:
        """The number of gradients in each layer, by its name."""
        return Counter(split.layer for split in self.structure.splits)

    @cached_property
    def _sections(self) -> frozenset[str] | None:
        """Names of the sections whose tensors count as gradients; None for all sections."""
        kinds = {section.name: section.kind for section in self.measurement.sections}
        if self.section_chosen or not (any(kinds.values()) or OTHER in kinds):
            return None
        # A file of which nothing tells what it holds is a dump, alone and beside others.
        return frozenset(
            name for name, kind in kinds.items() if kind in ("gradients", None) and name != OTHER
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """What a rule finds wrong; the fields are those of `core.judging.verdict.Finding`, and these.

    Attributes:
        is_whole: whether it is about all elements of the tensor, or some; None where it is about
            no elements.
        also: names of other tensors that it is about.
        alike: what this tensor is where that is not what the rule says of all: see `DumpRule`.
    """

    message: str
    tensor: str | None = None
    index: tuple[int, ...] | None = None
    value: float | None = None
    limit: float | None = None
    is_whole: bool | None = None
    also: tuple[str, ...] = ()
    alike: str = ""


_OF_BASELINES: Final = frozenset({"baseline_fits", "lacks_baseline_tensors"})

Finder: TypeAlias = Callable[[Evidence, Limits], Iterator[Problem]]

OneFault: TypeAlias = Callable[[Evidence, Collection[str]], bool]
"""Whether what is wrong with the tensors of these names is one fault."""

Ending: TypeAlias = Callable[[Evidence, Sequence[Problem]], str]
"""What is said at the end of a finding about several tensors, from its punctuation on."""


@dataclass(frozen=True, kw_only=True)
class DumpRule(Rule):
    """A rule that judges one dump.

    Attributes:
        find: finds what is wrong with a measured dump.
        errors: the errors, raised for a dump that cannot be measured, that are its findings.
        per_tensor: whether it judges tensors one by one, so that overrides may except some.
        needs_baseline: whether it compares the dump with a baseline.
        alike: what tensors that it finds are, in the words after "are": findings about several
            become one that says this of all of them. Empty for a rule that judges no tensors.
        ending: what such a finding ends with; without one it names the tensor that is worst.
        is_one_fault: whether tensors that no one pattern stands for are told together, because
            what is wrong with one spreads to the next.
        yields_to: codes of the rules that say more of a tensor: where one of them names it, this
            one does not.
    """

    find: Finder | None = None
    errors: tuple[type[GradtoolError], ...] = ()
    per_tensor: bool = False
    needs_baseline: bool = False
    alike: str = ""
    ending: Ending | None = None
    is_one_fault: OneFault | None = None
    yields_to: frozenset[str] = frozenset()
