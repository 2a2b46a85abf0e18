"""The result of clipping."""

from __future__ import annotations

from dataclasses import dataclass

from gradtool.core.clip.plan import ClipPlan, ClipRequest, one_total
from gradtool.core.measurement import Measurement


@dataclass(frozen=True, slots=True)
class ClipOutcome:
    """What `clip` did, or would do.

    Attributes:
        path: what was clipped, as the user gave it.
        output: path of the result, written or not; None where none was given.
        request: how it was to be clipped.
        plan: what the request does to these gradients.
        before: the gradients as they were read.
        after: the gradients measured on the bytes written; None where nothing was written.
        dry_run: whether nothing was to be written.
        notes: what deserves a warning, one sentence each.
        elapsed_s: seconds from start to end.
    """

    path: str
    output: str | None
    request: ClipRequest
    plan: ClipPlan
    before: Measurement
    after: Measurement | None
    dry_run: bool
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def written(self) -> bool:
        """Whether a file or directory was written."""
        return self.after is not None

    @property
    def clip_coef(self) -> float | None:
        """The factor of all tensors; None where each has its own, or they are clipped by value."""
        return self.plan.clip_coef

    @property
    def norm_before(self) -> float:
        """The norm as read, NaN or infinite where elements are."""
        return one_total(self.before).norm

    @property
    def norm_after(self) -> float | None:
        """The norm of what was written; None where nothing was."""
        return None if self.after is None else one_total(self.after).norm

    @property
    def finite_norm_before(self) -> float:
        """The norm of the finite elements as read."""
        return one_total(self.before).finite_norm

    @property
    def finite_norm_after(self) -> float | None:
        """The norm of the finite elements written; None where nothing was."""
        return None if self.after is None else one_total(self.after).finite_norm

    @property
    def tensors(self) -> int:
        """Number of stored tensors to clip, each counted once whatever names it has."""
        return one_total(self.before).tensors

    @property
    def tensors_changed(self) -> int:
        """Number of stored tensors that are scaled, clamped, or have elements replaced."""
        return self.plan.tensors_changed

    @property
    def nonfinite_replaced(self) -> int:
        """Number of stored NaN and Inf that become 0."""
        return self.plan.nonfinite_replaced
