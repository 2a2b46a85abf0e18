"""What clipping is to do, planned of what has to be measured for it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from gradtool.api.clip.source import Catalogue
from gradtool.core.clip.adaptive import Matched, matched_weights, unit_factors
from gradtool.core.clip.groups import group_of_each
from gradtool.core.clip.plan import ClipPlan, ClipRequest, plan_clip
from gradtool.core.clipping import Units
from gradtool.core.measurement import Measurement
from gradtool.engine.overlaps.conflicts import refuse_shared_between
from gradtool.engine.overlaps.sharing import Overlaps, find_overlaps
from gradtool.engine.progress import Progress
from gradtool.engine.reading.units import unit_norms
from gradtool.request import MeasureRequest


@dataclass(frozen=True, slots=True)
class Planning:
    """What is known of the plan for a catalogue before any tensor is read.

    Attributes:
        catalogue: what is to be clipped by a norm of its own.
        overlaps: those of all that its files hold.
        request: how to clip.
        group_of: the position of each tensor's group by its name; None without groups.
        matched: the weights of each gradient; None unless they are asked for.
    """

    catalogue: Catalogue
    overlaps: Overlaps
    request: ClipRequest
    group_of: Mapping[str, int] | None
    matched: Matched | None

    @classmethod
    def of(cls, one: Catalogue, measuring: MeasureRequest, request: ClipRequest) -> Planning:
        """What is to be known of clipping the tensors of a catalogue.

        Raises UsageError for a group that matches nothing, groups that share elements, and
        gradients without weights, where such are needed.
        """
        overlaps, part = find_overlaps(one.whole), one.part
        group_of = matched = None
        if request.groups:
            patterns = [pattern for pattern, _ in request.groups]
            names = [spec.name for spec in part.tensors]
            group_of = group_of_each(part.path, names, patterns, measuring.bare)
            refuse_shared_between(part.stored, overlaps, group_of)
            # What ranks may turn out to hold as their own is chosen by the name in their files.
            own = (copy for copy in part.replicas if copy.may_differ)
            group_of |= {copy.as_tensor.name: group_of[copy.name] for copy in own}
        if request.agc is not None:
            matched = matched_weights(one.whole, part, measuring.bare)
        return cls(one, overlaps, request, group_of, matched)

    @property
    def nbytes(self) -> int:
        """Bytes to read for norms of units."""
        if self.matched is None:
            return 0
        specs = (*self.matched.gradients.values(), *self.matched.weights.values())
        return sum(spec.nbytes for spec in specs)

    def plan(
        self,
        before: Measurement,
        measuring: MeasureRequest,
        executor: Executor,
        progress: Progress,
    ) -> ClipPlan:
        """The plan, once the gradients to clip are measured."""
        units: dict[str, Units] = {}
        if self.matched is not None:
            progress.begin(self.nbytes)
            runner = measuring.runner(self.catalogue.part, executor, progress)
            p, matched = before.norm_type, self.matched
            norms = unit_norms(matched.gradients, runner, p, before.loss_scale)
            of_weights = unit_norms(matched.weights, runner, p, finite=False)
            units = unit_factors(before.path, matched, norms, of_weights, self.request)
        return plan_clip(before, self.request, self.group_of, units)
