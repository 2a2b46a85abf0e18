"""What measuring a checkpoint gives; every figure of every report is read off here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gradtool.core.checkpoint import Disagreement
from gradtool.core.clipping import TORCH_EPS, clip_coef
from gradtool.core.dtypes import DTYPES, DType, promote
from gradtool.core.figures import counted
from gradtool.core.names import UNGROUPED, group_namer, named, nearest_names, order_name, ordered
from gradtool.core.sections import OTHER
from gradtool.core.shapes.rows import RowMeasurement
from gradtool.core.shapes.strides import unravel
from gradtool.core.stats import TensorStats, merge, norm_of
from gradtool.core.tensors import SectionKind, Skipped, TensorSpec, hides_magnitude
from gradtool.display import Displayed, short_repr
from gradtool.errors import UsageError


@dataclass(frozen=True, slots=True, repr=False)
class TensorMeasurement:
    """One tensor's figures.

    Attributes:
        spec: what and where the tensor is.
        alias_of: the first tensor that names the very same stored elements, if any.
        stats: over the elements that its shape names.
        unique: over the stored elements that no earlier tensor names: what it adds to the
            total, so that shared storage counts once. None where it shares all of them.
        unique_in_section: the same among the tensors of its section.
        norm: by the rules of IEEE and torch, see `TensorStats.norm`.
        native_norm: the norm rounded to the dtype in which torch returns it; None where
            torch has none.
        digest: SHA-256, in hexadecimal digits, over the SHA-256 of each MiB of its elements as
            little-endian bytes in C order: the same however it is stored. None if not asked for.
        rows: figures of each row, in their order; empty if not asked for.
    """

    spec: TensorSpec
    alias_of: str | None
    stats: TensorStats
    unique: TensorStats | None
    unique_in_section: TensorStats | None
    norm: float
    native_norm: float | None
    digest: str | None = None
    rows: tuple[RowMeasurement, ...] = ()

    def __repr__(self) -> str:
        what = f"{self.spec.dtype.name} {list(self.spec.shape)!s:.80}"
        bad = f", {self.stats.nonfinite} not finite" if self.stats.nonfinite else ""
        return short_repr(self, f"{self.name!r:.200}: {what}, norm {self.norm:.12g}{bad}")

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.spec.name

    @property
    def finite_norm(self) -> float:
        """The norm of the finite elements."""
        return self.stats.finite_norm if self.stats.nonfinite else self.norm

    @property
    def rms(self) -> float | None:
        """The root mean square of its elements; see `rms_of`."""
        return rms_of(self.stats)

    @property
    def first_nonfinite(self) -> tuple[int, ...] | None:
        """Index of the first NaN or Inf in C order, or None."""
        first = self.stats.first_nonfinite
        return None if first is None else unravel(first, self.spec.shape)


@dataclass(frozen=True, slots=True, repr=False)
class Summary:
    """Figures of a set of tensors: the total, a section or a group.

    Attributes:
        name: of the section or group; "" for the total and for tensors under no section.
        kind: what a recognised section holds, None otherwise.
        tensors: number of stored tensors, whatever number of names they have.
        stats: over their stored elements, each counted once.
        native_norm: norm of the tensors' native norms, rounded to `native_dtype`: what torch
            sees with sums that do not drift, given each tensor under one name. None where
            torch has no norm for a dtype.
        native_dtype: the promoted dtype of those norms.
        lower_bound: whether gradients may be missing, in a dtype that is skipped.
        has_norm: whether its norm means anything: that of what is in `other` does not.
    """

    name: str
    kind: SectionKind | None
    tensors: int
    stats: TensorStats
    native_norm: float | None
    native_dtype: DType | None
    lower_bound: bool
    has_norm: bool = True

    def __repr__(self) -> str:
        what = f"{self.name!r:.160}: {counted(self.tensors, 'tensor')}, norm {self.norm:.12g}"
        return short_repr(self, what)

    @property
    def norm(self) -> float:
        """The norm over all of them; see `TensorStats.norm`."""
        return self.stats.norm

    @property
    def finite_norm(self) -> float:
        """The norm of the finite elements."""
        return self.stats.finite_norm

    @property
    def rms(self) -> float | None:
        """The root mean square of their elements; see `rms_of`."""
        return rms_of(self.stats)


@dataclass(frozen=True, slots=True, repr=False)
class Measurement(Displayed):
    """A complete measurement of what lies at `path`; none exists for half-read files.

    Attributes:
        path: as the user gave it.
        format: name of the format.
        files: paths of the files read.
        nbytes: their size together, in bytes.
        norm_type: p.
        backend: what computed it, "numpy".
        loss_scale: what every element was divided by before anything else.
        tensors: as the file lists them, aliases included.
        sections: one for each section that occurs, in the order of their first tensors.
        total: over all sections but `other`, and over that where there is nothing else; None where
            they hold different kinds of things, or a model and its average.
        skipped: stored tensors that were not measured, and why.
        notes: what was assumed or deserves a warning, one sentence each.
        elapsed_s: seconds from opening the path to the last figure.
        step: of the training, where the files say it.
        ranks: (rank, number of ranks) of each file whose gradients are split over ranks.
        in_model_order: whether tensors are listed as the model has them.
        essential_notes: those of the notes that are said even where little is.
        replicas: how many further copies of tensors, or of boxes of them, were found equal.
        disagreements: those that were not, as the catalogue lists them.
    """

    path: str
    format: str
    files: tuple[str, ...]
    nbytes: int
    norm_type: float
    backend: str
    loss_scale: float
    tensors: tuple[TensorMeasurement, ...]
    sections: tuple[Summary, ...]
    total: Summary | None
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    elapsed_s: float
    step: int | None = None
    ranks: frozenset[tuple[int, int]] = frozenset()
    in_model_order: bool = False
    essential_notes: tuple[str, ...] = ()
    replicas: int = 0
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def headline(self) -> str:
        """Path, format, and what the tensors come to."""
        total, what = self.total, counted(len(self.tensors), "tensor")
        norm = "no one norm" if total is None else f"L{self.norm_type:g} norm {total.norm:.12g}"
        bad = sum(tensor.stats.nonfinite for tensor in self.tensors)
        ill = f", {bad} elements not finite" if bad else ""
        return f"{self.path!r:.240} ({self.format}): {what}, {norm}{ill}"

    def __getitem__(self, name: str) -> TensorMeasurement:
        """The tensor of that name; KeyError with names that are like it where there is none."""
        return named(self.tensors, name)

    def __contains__(self, name: object) -> bool:
        return any(tensor.name == name for tensor in self.tensors)

    __iter__ = None  # names or tensors? `tensors` are the tensors

    @property
    def in_order(self) -> tuple[TensorMeasurement, ...]:
        """The tensors in the order that tells which are next to each other."""
        return ordered(self.tensors, in_model_order=self.in_model_order)

    @property
    def order(self) -> str:
        """What this order is called after the word "in"."""
        return order_name(in_model_order=self.in_model_order)

    def share(self, tensor: TensorMeasurement) -> float | None:
        """What part of the total's sum of powers is a tensor's, from 0 to 1, without NaN and Inf.

        None where there is no total, nothing in it, or a norm that is no sum.
        """
        total, p = self.total, self.norm_type
        if total is None or not 0.0 < p < math.inf or not 0.0 < total.finite_norm < math.inf:
            return None
        return min(1.0, math.pow(tensor.finite_norm / total.finite_norm, p))

    def grouped(self, group_by: str) -> tuple[Summary, ...]:
        """Figures rolled up by dotted prefix, in the order of their first tensors.

        `group_by` is a depth such as "2" or a pattern such as "layers.#"; see
        `core.names.group_namer`. No group mixes sections. Raises UsageError where it is neither.
        """
        group_of = group_namer(group_by)

        def place(name: str, section: str) -> tuple[str, str]:
            group = group_of(name)
            return section, f"{section}.{group}" if section and group == UNGROUPED else group

        members: dict[tuple[str, str], list[TensorMeasurement]] = {}
        for tensor in self.in_order:
            members.setdefault(place(tensor.name, tensor.spec.section), []).append(tensor)
        if all(name.endswith(UNGROUPED) for _, name in members):
            raise UsageError(
                f"`group_by` {group_by!r} matches no tensor of {self.path}",
                hint=nearest_names(group_by, (tensor.name for tensor in self.tensors)),
            )
        skipped: dict[tuple[str, str], list[Skipped]] = {}
        for item in self.skipped:
            skipped.setdefault(place(item.name, item.section), []).append(item)
        return tuple(
            replace(
                summarize(at[1], None, tensors, skipped.get(at, ()), self.norm_type),
                has_norm=at[0] != OTHER,
            )
            for at, tensors in members.items()
        )

    def clip_coef(self, max_norm: float, eps: float = TORCH_EPS) -> float | None:
        """What clipping to `max_norm` would multiply by; None where there is no one total.

        Raises UsageError for p <= 0: no scaling reaches a norm that counts, or a smallest one.
        """
        if self.norm_type <= 0.0:
            raise UsageError(f"gradients cannot be clipped by a norm of order {self.norm_type:g}")
        return None if self.total is None else clip_coef(self.total.stats.norm, max_norm, eps)


def rms_of(stats: TensorStats) -> float | None:
    """The root mean square, `norm / sqrt(numel)`, of p = 2; None for others and no elements."""
    if stats.norm_type != 2.0 or not stats.numel:
        return None
    return stats.norm / math.sqrt(stats.numel)


def _unique_in_section(tensor: TensorMeasurement) -> TensorStats | None:
    return tensor.unique_in_section


def summarize(
    name: str,
    kind: SectionKind | None,
    tensors: Sequence[TensorMeasurement],
    skipped: Iterable[Skipped],
    norm_type: float,
    unique: Callable[[TensorMeasurement], TensorStats | None] = _unique_in_section,
) -> Summary:
    """The figures of a set of tensors, each stored element counted once."""
    parts = [(tensor, part) for tensor in tensors if (part := unique(tensor)) is not None]
    native_norm, native_dtype = _native_norm([tensor for tensor, _ in parts], norm_type)
    return Summary(
        name=name,
        kind=kind,
        tensors=len(parts),
        stats=replace(merge([part for _, part in parts], norm_type), first_nonfinite=None),
        native_norm=native_norm,
        native_dtype=native_dtype,
        lower_bound=any(map(hides_magnitude, skipped)),
    )


def _native_norm(
    tensors: Sequence[TensorMeasurement], norm_type: float
) -> tuple[float | None, DType | None]:
    dtypes = {tensor.spec.dtype.name: tensor.spec.dtype.norm_dtype for tensor in tensors}
    known = [dtype for dtype in dtypes.values() if dtype is not None]
    if not known or len(known) < len(dtypes):
        return None, None
    promoted = promote(known) or DTYPES["F32"]
    norms = [
        tensor.native_norm
        for tensor in tensors
        if tensor.native_norm is not None and tensor.stats.numel
    ]
    return promoted.round(norm_of(norms, norm_type)), promoted
