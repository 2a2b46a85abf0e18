"""What a checkpoint is once its headers are read: the catalogue of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from gradtool.core.locations import Location
from gradtool.core.scale_names import scales_among
from gradtool.core.sections import OTHER, InSection, section_filter
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import (
    Placed,
    Replica,
    SectionKind,
    SerializationId,
    Skipped,
    StoredChecksum,
    TensorSpec,
)

RanksMode: TypeAlias = Literal["auto", "shard", "replica", "each"]
"""What the files of several ranks are to each other; `auto` where their metadata or bytes say."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A catalogue of what lies at `path`.

    Attributes:
        path: as the user gave it.
        format: the name of the format or layout, as in FILES and LAYOUTS.
        files: every file that was read for the catalogue.
        tensors: as the file lists them.
        replicas: further copies of them, which count in no total.
        skipped: stored tensors that no norm is made of (integers, scales), listed alike.
        section_kinds: what each recognised section holds.
        checksums: checksums over tensor data and over what is made of checksums.
        serialization_ids: what torch files make of those.
        loss_scale: what the file says that gradients are multiplied by; None where files differ.
        step: of the training, as the file says; None where it does not, or files differ.
        writer: rank of the process that wrote it, and their number, as the file says.
        ranks: (rank, number of ranks) of each file whose gradients are split over ranks.
        placed: of a file that says which boxes of larger tensors it holds, the box of each of its
            tensors by name, skipped ones included.
        is_dump: whether it says of itself that it holds gradients.
        notes: what was assumed while reading, one sentence each.
        essential_notes: those without which figures would be misread, which are said in any case.
        part_notes: the same of parts of tensors, until these are put together.
        measure_only: why nothing in it can be clipped, what or which it is first; "" if it can.
        in_model_order: whether tensors are listed as the model has them; see `core.names.ordered`.
        left_out, skipped_left_out: names of what would be among `tensors` and `skipped`, and was
            not asked for.
        fp8: names of the fp8 tensors, left out or not, beside which scales lie.
    """

    path: str
    format: str
    files: tuple[Location, ...]
    tensors: tuple[TensorSpec, ...]
    skipped: tuple[Skipped, ...] = ()
    section_kinds: dict[str, SectionKind] = field(default_factory=dict)
    checksums: tuple[StoredChecksum, ...] = ()
    serialization_ids: tuple[SerializationId, ...] = ()
    loss_scale: float | None = 1.0
    step: int | None = None
    writer: tuple[int, int] | None = None
    ranks: frozenset[tuple[int, int]] = frozenset()
    placed: dict[str, Placed] = field(default_factory=dict)
    is_dump: bool = False
    notes: tuple[str, ...] = ()
    essential_notes: tuple[str, ...] = ()
    part_notes: tuple[str, ...] = ()
    measure_only: str = ""
    in_model_order: bool = False
    left_out: tuple[str, ...] = ()
    skipped_left_out: tuple[str, ...] = ()
    replicas: tuple[Replica, ...] = ()
    fp8: frozenset[str] = frozenset()

    @property
    def nbytes(self) -> int:
        """Size of all files together, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def stored(self) -> tuple[TensorSpec, ...]:
        """What is stored of all tensors in one piece each, in their order."""
        return tuple(part for spec in self.tensors for part in spec.parts)

    @property
    def stored_anywhere(self) -> tuple[TensorSpec, ...]:
        """The same, and after that what is stored of all replicas."""
        copies = (part for replica in self.replicas for part in replica.stored.parts)
        return (*self.stored, *copies)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that the files hold, listed or left out."""
        listed = (*(spec.name for spec in self.tensors), *(item.name for item in self.skipped))
        return (*listed, *self.left_out, *self.skipped_left_out)

    def narrowed(self, keep: Callable[[TensorSpec | Replica | Skipped], bool]) -> Checkpoint:
        """The catalogue of those tensors, copies and skipped ones that `keep` holds for."""
        return replace(
            self,
            tensors=tuple(filter(keep, self.tensors)),
            replicas=tuple(filter(keep, self.replicas)),
            skipped=tuple(filter(keep, self.skipped)),
        )

    def in_sections(
        self, section_of: Callable[[InSection], str], kinds: dict[str, SectionKind]
    ) -> Checkpoint:
        """The catalogue with everything in the section given for it, and these kinds of them."""
        return replace(
            self,
            tensors=tuple(spec.in_section(section_of(spec)) for spec in self.tensors),
            replicas=tuple(
                replace(copy, stored=copy.stored.in_section(section_of(copy.stored)))
                for copy in self.replicas
            ),
            skipped=tuple(replace(item, section=section_of(item)) for item in self.skipped),
            section_kinds=kinds,
        )

    def section_filter(self, section: str | None) -> Callable[[InSection], bool]:
        """Whether something is in the section that is asked for, if one is."""
        if section is None:
            return lambda _: True
        known = {spec.section for spec in self.tensors} | {item.section for item in self.skipped}
        return section_filter(section, {*self.section_kinds, *known, OTHER})

    def without_others(self) -> Checkpoint:
        """The catalogue without what is neither gradient, weight nor moment, unless it is all."""
        if all(spec.section == OTHER for spec in self.tensors):
            return self
        return self.narrowed(lambda item: item.section != OTHER)

    def with_ranks_apart(self, names: Collection[str]) -> Checkpoint:
        """The catalogue with those copies that are tensors of their own under their own `names`."""
        if not any(copy.may_differ for copy in self.replicas):
            return self
        return replace(
            self,
            replicas=tuple(
                replace(copy, stored=copy.as_tensor)
                if copy.may_differ and copy.as_tensor.name in names
                else copy
                for copy in self.replicas
            ),
        )

    def with_scales_apart(self) -> Checkpoint:
        """The catalogue of all that is there, the scales of its fp8 tensors as `other`."""
        return self.with_scales_of(
            frozenset(spec.name for spec in self.tensors if spec.dtype.is_fp8)
        )

    def with_scales_of(self, fp8: frozenset[str]) -> Checkpoint:
        """The catalogue, in which fp8 tensors have these names, with their scales as `other`."""
        if not fp8:
            return self
        listed: tuple[TensorSpec | Skipped, ...] = (*self.tensors, *self.skipped)
        scales = scales_among((item.name for item in listed), fp8)
        return replace(
            self,
            fp8=fp8,
            tensors=tuple(
                spec.in_section(OTHER) if spec.name in scales else spec for spec in self.tensors
            ),
            replicas=tuple(
                replace(copy, stored=copy.stored.in_section(OTHER)) if copy.name in scales else copy
                for copy in self.replicas
            ),
            skipped=tuple(
                replace(item, section=OTHER) if item.name in scales else item
                for item in self.skipped
            ),
        )


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A copy of a tensor, or of a box of it, that has other bytes.

    Attributes:
        name: the tensor's.
        rank: who holds the copy, as users call that.
        first: index, in the tensor's shape, of the first element in C order that differs.
        differing: how many elements of the copy differ.
        stats: over the elements of the copy; positions count from its own first element.
        is_assumed: whether nothing but names and shapes said that it is a copy.
    """

    name: str
    rank: str
    first: tuple[int, ...]
    differing: int
    stats: TensorStats
    is_assumed: bool = False
