"""Calls within this process, timed in turns on the same gradients; tables of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.harness import exact
from benchmarks.harness.tables import figure, table
from benchmarks.harness.timing import in_turns

Clock = Callable[[Callable[[], Any]], tuple[float, Any]]
"""Calls a function: the seconds that it took, and what it gave."""


def wall_clock(function: Callable[[], Any]) -> tuple[float, Any]:
    """Time by the clock on the wall."""
    start = time.perf_counter()
    answer = function()
    return time.perf_counter() - start, answer


def cpu_clock(function: Callable[[], Any]) -> tuple[float, Any]:
    """Time of processors, user and system, of all threads: also of those that only wait, busily."""
    start = time.process_time()
    answer = function()
    return time.process_time() - start, answer


@dataclass
class Call:
    """A call in a comparison and, in time, how long it took and how wrong it was.

    `prepare` makes, untimed, what `function` is given, which gives its result and a norm (None
    if it computes none); `tensors` are those of the result, in memory that torch can read;
    `norm_of` makes, untimed, the norm of a result that comes without it.
    """

    label: str
    prepare: Callable[[], Any]
    function: Callable[[Any], tuple[Any, Any]]
    tensors: Callable[[Any], Iterable[Tensor]] | None = None
    norm_of: Callable[[Any], float] | None = None
    times: list[float] = field(default_factory=list)
    error: float = math.nan
    result_error: float = math.nan

    @property
    def seconds(self) -> float:
        """Median time."""
        return statistics.median(self.times)

    def check(self, truth: float, wanted: float) -> None:
        """Call it untimed, and hold its norm and that of its result against what is right."""
        result, norm = self.function(self.prepare())
        if self.norm_of is not None:
            norm = self.norm_of(result)
        if norm is not None:
            self.error = _error(float(norm), truth)
        if self.tensors is not None:
            self.result_error = _error(exact.norm(self.tensors(result), 2), wanted)

    def measure(self, clock: Clock) -> None:
        """Call it and note the time."""
        given = self.prepare()
        seconds, _ = clock(lambda: self.function(given))
        self.times.append(seconds)


def _error(norm: float, truth: float) -> float:
    """The relative error; that of NaN is infinite, which shows, as a missing one does not."""
    return math.inf if math.isnan(norm) else norm / truth - 1


@dataclass
class Bout:
    """Calls on the same gradients, the first one being `first`: gradtool.torch's, if not told.

    `truth` is the norm of the gradients, `wanted` that which the results should have.
    """

    title: str
    calls: list[Call]
    nbytes: int
    truth: float
    wanted: float = math.nan
    wanted_head: str = "after clipping"
    first: str = "gradtool.torch"
    clock: Clock = wall_clock
    unit: str = "s"

    def __getitem__(self, label: str) -> Call:
        return next(call for call in self.calls if call.label == label)

    def run(self, runs: int) -> None:
        """Check each once, which warms it up too, and then time all in turns."""
        for call in self.calls:
            call.check(self.truth, self.wanted)
        for call in in_turns(self.calls, runs):
            call.measure(self.clock)

    def ratio(self, label: str, to: str) -> float:
        """Median time of one call by another's."""
        return self[label].seconds / self[to].seconds

    def show(self) -> None:
        """Print the table, without columns that would hold nothing."""
        heads = ["call", f"median {self.unit}", f"min-max {self.unit}", "GB/s"]
        heads += [f"x {self.first}", "norm's error", self.wanted_head]
        rows = [self._row(call) for call in self.calls]
        columns = [column for column in zip(heads, *rows, strict=True) if {*column[1:]} != {"-"}]
        heads, *rows = map(list, zip(*columns, strict=True))
        print(f"\n{self.title}\n{table(heads, rows)}", flush=True)

    def _row(self, call: Call) -> list[str]:
        scale = {"s": 1.0, "ms": 1e3}[self.unit]
        least, most = min(call.times) * scale, max(call.times) * scale
        return [
            call.label,
            figure(call.seconds * scale, ".3f"),
            f"{least:.3f}-{most:.3f}",
            figure(self.nbytes / call.seconds / 1e9, ".2f"),
            figure(self.ratio(call.label, self.calls[0].label), ".2f"),
            figure(call.error, "+.1e"),
            figure(call.result_error, "+.1e"),
        ]
