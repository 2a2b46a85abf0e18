"""A run followed while it is written: each step is told of once it is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Unpack

from gradtool.api.follow.news import PATIENCE_S, Key, News, Telling, key_of, said_of
from gradtool.api.follow.records import FollowedStore
from gradtool.api.follow.watching import Watch, Watched
from gradtool.api.judging import Judging, judging_by
from gradtool.api.remembering import Memory, remembering
from gradtool.api.trending import Following, clipping_to
from gradtool.core.judging.rule import Severity
from gradtool.core.names import no_name
from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Run, Trend
from gradtool.engine.progress import whole_progress
from gradtool.errors import SeveralCheckpointsError
from gradtool.places import Place, places_among
from gradtool.request import MeasureOptions
from gradtool.rules.config_file import Config
from gradtool.rules.settings import read_call
from gradtool.storage.rows.identity import identity_of


@dataclass(slots=True)
class Follower:
    """The steps of a run, in so far as they have been told of."""

    name: str
    judging: Judging
    memory: Memory
    reader: Following
    watch: Watch
    max_norm: float | None
    eps: float
    _steps: dict[str, Step] = field(default_factory=dict)
    _names: dict[tuple[str, int], str] = field(default_factory=dict)
    _telling: Telling = field(init=False)
    _stores: dict[str, FollowedStore] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._telling = Telling(self.name, self.reader)

    @property
    def has_steps(self) -> bool:
        """Whether any step is there, be it finished or not."""
        are_recorded = any(store.has_steps for store in self._stores.values())
        return bool(self._steps) or self.watch.has_any or are_recorded

    @property
    def shows_paths(self) -> bool:
        """Whether it takes a path to know what a step is of."""
        return len(self.watch.sources) > 1 or len(self._stores) > 1

    def trend_of(self, news: News) -> Trend:
        """What is new as a trend: of that step alone, or with nothing but what is found."""
        steps = () if news.step is None else (news.step,)
        run = Run(news.run, steps, findings=() if news.step else news.findings)
        return Trend(
            runs=(run,),
            policy=self.judging.judge.policy,
            baseline=self.judging.baseline_path,
            norm_type=self.judging.request.norm_type,
            max_norm=self.max_norm,
            eps=self.eps,
        )

    def look(self) -> Iterator[News]:
        """What is new since the last look; the steps in their order.

        Dumps are one run, and each store of a recorder is one of its own. Raises as
        `gradtool.trend`, but for steps that cannot be read, which are news.
        """
        yield from self._look_at_dumps()
        for path in self.watch.records:
            if path not in self._stores:
                store = FollowedStore(
                    path, self.reader, self.watch.settle_s, self.watch.clock, self.notes
                )
                self._stores[path] = store
        for store in self._stores.values():
            yield from store.look()

    def _look_at_dumps(self) -> Iterator[News]:
        read: dict[Key, bool] = {}
        begun = time.monotonic()
        for one, is_final in self.watch.finished():
            known = self._steps.get(one.path)
            step = self._read(one, is_final=is_final)
            if step is None:
                continue
            self._keep(one, step)
            if known is None or said_of(known) != said_of(step):
                read[key_of(step)] = known is not None
            if time.monotonic() - begun >= PATIENCE_S:
                yield from self._telling.news(self._steps.values(), read)
                read, begun = {}, time.monotonic()
        yield from self._telling.news(self._steps.values(), read)
        if self.memory.store is not None:
            self.memory.store.flush()  # the process may end at any time

    def _read(self, one: Watched, *, is_final: bool) -> Step | None:
        """A step, if it is whole and is still what it was when it was read."""
        try:
            step = self.reader.step(self._place(one), whole_progress(None))
        except SeveralCheckpointsError as error:
            self.watch.note_shown(one)
            self.notes.append(f"not followed: {error}")
            return None
        if identity_of(one.entry.paths) != one.identity:
            return None
        if step.verdict.format is None and not is_final:
            one.tried = True
            return None
        self.watch.note_shown(one)
        return step

    def _keep(self, one: Watched, step: Step) -> None:
        """Remember a step; not what was shown of it while it had another name."""
        key = one.entry.series, one.entry.step
        before = self._names.get(key)
        if before is not None and not self.watch.has(before):
            self._steps.pop(before, None)
        self._names[key] = one.path
        self._steps[one.path] = step

    def _place(self, one: Watched) -> Place:
        """The place of a step; of a set one that says what it lacks beside the step before."""
        if not one.entry.is_set and not os.path.isdir(one.path):
            return one.path
        before = self.watch.before(one)
        beside = () if before is None else before.entry.paths
        places = places_among([*beside, *one.entry.paths])
        return places[-1]


@contextmanager
def following(
    *sources: str,
    settle_s: float,
    baseline: str | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: float | None = None,
    fail_on: Severity | None = None,
    max_norm: float | None = None,
    eps: float | None = None,
    cache: str | bool = False,
    **options: Unpack[MeasureOptions],
) -> Iterator[Follower]:
    """A run to be looked at again and again; the arguments are those of `gradtool.trend`."""
    judging = judging_by(
        read_call(select=select, ignore=ignore, thresholds=thresholds, rtol=rtol, fail_on=fail_on),
        baseline=baseline,
        config=config,
        options=options,
    )
    bound, added = clipping_to(max_norm, eps, judging.request.norm_type)
    with remembering(cache, judging.request, judging.of_dumps_alone) as memory:
        reader = Following(judging, memory, no_name, None, None, None)
        watch = Watch(sources, settle_s)
        name = f"{sources[0]} and {len(sources) - 1:,} more" if sources[1:] else sources[0]
        yield Follower(name, judging, memory, reader, watch, bound, added, notes=memory.notes)
