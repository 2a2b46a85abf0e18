"""The steps of a run that a `gradtool.torch.Recorder` recorded: rows, and no dump behind them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtool.api.judging import Judged, Judging
from gradtool.core.figures import counted, first_of
from gradtool.core.measurement import Measurement, TensorMeasurement, summarize
from gradtool.core.names import nearest_names
from gradtool.errors import CorruptFileError, EmptyDumpError, FileAccessError, UsageError
from gradtool.request import MeasureRequest
from gradtool.rules.judge import verdict_on_unreadable
from gradtool.storage.rows.header import is_recorded, without_link
from gradtool.storage.rows.measurements import Catalogue, catalogue_of, measurement_of
from gradtool.storage.rows.place import NoStoreError

if TYPE_CHECKING:  # it loads SQLite, which some builds of Python are without
    from gradtool.storage.rows.record import Recorded, RecordReader

_SHOWN = 3
"""Numbers of steps that a note lists."""


def records_among(places: Sequence[object]) -> tuple[list[str], list[object]]:
    """The places that are stores of a recorder, and all others."""
    paths: list[str] = []
    others: list[object] = []
    for place in places:
        parts = place if isinstance(place, tuple) else (place,)
        named = [without_link(one) for one in parts if isinstance(one, str)]
        if len(named) == len(parts) and all(map(is_recorded, named)):
            paths.extend(named)
        else:
            others.append(place)
    return paths, others


def recorded(path: str, judging: Judging, last: int | None) -> Iterator[Judged]:
    """The steps in a store, in their order, each judged; all, or the last so many.

    One that cannot be read ends them, as a step with that finding. Raises UsageError for what was
    asked of dumps and cannot be answered by rows.
    """
    refuse_what_rows_lack(path, judging)
    rows = Rows(path, judging)
    step: int | None = None
    started = time.perf_counter()
    try:
        from gradtool.storage.rows.record import reading  # noqa: PLC0415 - as above

        with reading(path) as reader:
            steps = reader.steps(last)
            if not steps:
                nothing = EmptyDumpError(path, "no step was recorded yet")
                yield Judged(verdict_on_unreadable(path, nothing, None, 0.0), None)
            for step in steps:
                started = time.perf_counter()
                row = reader.row(step)
                if row is not None:
                    yield judging.judged(rows.measurement(row, reader), None, path, started)
    except (NoStoreError, ValueError) as error:
        yield judged_unreadable(path, error, step, started)
    except ImportError as error:
        raise FileAccessError(path, "not read: this Python is without SQLite") from error
    judging.said.update(dict.fromkeys(rows.notes()))


def judged_unreadable(
    path: str, error: NoStoreError | ValueError, step: int | None, started: float
) -> Judged:
    """What to say of a store whose rows cannot be read, from that step on."""
    problem = str(error).removeprefix(path).strip()
    failure = CorruptFileError(path, f"its rows cannot be read: {problem}")
    elapsed_s = time.perf_counter() - started
    return Judged(verdict_on_unreadable(path, failure, step, elapsed_s), None)


class Rows:
    """Makes measurements of rows, and notes which of them were recorded again."""

    def __init__(self, path: str, judging: Judging) -> None:
        self._path = path
        self._request = judging.request
        self._again: list[int] = []
        self._stale: list[int] = []
        self._session = 0
        self._catalogues: dict[bytes, Catalogue] = {}

    def measurement(self, row: Recorded, reader: RecordReader) -> Measurement:
        """The measurement of a step, of what was asked for; ValueError for what is none."""
        if row.times > 1:
            self._again.append(row.step)
        if row.session < self._session:
            self._stale.append(row.step)
        self._session = max(self._session, row.session)
        if row.catalogue not in self._catalogues:
            self._catalogues = {row.catalogue: catalogue_of(reader.catalogue(row.catalogue))}
        catalogue = self._catalogues[row.catalogue]
        found = measurement_of(row.figures, catalogue, self._path, 0.0)
        if found.step != row.step:
            raise ValueError(f"the row of step {row.step} is of another one")
        if found.norm_type != self._request.norm_type:
            raise UsageError(f"{self._path}: its norms are of order {found.norm_type:g}")
        return _narrowed(found, self._request)

    def notes(self) -> Iterator[str]:
        """What is to be known of rows that a resumed run recorded."""
        if self._again:
            were = "was" if len(self._again) == 1 else "were"
            steps = _steps(self._again)
            yield f"{self._path}: {steps} {were} recorded more than once, and the last time counts"
        if self._stale:
            are = "is" if len(self._stale) == 1 else "are"
            yield (
                f"{self._path}: {_steps(self._stale)} {are} of an earlier start of the run than "
                "steps before, which has not come so far again"
            )


def _steps(steps: Sequence[int]) -> str:
    """`step 3`, or `50 steps, from 101 to 150`."""
    if len(steps) <= _SHOWN:
        return f"step{'' if len(steps) == 1 else 's'} {first_of(list(map(str, steps)))}"
    return f"{counted(len(steps), 'step')}, from {steps[0]} to {steps[-1]},"


def refuse_what_rows_lack(path: str, judging: Judging) -> None:
    """UsageError for what was asked of dumps and cannot be answered by rows."""
    request = judging.request
    for name in ("section", "loss_scale"):
        if getattr(request, name) is not None:
            raise UsageError(f"{os.path.basename(path)} holds rows: `{name}` is for dumps")
    if judging.ranges:
        raise UsageError(
            f"{os.path.basename(path)} holds rows of whole tensors: GT410 with rows is for dumps"
        )


def _narrowed(found: Measurement, request: MeasureRequest) -> Measurement:
    """Of a measurement what was asked for by name, with its totals."""
    if not (request.include or request.exclude):
        return found
    names = request.names
    kept: list[TensorMeasurement] = []
    firsts: dict[str, str] = {}
    for one in found.tensors:
        if not names(one.name):
            continue
        if one.alias_of is None and one.unique != one.stats:
            raise UsageError(f"{one.name!r} has elements in common with others: leave out filters")
        if one.alias_of is not None and not names(one.alias_of):
            first = firsts.setdefault(one.alias_of, one.name)
            kept.append(
                replace(one, alias_of=None, unique=one.stats, unique_in_section=one.stats)
                if first == one.name
                else replace(one, alias_of=first)
            )
        else:
            kept.append(one)
    if not kept:
        patterns = (*request.include, *request.exclude)
        hint = nearest_names(patterns[0], [one.name for one in found.tensors])
        raise UsageError(f"{found.path}: no tensor is left by {patterns[0]!r:.200}", hint=hint)
    skipped = tuple(one for one in found.skipped if names(one.name))
    total = summarize("", None, kept, skipped, found.norm_type)
    return replace(found, tensors=tuple(kept), skipped=skipped, sections=(total,), total=total)
