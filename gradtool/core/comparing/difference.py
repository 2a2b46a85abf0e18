"""What comparing two dumps gives; every figure of every report is read off here."""

from __future__ import annotations

from dataclasses import dataclass

from gradtool.core.comparing.conclusion import DEAD_SIDES, Conclusion
from gradtool.core.comparing.distance import Distance, Number
from gradtool.core.comparing.others import OtherDifference
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.comparing.tolerances import PatternTolerance
from gradtool.core.names import named
from gradtool.core.shapes.strides import unravel
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.display import Displayed, short_repr


@dataclass(frozen=True, slots=True)
class DumpSide:
    """One of the two dumps.

    Attributes:
        path, format, files, nbytes, step: as of a `Measurement`.
        loss_scale: what its elements were divided by.
        skipped: stored tensors that are no gradients, and why; see `Difference.others`.
        notes: what was assumed while it was read, one sentence each.
    """

    path: str
    format: str
    files: tuple[str, ...]
    nbytes: int
    loss_scale: float
    step: int | None
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class TensorDifference:
    """Two tensors that pair, and how far apart they are.

    Attributes:
        a, b: what they are; `b` as it was compared, transposed if that was asked for.
        distance: of all elements; None where elements cannot be compared.
        tolerance: what was allowed.
        loss_scale: what both distances and elements are still to be divided by.
    """

    a: TensorSpec
    b: TensorSpec
    distance: Distance | None
    tolerance: Tolerance
    loss_scale: float = 1.0

    def __repr__(self) -> str:
        told = "identical" if self.identical else "the same" if self.same else "not the same"
        away = "" if self.rel_l2 is None else f", rel_l2 {self.rel_l2:.12g}"
        return short_repr(self, f"{self.name!r:.240}: {self.problem or told}{away}")

    @property
    def name(self) -> str:
        """The tensor's name in the first dump."""
        return self.a.name

    @property
    def problem(self) -> str | None:
        """Why elements cannot be compared; None if they can."""
        if self.a.shape != self.b.shape:
            return "shapes differ"
        if self.a.dtype.kind != self.b.dtype.kind:
            return f"{self.a.dtype.kind} against {self.b.dtype.kind}"
        return None

    @property
    def identical(self) -> bool:
        """Whether all elements have the same bits, in one dtype."""
        found = self.distance
        return found is not None and not found.differing and self.has_one_dtype

    @property
    def has_one_dtype(self) -> bool:
        """Whether both are of the same dtype."""
        return self.a.dtype is self.b.dtype or self.a.dtype == self.b.dtype

    @property
    def same(self) -> bool:
        """Whether they are the same within the tolerance."""
        found, tolerance = self.distance, self.tolerance
        if found is None:
            return False
        if self.identical:
            return True
        if found.outside or tolerance.is_exact:
            return False
        if tolerance.max_rel_l2 is None:
            return True
        relative = found.rel_l2
        return not found.largest if relative is None else relative <= tolerance.max_rel_l2

    @property
    def differing(self) -> int | None:
        """How many elements differ."""
        return None if self.distance is None else self.distance.differing

    @property
    def first_differing(self) -> tuple[int, ...] | None:
        """Index of the first of them in C order."""
        if self.distance is None or not self.distance.samples:
            return None
        return unravel(self.distance.samples[0].position, self.a.shape)

    @property
    def first_values(self) -> tuple[Number, Number] | None:
        """Both numbers there."""
        if self.distance is None or not self.distance.samples:
            return None
        first = self.distance.samples[0]
        return self._true(first.a), self._true(first.b)

    @property
    def max_abs_diff(self) -> float | None:
        """The largest `|b - a|` of finite elements."""
        if self.distance is None:
            return None
        largest = self.distance.largest
        return 0.0 if largest is None else largest.distance / self.loss_scale

    @property
    def max_abs_diff_at(self) -> tuple[int, ...] | None:
        """Its index; None where no two finite elements are apart."""
        if self.distance is None or self.distance.largest is None:
            return None
        return unravel(self.distance.largest.position, self.a.shape)

    @property
    def max_abs_diff_values(self) -> tuple[Number, Number] | None:
        """Both numbers there."""
        if self.distance is None or self.distance.largest is None:
            return None
        largest = self.distance.largest
        return self._true(largest.a), self._true(largest.b)

    @property
    def rel_l2(self) -> float | None:
        """`|b - a| / |a|`."""
        return None if self.distance is None else self.distance.rel_l2

    @property
    def cosine(self) -> float | None:
        """Of the angle between both."""
        return None if self.distance is None else self.distance.cosine

    @property
    def norm_ratio(self) -> float | None:
        """`|b| / |a|`."""
        return None if self.distance is None else self.distance.norm_ratio

    @property
    def best_scale(self) -> float | None:
        """The s for which `s a` is nearest to b."""
        return None if self.distance is None else self.distance.best_scale

    @property
    def rel_l2_scaled(self) -> float | None:
        """`|b - s a| / |s a|` for that s."""
        return None if self.distance is None else self.distance.rel_l2_scaled

    @property
    def stats(self) -> tuple[TensorStats, TensorStats] | None:
        """The statistics of both sides, without loss scales; None if none were made."""
        if self.distance is None:
            return None
        scale = self.loss_scale
        return self.distance.a.divided(scale), self.distance.b.divided(scale)

    @property
    def opposite_signs(self) -> int | None:
        """Elements of opposite signs; None for complex ones."""
        if self.distance is None or self.a.dtype.component is not None:
            return None
        return self.distance.opposite_signs

    @property
    def max_ulps(self) -> int | None:
        """How many numbers of the dtype elements are apart, at most; None of two dtypes."""
        is_of_one_type = self.a.dtype == self.b.dtype
        return self.distance.max_ulps if self.distance and is_of_one_type else None

    @property
    def equal_when_rounded(self) -> bool | None:
        """Of two dtypes whether all elements agree, rounded to the narrower one."""
        if self.distance is None or self.a.dtype == self.b.dtype:
            return None
        return not self.distance.rounded_apart

    def _true(self, number: Number) -> Number:
        return number / self.loss_scale if self.loss_scale != 1.0 else number


@dataclass(frozen=True, slots=True, repr=False)
class Difference(Displayed):
    """What two dumps have in common and what not; true if they are the same.

    Attributes:
        a, b: the dumps; `a` is the reference.
        tensors: all pairs, in the order of `a`.
        others: all pairs of integers, bools and scales that both dumps hold.
        only_in_a, only_in_b: names that do not pair.
        not_compared: what both dumps hold under one name and nothing here reads, quantized say:
            it may differ, and the dumps are not told to be the same.
        in_model_order: whether that order is the model's, as `a` lists it.
        tolerance: what was allowed, unless by name.
        diagnosis: what the figures say together.
        notes: what was assumed in pairing names, one sentence each.
        backend: what computed the figures.
        elapsed_s: seconds from opening the paths to the last figure.
        tolerances: what was allowed of which names, the first that fits; empty if not by name.
        config: path of the configuration that these are from.
    """

    a: DumpSide
    b: DumpSide
    tensors: tuple[TensorDifference, ...]
    others: tuple[OtherDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    in_model_order: bool
    tolerance: Tolerance
    diagnosis: tuple[Conclusion, ...]
    notes: tuple[str, ...]
    backend: str
    elapsed_s: float
    tolerances: tuple[PatternTolerance, ...] = ()
    config: str | None = None
    not_compared: tuple[Skipped, ...] = ()

    def __bool__(self) -> bool:
        return self.same

    @property
    def headline(self) -> str:
        """Both paths, and what is between them."""
        apart = [tensor.name for tensor in self.tensors if not tensor.same]
        told = "identical" if self.identical else "the same within the tolerance"
        if not self.same:
            first = f", {apart[0]!r:.80} the first" if apart else ""
            told = f"not the same: {len(apart)} of {len(self.tensors)} tensors differ{first}"
        return f"{self.a.path!r:.100} and {self.b.path!r:.100}: {told}"

    def __getitem__(self, name: str) -> TensorDifference:
        """The pair whose tensor in `a` has that name; KeyError with names like it for none."""
        return named(self.tensors, name)

    def __contains__(self, name: object) -> bool:
        return any(tensor.name == name for tensor in self.tensors)

    __iter__ = None  # as of a `Measurement`

    @property
    def identical(self) -> bool:
        """Whether both have the same tensors, bit by bit."""
        return self._rest_agrees and all(tensor.identical for tensor in self.tensors)

    @property
    def same(self) -> bool:
        """Whether both have the same tensors within the tolerance, and not only zeros."""
        dead = any(one.code == DEAD_SIDES for one in self.diagnosis)
        return self._rest_agrees and not dead and all(tensor.same for tensor in self.tensors)

    @property
    def _rest_agrees(self) -> bool:
        """Whether all pair and are compared, and what is no gradient has the same bits."""
        unknown = self.only_in_a or self.only_in_b or self.not_compared
        return not unknown and all(one.identical for one in self.others)

    @property
    def first_difference(self) -> str | None:
        """Name of the first tensor that is not the same, in the order of `a`; None if all are."""
        return next((tensor.name for tensor in self.tensors if not tensor.same), None)
