"""A flight recorder for a training loop: rows of each step, and dumps of those that went wrong."""

from __future__ import annotations

import math
import operator
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import torch
from torch import Tensor

from gradtool.core.figures import significant
from gradtool.core.judging.newest import NewestNorms
from gradtool.core.judging.quotient import times
from gradtool.core.measurement import Measurement
from gradtool.errors import FileAccessError, UsageError
from gradtool.request import MeasureRequest
from gradtool.rules.spikes import LEVEL, SPIKE
from gradtool.storage.rows.header import MOST_STEP, RECORDED_SUFFIX
from gradtool.storage.rows.measurements import catalogue_bytes, figures_bytes
from gradtool.storage.rows.place import NoStoreError
from gradtool.storage.workspace import writing
from gradtool.torch._live import is_split, measured_now
from gradtool.torch._telling import LOG, Failures, positive
from gradtool.torch.dump import dump_gradients, named_gradients, place_in_world

if TYPE_CHECKING:  # some builds of Python are without SQLite
    from gradtool.storage.rows.record import RecordWriter

FORMAT: Final = "rows"

Trigger: TypeAlias = Callable[[Measurement], str]
"""Why the gradients of a step are to be dumped, in a few words; "" where they need not be."""


def _nonfinite(measurement: Measurement) -> str:
    """Elements that are not finite, or a norm that the trainer's dtype has no room for."""
    total = measurement.total
    if total is None:
        return ""
    native = total.norm if total.native_norm is None else total.native_norm
    is_finite = math.isfinite(total.norm) and math.isfinite(native)
    return "" if is_finite else f"norm {native if math.isfinite(total.norm) else total.norm}"


class _Spikes:
    """A norm far above those of the steps before it, as the rule GT210 has it by default."""

    def __init__(self) -> None:
        limits = {**SPIKE.defaults(), "level_steps": LEVEL.defaults()["steps"]}
        self._before = NewestNorms(**limits)  # type: ignore[arg-type]
        self._step: int | None = None
        self._norm = 0.0

    def __call__(self, measurement: Measurement) -> str:
        if (
            measurement.step != self._step
        ):  # else the same step again, of which the last call counts
            self._before.take(self._norm)
        self._step, self._norm = measurement.step, 0.0
        if measurement.total is None:
            return ""
        self._norm = measurement.total.norm
        spike = self._before.spike(self._norm)
        if spike is None:
            return ""
        return f"norm {significant(self._norm, 5)}, {times(spike.times)} the median before it"


TRIGGERS: Final[Mapping[str, Callable[[], Trigger]]] = {
    "nonfinite": lambda: _nonfinite,
    "spike": _Spikes,
}
"""What `dump_on` may name; each recorder makes its own, which may remember the steps before."""


class Recorder:
    """Records a row for each step of a training: the figures of every gradient, without a dump.

        recorder = Recorder(model, "run.rows")
        ...
        loss.backward()
        recorder.before_clipping(step=step)
        clip_grad_norm_(model.parameters(), 1.0)

    `gradtool trend run.rows` then says of the run what it would say of dumps of all its steps:
    norms, largest magnitudes, counts of NaN and Inf, zeros, tensor by tensor, judged by the rules
    of `check`. The full gradients are dumped only where a step breaks.

    Rows are written at most once a second, in one transaction, and at once where a step breaks.
    Whoever is killed loses those of the last second. What fails, a full disk say, ends no training:
    it is told of in a line of the log, `gradtool`'s, and not again for the same reason until it
    succeeds; rows wait for the disk meanwhile, some thousands of them. A resumed run goes on in its
    store: a step that is recorded again replaces the older row, which `trend` notes.

    With several processes the first writes the rows of all: DTensors (FSDP2) are recorded whole,
    from what each rank finds in its part, and all ranks have to make the same calls; plain
    gradients, as of DDP, are taken to be the same on every rank. Where processes have different
    parts of a model, pipeline stages say, `{rank}` in the path gives each a store of its own.

    What it costs: one pass over the gradients, on a CPU about a quarter of a second of CPU time for
    each GB. Gradients on other devices are copied to memory for it.

    Args:
        model: a module, or a list of pairs of name and parameter.
        path: of the store, ending in `.rows`; made where it is missing, its directory too.
        every: record the steps whose number it divides.
        dump_on: what has the full gradients dumped, the first of steps in a row: "nonfinite";
            "spike", a norm that the rule GT210 finds among those since this recorder was made;
            "nonfinite|spike" for both, "" for nothing. Only recorded steps are looked at.
        dumps: the directory for them, by default that of the store with `-dumps` after its name.
        most_dumps: how many are kept of those that this recorder wrote; the oldest goes first.
        threads: workers that compute, as for `gradtool.measure`.

    Raises:
        UsageError: an argument that cannot be.
        FileAccessError: there is something else at the path, or the store cannot be made.
    """

    def __init__(
        self,
        model: torch.nn.Module | Iterable[tuple[str, Tensor]],
        path: str | os.PathLike[str],
        *,
        every: int = 1,
        dump_on: str = "nonfinite",
        dumps: str | os.PathLike[str] | None = None,
        most_dumps: int = 3,
        threads: int | None = None,
    ) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        if not self.path.endswith(RECORDED_SUFFIX):
            raise UsageError(
                f"`path` must end in {RECORDED_SUFFIX}, not {os.path.basename(self.path)!r}",
                hint="by that `gradtool trend` knows it",
            )
        self._model = list(model) if isinstance(model, Iterator) else model
        if not isinstance(self._model, torch.nn.Module):
            named_gradients(self._model)  # refuses what is neither, before days of training
        self._every = positive("every", every)
        self._triggers = {name: TRIGGERS[name]() for name in _named(dump_on)}
        folder = f"{os.path.splitext(self.path)[0]}-dumps" if dumps is None else os.fsdecode(dumps)
        self.dumps = os.path.abspath(folder)
        self._most_dumps = positive("most_dumps", most_dumps)
        self._request = MeasureRequest(threads=threads, backend="numpy")
        self._failures = Failures("not recorded")
        self._dumped: deque[str] = deque()
        self._step: int | None = None
        self._firing: set[str] = set()
        self._fired: set[str] = set()  # in the step before
        is_for_all = "{rank}" not in self.path and not place_in_world()[0]
        self._writer = self._opened(self.path) if is_for_all else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, every={self._every})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write the rows that wait; they are at the latest when the process ends."""
        if self._writer is not None:
            _flushed(self._writer)

    def looks_at(self, step: int) -> bool:
        """Whether that step is one to record."""
        return step % self._every == 0

    @torch.no_grad()
    def before_clipping(self, *, step: int, loss_scale: float | None = None) -> str | None:
        """Record the gradients if this step's are to be; call it between backward and clipping.

        A further call in the same step replaces what the first one recorded.

        Args:
            step: the number of the optimizer step that these gradients are for.
            loss_scale: what they are multiplied by, as for `dump_gradients`; leave it out once
                they are divided by it again.

        Returns:
            The path of the dump that was written, or None.
        """
        if not self.looks_at(step):
            return None
        try:
            return self._recorded(_number(step), loss_scale)
        except Exception as error:  # noqa: BLE001 - no error of a recorder ends a training
            self._failures.tell(step, error)
            return None

    def _recorded(self, step: int, loss_scale: float | None) -> str | None:
        named = named_gradients(self._model)
        rank, world_size = place_in_world()
        is_writer = not rank or "{rank}" in self.path
        if not is_writer and not is_split(named):
            return None
        request = replace(self._request, loss_scale=loss_scale)
        found = replace(measured_now(named, request), format=FORMAT, step=step)
        if found.loss_scale != 1.0:
            scaled = f"the training says that gradients are multiplied by {loss_scale:g}"
            found = replace(found, notes=(*found.notes, scaled))
        reasons = self._reasons(found, step)
        if is_writer:
            self._write(found, step, rank or 0, at_once=bool(reasons))
        if not reasons:
            return None
        path = self._dump(step, loss_scale, rank if is_split(named) and world_size else None)
        LOG.warning("step %d: gradients with %s: %s", step, ", ".join(reasons), path)
        return path

    def _reasons(self, found: Measurement, step: int) -> list[str]:
        """Why this step is to be dumped, where the one before was not for the same reason."""
        if step != self._step:
            self._step, self._fired, self._firing = step, self._firing, set()
        reasons = {name: why for name, each in self._triggers.items() if (why := each(found))}
        self._firing |= reasons.keys()
        return [why for name, why in reasons.items() if name not in self._fired]

    def _write(self, found: Measurement, step: int, rank: int, *, at_once: bool) -> None:
        if self._writer is None:
            self._writer = self._opened(self.path.replace("{rank}", str(rank)))
        figures, catalogue = figures_bytes(found), catalogue_bytes(found)
        self._writer.add(step, catalogue, figures, at_once=at_once)
        if self._writer.problem:
            self._failures.tell(step, FileAccessError(self._writer.path, self._writer.problem))
        else:
            self._failures.none()

    def _dump(self, step: int, loss_scale: float | None, rank: int | None) -> str:
        of_rank = "" if rank is None else "-rank{rank}"
        with writing(self.dumps):
            os.makedirs(self.dumps, exist_ok=True)
        name = f"grads_step{step:06d}{of_rank}.safetensors"
        path = dump_gradients(
            self._model, os.path.join(self.dumps, name), step=step, loss_scale=loss_scale
        )
        if path not in self._dumped:
            self._dumped.append(path)
        while len(self._dumped) > self._most_dumps:
            with suppress(FileNotFoundError):
                os.remove(self._dumped.popleft())
        return path

    def _opened(self, path: str) -> RecordWriter:
        try:
            from gradtool.storage.rows.record import RecordWriter  # noqa: PLC0415 - as above
        except ImportError as error:
            raise FileAccessError(path, "not written: this Python is without SQLite") from error
        with writing(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            writer = RecordWriter(path)
        except NoStoreError as error:
            raise FileAccessError(path, str(error).removeprefix(path).strip()) from error
        weakref.finalize(self, _flushed, writer)
        return writer


def _number(step: int) -> int:
    """The number of a step; UsageError for one that no row can have, or no dump."""
    number = operator.index(step)
    if not 0 <= number <= MOST_STEP:
        raise UsageError(f"`step` must be from 0 to {MOST_STEP:,}, not {number:.6g}")
    return number


def _flushed(writer: RecordWriter) -> None:
    writer.flush()
    if writer.problem:
        LOG.warning("%s: rows of the last steps are lost: %s", writer.path, writer.problem)


def _named(dump_on: str) -> Sequence[str]:
    if not isinstance(dump_on, str):
        raise UsageError(f"`dump_on` must be a text, not {dump_on!r:.80}", hint='"" for nothing')
    names = [name for name in dump_on.split("|") if name]
    for name in names:
        if name not in TRIGGERS:
            known = ", ".join(map(repr, TRIGGERS))
            raise UsageError(f"`dump_on` must be of {known}, not {name!r}")
    return names
