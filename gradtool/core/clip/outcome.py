"""The result of clipping."""

from __future__ import annotations

from dataclasses import dataclass

from gradtool.core.clip.groups import GroupFigures, group_figures
from gradtool.core.clip.plan import ClipPlan, ClipRequest, one_total
from gradtool.core.measurement import Measurement
from gradtool.display import Displayed, short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Clipped:
    """Gradients that were clipped together, or would be: a checkpoint, or one rank by itself.

    Attributes:
        plan: what the request does to these gradients.
        before: the gradients as they were read.
        after: the gradients measured on the bytes written; None where nothing was written.
        rank: whose they are, as users call that, "rank 1"; "" for a whole checkpoint.
    """

    plan: ClipPlan
    before: Measurement
    after: Measurement | None
    rank: str = ""

    def __repr__(self) -> str:
        whose = f"{self.rank} of " if self.rank else ""
        return short_repr(self, f"{whose}{self.before.path!r:.160}: {self.norms}")

    @property
    def norms(self) -> str:
        """The norm before, and after if anything was written."""
        after = "" if self.norm_after is None else f" -> {self.norm_after:.12g}"
        return f"norm {self.norm_before:.12g}{after}"

    @property
    def clip_coef(self) -> float | None:
        """The factor of all tensors; None where each has its own, or they are clipped by value."""
        return self.plan.clip_coef

    @property
    def groups(self) -> tuple[GroupFigures, ...]:
        """What is clipped by a norm of its own, the tensors in no group last."""
        return tuple(group_figures(group, self.before, self.after) for group in self.plan.groups)

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


@dataclass(frozen=True, slots=True, repr=False)
class ClipOutcome(Displayed):
    """What `clip` did, or would do.

    Attributes:
        path: what was clipped, as the user gave it.
        output: path of the result, written or not; None where none was given.
        request: how it was to be clipped.
        parts: what was clipped by a norm of its own: the whole, or with `ranks="each"` each rank.
        dry_run: whether nothing was to be written.
        notes: what deserves a warning, one sentence each.
        elapsed_s: seconds from start to end.
    """

    path: str
    output: str | None
    request: ClipRequest
    parts: tuple[Clipped, ...]
    dry_run: bool
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def headline(self) -> str:
        """What was clipped, by what, and where it went."""
        norms = f"{len(self.ranks)} ranks by their own norms" if self.ranks else self.whole.norms
        where = f" in {self.output!r:.160}" if self.written else ", nothing written"
        changed = f"{self.tensors_changed} of {self.tensors} tensors to change"
        return f"{self.path!r:.160}: {norms}, {changed}{where}"

    @property
    def ranks(self) -> tuple[Clipped, ...]:
        """The ranks, if each was clipped by its own norm."""
        return tuple(part for part in self.parts if part.rank)

    @property
    def whole(self) -> Clipped:
        """The only part; TypeError for ranks that were clipped by themselves."""
        if len(self.parts) != 1:
            raise TypeError("each rank was clipped by its own norm: see `ranks`")
        return self.parts[0]

    @property
    def plan(self) -> ClipPlan:
        """That of the only part; TypeError as for `whole`."""
        return self.whole.plan

    @property
    def before(self) -> Measurement:
        """That of the only part; TypeError as for `whole`."""
        return self.whole.before

    @property
    def after(self) -> Measurement | None:
        """That of the only part; TypeError as for `whole`."""
        return self.whole.after

    @property
    def format(self) -> str:
        """Name of the format or layout: ranks that were clipped by themselves are "ranks"."""
        return "ranks" if self.ranks else self.before.format

    @property
    def norm_type(self) -> float:
        """P of the norms."""
        return self.parts[0].before.norm_type

    @property
    def loss_scale(self) -> float | None:
        """What every element was divided by; None where ranks note different ones."""
        found = {part.before.loss_scale for part in self.parts}
        return found.pop() if len(found) == 1 else None

    @property
    def step(self) -> int | None:
        """Of the training, where files note it, and all the same."""
        found = {part.before.step for part in self.parts}
        return found.pop() if len(found) == 1 else None

    @property
    def written(self) -> bool:
        """Whether a file or directory was written."""
        return all(part.after is not None for part in self.parts)

    @property
    def clip_coef(self) -> float | None:
        """The one factor; None where tensors or ranks have their own, or are clipped by value."""
        return None if self.ranks else self.whole.clip_coef

    @property
    def groups(self) -> tuple[GroupFigures, ...]:
        """See `Clipped`; none where each rank has its own."""
        return () if self.ranks else self.whole.groups

    @property
    def norm_before(self) -> float | None:
        """See `Clipped`; None where each rank has its own."""
        return None if self.ranks else self.whole.norm_before

    @property
    def norm_after(self) -> float | None:
        """See `Clipped`; None where each rank has its own."""
        return None if self.ranks else self.whole.norm_after

    @property
    def finite_norm_before(self) -> float | None:
        """See `Clipped`; None where each rank has its own."""
        return None if self.ranks else self.whole.finite_norm_before

    @property
    def finite_norm_after(self) -> float | None:
        """See `Clipped`; None where each rank has its own."""
        return None if self.ranks else self.whole.finite_norm_after

    @property
    def tensors(self) -> int:
        """Number of stored tensors to clip, each counted once whatever names it has."""
        return sum(part.tensors for part in self.parts)

    @property
    def tensors_changed(self) -> int:
        """Number of stored tensors that are scaled, clamped, or have elements replaced."""
        return sum(part.plan.tensors_changed for part in self.parts)

    @property
    def nonfinite_replaced(self) -> int:
        """Number of stored NaN and Inf that become 0."""
        return sum(part.plan.nonfinite_replaced for part in self.parts)
