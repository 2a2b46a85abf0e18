"""The norms in a log: found by the names that trainers give them, one for each step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from gradtool.core.figures import counted, first_of, some
from gradtool.core.names import nearest_names
from gradtool.core.trends.log import Log
from gradtool.errors import CorruptFileError, UsageError
from gradtool.storage.logs.keys import likeliest, norm_rank, step_key
from gradtool.storage.logs.lines import Cut, Line, lines_of

_MOST_NORMS: Final = 2_000_000
_MOST_KEYS: Final = 10_000
"""Names of entries that are remembered, to say what there is where no norm is found."""

_LARGEST_STEP: Final = 1 << 62
_NUMBER: Final = re.compile(
    r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf(inity)?|nan", re.IGNORECASE
)
_WHOLE: Final = re.compile(r"[-+]?\d{1,18}(\.0*)?")


def read_log(path: str, key: str | None = None) -> Log:
    """The norms in a log, under `key` or the likeliest name for them.

    Raises:
        FileAccessError: it cannot be read.
        CorruptFileError: a line of it, which is named, is not what such a log has.
        UsageError: no entry, or several, may be the norm; or no line says its step.
    """
    found = _Found(path, key)
    for line in lines_of(path):
        found.add(line)
    return found.log()


@dataclass(slots=True)
class _Series:
    """The norms under one name: the last for each step, and the steps that had others before.

    `stepless` is how many have no step, `first` where the first of them is.
    """

    norms: dict[int, float] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    stepless: int = 0
    first: str = ""


@dataclass(slots=True)
class _Found:
    """What has been found in the lines of a log so far."""

    path: str
    wanted: str | None
    series: dict[str, _Series] = field(default_factory=dict)
    keys: dict[str, bool] = field(default_factory=dict)
    cut: str = ""
    count: int = 0

    def add(self, line: Line | Cut) -> None:
        """Take in a line."""
        if isinstance(line, Cut):
            self.cut = line.where
            return
        for key, value in line.fields.items():
            if self._is_norm(key) and value not in (None, ""):
                self._add_norm(line, key, value)

    def _is_norm(self, key: str) -> bool:
        if key not in self.keys:
            if len(self.keys) >= _MOST_KEYS:
                raise CorruptFileError(self.path, f"has over {_MOST_KEYS:,} names of entries")
            self.keys[key] = (
                norm_rank(key) is not None if self.wanted is None else key == self.wanted
            )
        return self.keys[key]

    def _add_norm(self, line: Line, key: str, value: Any) -> None:
        norm = _norm(value)
        if norm is None or norm < 0.0:
            raise CorruptFileError(
                self.path, f"{line.where}: {key!r:.80} is no norm: {value!r:.80}"
            )
        series = self.series.setdefault(key, _Series())
        name = step_key(line.fields, key)
        told = None if name is None else line.fields[name]
        if told in (None, ""):
            series.stepless += 1
            series.first = series.first or line.where
        else:
            step = _step(told)
            if step is None:
                problem = f"{line.where}: {name!r:.80} is no step: {told!r:.80}"
                raise CorruptFileError(self.path, problem)
            if step in series.norms and not _same(series.norms[step], norm):
                series.again.add(step)
            series.norms[step] = norm
        self.count += 1
        if self.count > _MOST_NORMS:
            raise CorruptFileError(self.path, f"has over {_MOST_NORMS:,} norms")

    def log(self) -> Log:
        """The log; UsageError where it is not clear what in it is the norm."""
        keys = likeliest(self.series) if self.wanted is None else list(self.series)
        if not keys:
            raise self._without_norm()
        if keys[1:]:
            problem = f"{self.path}: {some(keys)} may each be the norm of the gradients"
            raise UsageError(problem, hint="say which by `log_key`")
        (key,) = keys
        series = self.series[key]
        if not series.norms:
            raise UsageError(f"{self.path}: no line with {key!r:.80} says of which step it is")
        return Log(self.path, key, series.norms, tuple(self._notes(series)))

    def _without_norm(self) -> UsageError:
        if self.wanted is not None:
            problem = f"{self.path}: nothing in it is called {self.wanted!r:.80}"
            return UsageError(problem, hint=nearest_names(self.wanted, self.keys))
        names = f"what it has is {some(list(self.keys))}" if self.keys else "it has no entries"
        problem = f"{self.path}: no entry has a name such as 'grad_norm': {names}"
        return UsageError(problem, hint="say by `log_key` which is the norm of the gradients")

    def _notes(self, series: _Series) -> Iterable[str]:
        if self.cut:
            yield f"{self.path}: {self.cut} breaks off, and is left out"
        if again := sorted(series.again):
            steps = f"step{'s' if again[1:] else ''} {first_of(list(map(str, again)))}"
            verb = "are" if again[1:] else "is"
            yield f"{self.path}: {steps} {verb} logged more than once: the last norm counts"
        if series.stepless:
            norms = counted(series.stepless, "norm")
            yield f"{self.path}: {norms} without a step, left out, from {series.first} on"


def _norm(value: object) -> float | None:
    """A number, as JSON has it or as a text; None for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if type(value) not in (int, float):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _step(value: object) -> int | None:
    """A whole number, as JSON has it or as a text, be it written 30.0; None for anything else."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value.strip().partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _LARGEST_STEP else None


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
