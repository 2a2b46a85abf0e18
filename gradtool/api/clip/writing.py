"""A planned clip carried out: all of it is written, measured, and only then put in place."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from gradtool.api.clip.plans import Planning
from gradtool.api.clip.source import Catalogue, Source, catalogues
from gradtool.core.clip.groups import notes_on_groups
from gradtool.core.clip.plan import ClipPlan, ClipRequest, one_total
from gradtool.core.locations import Location
from gradtool.core.measurement import Measurement
from gradtool.engine.overlaps.sharing import find_overlaps
from gradtool.engine.progress import Progress
from gradtool.engine.threads import Threads
from gradtool.engine.writing.build import build, check_sources, files_to_write
from gradtool.engine.writing.rewrite import Rewrite, plan_rewrite
from gradtool.request import MeasureRequest, agreed, measured
from gradtool.storage.copying import Companions
from gradtool.storage.target import Target
from gradtool.storage.workspace import Workspace, writing


class Place(NamedTuple):
    """What results are made of, where they go, and what is copied along with a directory."""

    source: Source
    target: Target
    companions: Companions | None

    def sizes(self, written: Collection[Location]) -> list[int]:
        """Bytes of each file to write and to copy; refuses what is not copied."""
        copied = [] if self.companions is None else self.companions.sizes(written)
        return [*(file.size for file in written), *copied]


def place_for(
    source: Source, target: Target, files: Collection[Location], *, follow_links: bool
) -> Place:
    """The place for what is made of the `files` of all catalogues."""
    companions = None
    if target.is_directory:
        companions = Companions(
            target.source,
            files,
            base=source.path,
            chosen=source.chosen,
            follow_links=follow_links,
        )
    return Place(source, target, companions)


class Planned(NamedTuple):
    """A catalogue as it is measured, and what is to become of it."""

    catalogue: Catalogue
    before: Measurement
    plan: ClipPlan
    rewrite: Rewrite

    @property
    def notes(self) -> list[str]:
        """What is to be said before anything is written."""
        notes = (*self.before.notes, *notes_on_groups(self.plan.groups))
        return list(map(self.named, notes))

    def named(self, note: str) -> str:
        """A note, with the rank that it is about."""
        return f"{self.catalogue.rank}: {note}" if self.catalogue.rank else note


def planned_clip(
    planning: Planning,
    measuring: MeasureRequest,
    executor: Executor,
    progress: Progress,
    of_units: Progress,
) -> Planned:
    """The measurement and the plan; refuses what is not to be clipped."""
    started = time.perf_counter()
    one, overlaps = planning.catalogue, planning.overlaps
    before = agreed(measured(one.part, measuring, executor, progress, started, overlaps))
    plan = planning.plan(before, measuring, executor, of_units)
    whole = one.whole.with_ranks_apart({tensor.name for tensor in before.tensors})
    if whole is not one.whole:
        overlaps = find_overlaps(whole)
    return Planned(one, before, plan, plan_rewrite(whole, plan, overlaps))


def write(
    measuring: MeasureRequest,
    request: ClipRequest,
    planned: Sequence[Planned],
    place: Place,
    executor: Executor,
    stages: Sequence[Progress],
) -> tuple[list[Measurement], tuple[str, ...]]:
    """Write, measure what was written, and only then put it in place; what is to be said of it."""
    source, target, companions = place
    rewrites = [one.rewrite for one in planned]
    files = files_to_write(rewrites, companions)
    largest = max((rewrite.checkpoint for rewrite in rewrites), key=attrgetter("nbytes"))
    with Workspace(target.path, target.shown, target.parent) as workspace, writing(target.shown):
        workspace.require_space(place.sizes(files))
        runner = measuring.runner(largest, executor, stages[0])
        built = build(rewrites, companions, workspace, runner)
        with workspace.readable(built.name) as path, Threads(1) as syncing:
            synced = syncing.submit(built.sync)
            found = catalogues(source.within(path), measuring, request)
            built.check_read([file for one in found for file in one.whole.files], path)
            after = [
                measured(one.part, measuring, executor, stage, time.perf_counter())
                for one, stage in zip(found, stages[1:], strict=True)
            ]
            synced.result()
        built.finish(workspace)
        check_sources(rewrites)
        notes = workspace.commit(built.name, overwrite=target.overwrite)
    pairs = list(zip(planned, after, strict=True))
    warnings = (one.named(text) for one, new in pairs for text in _underflow(one, new))
    return [_moved(new, path, target) for _, new in pairs], (*notes, *warnings)


def _moved(after: Measurement, path: str, target: Target) -> Measurement:
    """What was measured of the files at a path, once they are at the target."""
    return replace(
        after,
        path=target.shown + after.path.removeprefix(path),
        files=tuple(target.path + name.removeprefix(path) for name in after.files),
    )


def _underflow(one: Planned, after: Measurement) -> tuple[str, ...]:
    """What deserves a warning: zeros that nobody asked for."""
    if one_total(after).finite_norm or not one_total(one.before).finite_norm:
        return ()
    asked = all(change.is_zeroing for change in one.plan.transforms.values())
    return () if asked else ("every element is 0 now: what was asked for is too small for them",)
