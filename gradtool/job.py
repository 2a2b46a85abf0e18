"""What every piece of work is given: which tensors to read, how, and with how many hands."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypedDict

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.measurement import Measurement
from gradtool.core.names import name_filter
from gradtool.core.tensors import ABSENT, Checkpoint
from gradtool.engine.backend import Backend
from gradtool.engine.choice import BackendChoice
from gradtool.engine.memory import shortage_told
from gradtool.engine.reading import measure as engine
from gradtool.engine.schedule import Progress
from gradtool.engine.threads import Threads
from gradtool.errors import EmptyDumpError, UsageError
from gradtool.formats import open_checkpoint

MAX_THREADS = 4
"""Threads used unless more are asked for: each takes some 20 MB, and they share Python's lock."""

_WINDOW_PER_THREAD = 3


class MeasureOptions(TypedDict, total=False):
    """The keyword arguments of `measure`, which `clip` takes too."""

    norm_type: float
    include: str | Iterable[str]
    exclude: str | Iterable[str]
    section: str | None
    loss_scale: float | None
    raw_dtype: str | None
    verify: bool
    threads: int | None
    backend: str
    device: str | None
    device_memory: int | str | None
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Job:
    """The checked form of `MeasureOptions`, and what is done with them."""

    norm_type: float
    include: Sequence[str]
    exclude: Sequence[str]
    section: str | None
    loss_scale: float | None
    raw_dtype: DType | None
    verify: bool
    workers: int
    choice: BackendChoice
    progress: Progress | None
    started: float

    @classmethod
    def checked(
        cls,
        *,
        norm_type: float = 2.0,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        section: str | None = None,
        loss_scale: float | None = None,
        raw_dtype: str | None = None,
        verify: bool = False,
        threads: int | None = None,
        backend: str = "auto",
        device: str | None = None,
        device_memory: int | str | None = None,
        progress: Progress | None = None,
    ) -> Job:
        """The options with their defaults.

        Raises UsageError for what is out of its range, and DeviceError where what is to compute is
        not there.
        """
        p = number("norm_type", norm_type)
        divisor = None if loss_scale is None else number("loss_scale", loss_scale)
        raw = DTYPES.get(raw_dtype.upper()) if isinstance(raw_dtype, str) else None
        require(not math.isnan(p), f"norm_type must be a number, not {p}")
        scales = divisor is None or 0.0 < divisor < math.inf
        require(scales, f"loss_scale must be positive and finite, not {divisor}")
        require(raw_dtype is None or raw is not None, f"raw_dtype {raw_dtype!r} is no known dtype")
        counts = threads is None or (type(threads) is int and threads >= 1)
        require(counts, f"threads must be at least 1, not {threads!r}")
        choice = BackendChoice.checked(backend, device, device_memory)
        # Each device has a thread of its own.
        workers = max(threads or min(_available_cores(), MAX_THREADS), len(choice.devices))
        choice.require(workers)
        return cls(
            norm_type=p + 0.0,  # -0 is 0
            include=globs("include", include),
            exclude=globs("exclude", exclude),
            section=section,
            loss_scale=divisor,
            raw_dtype=raw,
            verify=verify,
            workers=workers,
            choice=choice,
            progress=progress,
            started=time.perf_counter(),
        )

    @property
    def is_explicit(self) -> bool:
        """Whether tensors were chosen by name, or by the name of their section."""
        return bool(self.include) or self.section is not None

    @property
    def window(self) -> int:
        """Tasks under way at a time."""
        return self.workers * _WINDOW_PER_THREAD

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """Who does the work; ResourceError where there is too little to do it with."""
        with shortage_told(), Threads(self.workers) as threads:
            yield threads

    def open(self, path: str) -> Checkpoint:
        """The catalogue of all that lies at `path`; ResourceError as above."""
        with shortage_told(path):
            return open_checkpoint(path, self.raw_dtype)

    def select(self, checkpoint: Checkpoint) -> Checkpoint:
        """The part of a catalogue that was asked for; an empty dump is an error of its own."""
        if not checkpoint.tensors:
            raise EmptyDumpError(checkpoint.path, _why_empty(checkpoint))
        named, section = name_filter(self.include, self.exclude), self.section
        tensors = tuple(
            spec
            for spec in checkpoint.tensors
            if section in (None, spec.section) and named(spec.name)
        )
        if not tensors:
            self._refuse_nothing(checkpoint)
        skipped = tuple(
            item
            for item in checkpoint.skipped
            if section in (None, item.section) and named(item.name)
        )
        return replace(checkpoint, tensors=tensors, skipped=skipped)

    def _refuse_nothing(self, checkpoint: Checkpoint) -> None:
        sections = sorted({spec.section for spec in checkpoint.tensors})
        if self.section is not None and self.section not in sections:
            names = ", ".join(repr(name) for name in sections if name)
            raise UsageError(
                f"{checkpoint.path}: has no section {self.section!r}",
                hint=f"its sections are {names}" if names else "it has no sections",
            )
        raise UsageError(f"{checkpoint.path}: no tensor matches the filters")

    def backend(self, checkpoint: Checkpoint) -> Backend:
        """What computes with the tensors of a catalogue."""
        nbytes = sum(spec.nbytes for spec in checkpoint.tensors)
        return self.choice.for_bytes(nbytes, self.workers)

    def measure(
        self, checkpoint: Checkpoint, executor: Executor, progress: Progress | None
    ) -> Measurement:
        """Measure the catalogue's tensors; ResourceError as above."""
        with shortage_told(checkpoint.path):
            return engine.measure(
                checkpoint,
                executor=executor,
                window=self.window,
                backend=self.backend(checkpoint),
                started=self.started,
                norm_type=self.norm_type,
                loss_scale=self._divisor(checkpoint),
                verify=self.verify,
                progress=progress,
            )

    def _divisor(self, checkpoint: Checkpoint) -> float:
        divisor = checkpoint.loss_scale if self.loss_scale is None else self.loss_scale
        if divisor is None:
            raise UsageError(
                f"{checkpoint.path}: its files were written with different loss scales",
                hint="inspect them one by one, or give --loss-scale (loss_scale=) for all",
            )
        return divisor


def number(name: str, value: float) -> float:
    """A float of what may be one: numbers, and texts such as "inf"."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name} must be a number, not {value!r}") from error


def require(condition: bool, problem: str) -> None:
    """UsageError saying what the problem is, unless the condition holds."""
    if not condition:
        raise UsageError(problem)


def _why_empty(checkpoint: Checkpoint) -> str:
    if not checkpoint.skipped:
        return "holds no tensor at all: an empty dump (were gradients kept in `main_grad`?)"
    if {item.reason for item in checkpoint.skipped} == {ABSENT}:
        return "no parameter has a gradient: measure after backward() and before zero_grad()"
    reasons = ", ".join(sorted({item.reason for item in checkpoint.skipped}))
    return f"holds no gradient: every tensor is skipped ({reasons})"


def globs(name: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    """A glob or globs as a tuple; UsageError for anything else."""
    require(hasattr(patterns, "__iter__"), f"{name} must be a glob or globs, not {patterns!r}")
    # Patterns are used more than once; what gives them may not be.
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    texts = all(isinstance(pattern, str) for pattern in found)
    require(texts, f"{name} must be a glob or globs, not {patterns!r}")
    return found


def _available_cores() -> int:
    # Containers and job schedulers give a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
