"""What every command is asked, checked when it is made, and the steps that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict, get_args

from gradtool.arguments import globs, number, require, texts
from gradtool.core.checkpoint import Checkpoint, RanksMode
from gradtool.core.dtypes import DTYPES
from gradtool.core.figures import difference
from gradtool.core.measurement import Measurement
from gradtool.core.names import BareNames, NameFilter, every_name, name_filter, no_name
from gradtool.core.shapes.rows import Bands, Rows
from gradtool.engine.choice import BackendChoice
from gradtool.engine.memory import collector_paused, reporting_shortage
from gradtool.engine.overlaps.sharing import Overlaps
from gradtool.engine.progress import Observer, Progress
from gradtool.engine.reading import measure as engine
from gradtool.engine.reading.banding import bands_of_ranges, bands_of_rows
from gradtool.engine.schedule import Runner
from gradtool.engine.threads import Threads, available_cores
from gradtool.errors import RanksDifferError, RanksQuestionError, UsageError
from gradtool.formats import Opening, open_checkpoint, open_together
from gradtool.formats.scaling import with_scales
from gradtool.places import Incomplete, Place, label_of
from gradtool.unmatched import refuse_merged_names, refuse_nothing

MAX_THREADS = 4
"""Threads used unless more are asked for: each takes some 20 MB, and they share Python's lock."""

_WINDOW_PER_THREAD = 3


class MeasureOptions(TypedDict, total=False):
    """The fields of `MeasureRequest` that all take who measure, as keyword arguments.

    `digest` and `rows` are for `measure` alone: they decide nothing.
    """

    norm_type: float
    include: str | Iterable[str]
    exclude: str | Iterable[str]
    section: str | None
    loss_scale: float | None
    raw_dtype: str | None
    verify: bool
    ranks: RanksMode
    replicated: str | Iterable[str]
    strip_prefix: str | Iterable[str]
    join: bool
    apply_scales: bool
    threads: int | None
    backend: str
    device: str | None
    device_memory: int | str | None
    progress: Observer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """Which tensors to read, how, and by what; checked when it is made.

    Attributes:
        norm_type, loss_scale, verify, digest, progress, section, ranks, join, apply_scales: as
            `gradtool.measure` explains them.
        include, exclude, replicated, rows: tuples of globs, whatever was given.
        strip_prefix: a tuple of prefixes, whatever was given.
        raw_dtype: its name as in DTYPES.
        threads, backend, device, device_memory: as given.
        workers: threads that compute, which follows from these.
        choice: what they compute with, which does too.

    Raises UsageError for what is out of its range, and DeviceError where what is to compute is not
    there.
    """

    norm_type: float = 2.0
    include: str | Iterable[str] = ()
    exclude: str | Iterable[str] = ()
    section: str | None = None
    loss_scale: float | None = None
    raw_dtype: str | None = None
    verify: bool = False
    ranks: RanksMode = "auto"
    replicated: str | Iterable[str] = ()
    strip_prefix: str | Iterable[str] = ()
    join: bool = False
    apply_scales: bool = False
    digest: bool = False
    rows: str | Iterable[str] = ()
    threads: int | None = None
    backend: str = "auto"
    device: str | None = None
    device_memory: int | str | None = None
    progress: Observer | None = None
    workers: int = field(init=False)
    choice: BackendChoice = field(init=False)

    def __post_init__(self) -> None:
        p = number("norm_type", self.norm_type)
        require(not math.isnan(p), f"`norm_type` must be a number, not {p}")
        modes = ", ".join(get_args(RanksMode))
        require(self.ranks in get_args(RanksMode), f"`ranks` {self.ranks!r}: give one of {modes}")
        choice = BackendChoice.checked(self.backend, self.device, self.device_memory)
        workers = _workers(self.threads, choice)
        choice.require(workers)
        self._settle(
            norm_type=p + 0.0,  # -0 is 0
            include=globs("include", self.include),
            exclude=globs("exclude", self.exclude),
            replicated=globs("replicated", self.replicated),
            strip_prefix=texts("strip_prefix", self.strip_prefix),
            rows=globs("rows", self.rows),
            loss_scale=_divisor(self.loss_scale),
            raw_dtype=_dtype_name(self.raw_dtype),
            workers=workers,
            choice=choice,
        )

    def _settle(self, **checked: object) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def names(self) -> NameFilter:
        """Whether a name is one of those asked for."""
        return name_filter(tuple(self.include), tuple(self.exclude), self.bare)

    @property
    def bare(self) -> BareNames:
        """Names as they are matched."""
        return BareNames(tuple(self.strip_prefix))

    @property
    def _is_replicated(self) -> NameFilter:
        globs_over_names = tuple(self.replicated)
        return name_filter(globs_over_names, (), self.bare) if globs_over_names else no_name

    def opening(self, wanted: NameFilter = every_name) -> Opening:
        """How files are to be read, of which `wanted` names may be left out of the catalogue."""
        return Opening(
            raw_dtype=None if self.raw_dtype is None else DTYPES[self.raw_dtype],
            wanted=wanted,
            ranks=self.ranks,
            replicated=self._is_replicated,
            join=self.join,
        )

    @property
    def is_explicit(self) -> bool:
        """Whether tensors were chosen by name, or by the name of their section."""
        return bool(self.include) or self.section is not None

    def runner(self, checkpoint: Checkpoint, executor: Executor, progress: Progress) -> Runner:
        """Who works on the tensors of a catalogue."""
        nbytes = sum(spec.nbytes for spec in checkpoint.tensors)
        backend = self.choice.for_bytes(nbytes, self.workers)
        return Runner(executor, self.workers * _WINDOW_PER_THREAD, backend, progress)

    def bands_of(self, checkpoint: Checkpoint, ranges: Sequence[Rows]) -> dict[str, Bands]:
        """The rows of a catalogue's tensors that are told apart: each, or those `ranges`."""
        if self.rows:
            return bands_of_rows(checkpoint, tuple(self.rows), self.bare)
        return bands_of_ranges(checkpoint, ranges, self.bare)

    def loss_scale_of(self, checkpoint: Checkpoint) -> float:
        """What to divide the elements of a catalogue's tensors by."""
        divisor = checkpoint.loss_scale if self.loss_scale is None else self.loss_scale
        if divisor is None:
            raise UsageError(
                f"{checkpoint.path}: its files were written with different loss scales",
                hint="inspect them one by one, or give `loss_scale` for all",
            )
        return divisor


@contextmanager
def working(request: MeasureRequest) -> Iterator[Executor]:
    """Who does the work; ResourceError where there is too little to do it with."""
    with reporting_shortage(), Threads(request.workers) as threads:
        yield threads


def opened(place: Place, request: MeasureRequest, wanted: NameFilter = every_name) -> Checkpoint:
    """The catalogue of all that lies at a place, or of what is `wanted`; ResourceError as above."""
    with reporting_shortage(label_of(place)), collector_paused():
        opening = request.opening(wanted)
        if isinstance(place, Incomplete):
            if opening.ranks != "each":
                raise place.error
            place = place.path
        if isinstance(place, str):
            return open_checkpoint(place, opening)
        return open_together(label_of(place), place, opening)


def opened_in_part(place: Place, request: MeasureRequest) -> Checkpoint:
    """What was asked for of all that lies at a place, and nothing else catalogued on the way."""
    # Scales may lie among what was not asked for.
    wanted = every_name if request.apply_scales else request.names
    part = _part(opened(place, request, wanted), request)
    # Why there is nothing only the whole catalogue knows.
    return part if part.tensors else chosen(opened(place, request), request)


def chosen(checkpoint: Checkpoint, request: MeasureRequest) -> Checkpoint:
    """The part of a whole catalogue that was asked for; an empty dump is an error of its own."""
    part = _part(checkpoint, request)
    if not part.tensors:
        refuse_nothing(
            checkpoint,
            include=tuple(request.include),
            exclude=tuple(request.exclude),
            section=request.section,
            bare=request.bare,
        )
    return part


def _part(checkpoint: Checkpoint, request: MeasureRequest) -> Checkpoint:
    named, in_section = request.names, checkpoint.section_filter(request.section)
    part = checkpoint.narrowed(lambda item: in_section(item) and named(item.name))
    if request.strip_prefix:
        refuse_merged_names(part, request.bare)
    return with_scales(part, checkpoint) if request.apply_scales else part


def measured(
    checkpoint: Checkpoint,
    request: MeasureRequest,
    executor: Executor,
    progress: Progress,
    started: float,
    overlaps: Overlaps | None = None,
    *,
    ranges: Sequence[Rows] = (),
) -> Measurement:
    """The figures of the catalogue's tensors, `started` being when it all began.

    `overlaps` are those of the whole catalogue, if they are known, `ranges` rows to tell apart from
    others. Raises RanksQuestionError where ranks hold other values under a name, and nothing says
    that these are copies.
    """
    with reporting_shortage(checkpoint.path):
        measurement = engine.measure(
            checkpoint,
            request.runner(checkpoint, executor, progress),
            started=started,
            norm_type=request.norm_type,
            loss_scale=request.loss_scale_of(checkpoint),
            verify=request.verify,
            digest=request.digest,
            overlaps=overlaps,
            bands=request.bands_of(checkpoint, ranges),
        )
    for copy in measurement.disagreements:
        if copy.is_assumed:
            raise RanksQuestionError(measurement.path, copy.name, difference(copy))
    return measurement


def agreed(measurement: Measurement) -> Measurement:
    """The measurement, if all copies are alike; else RanksDifferError naming one that is not."""
    for copy in measurement.disagreements:
        raise RanksDifferError(measurement.path, difference(copy), tensor=copy.name)
    return measurement


def _workers(threads: int | None, choice: BackendChoice) -> int:
    counts = threads is None or (type(threads) is int and threads >= 1)
    require(counts, f"`threads` must be at least 1, not {threads!r}")
    # Each device has a thread of its own.
    return max(threads or min(available_cores(), MAX_THREADS), len(choice.devices))


def _divisor(loss_scale: float | None) -> float | None:
    if loss_scale is None:
        return None
    divisor = number("loss_scale", loss_scale)
    scales = 0.0 < divisor < math.inf
    require(scales, f"`loss_scale` must be positive and finite, not {divisor}")
    return divisor


def _dtype_name(raw_dtype: str | None) -> str | None:
    name = raw_dtype.upper() if isinstance(raw_dtype, str) else None
    require(raw_dtype is None or name in DTYPES, f"`raw_dtype` {raw_dtype!r} is no known dtype")
    return name
