"""Tasks through an executor, a bounded number of them at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gradtool.engine.backend import Backend
from gradtool.engine.progress import Progress
from gradtool.errors import ResourceError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Sized(Protocol):
    """A task that says how many bytes it is about."""

    @property
    def nbytes(self) -> int:
        """How many they are."""


SizedTask = TypeVar("SizedTask", bound=Sized)


@dataclass(frozen=True, slots=True)
class Runner:
    """Who works on the tasks of a plan, and with what.

    Attributes:
        executor: runs them, in threads, processes or elsewhere.
        window: tasks that are submitted at a time: a few for each worker keep all of them busy.
        backend: computes.
        progress: is told how far they are.
    """

    executor: Executor
    window: int
    backend: Backend
    progress: Progress

    def results(
        self, tasks: Iterable[SizedTask], work: Callable[[SizedTask], Result]
    ) -> Generator[Result, None, None]:
        """As `in_order`, the results alone; a task counts as done once its result was used."""
        with closing(in_order(tasks, work, self.executor, self.window)) as found:
            for task, result in found:
                yield result
                self.progress.by(task.nbytes)


def in_order(
    tasks: Iterable[Task], work: Callable[[Task], Result], executor: Executor, window: int
) -> Generator[tuple[Task, Result], None, None]:
    """Results of `work` in the order of the tasks, with at most `window` of them under way.

    None is under way any more once this is closed. Raises ResourceError where a process that
    worked is gone.
    """
    under_way: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            under_way.append((task, executor.submit(work, task)))
            if len(under_way) >= window:
                yield _first(under_way)
        while under_way:
            yield _first(under_way)
    except BrokenExecutor as error:
        raise ResourceError(
            "a process that worked on this ended before it was done",
            hint="the system's log says whether it was killed for its memory",
        ) from error
    finally:
        wait([future for _, future in under_way if not future.cancel()])


def _first(under_way: deque[tuple[Task, Future[Result]]]) -> tuple[Task, Result]:
    """Take the first, which is under way until its result is there."""
    task, future = under_way[0]
    result = future.result()
    under_way.popleft()
    return task, result


def batches(items: Iterable[Task], size: Callable[[Task], int], least: int) -> Iterator[list[Task]]:
    """The items in order, as many at a time as have `least` together; the last may have less."""
    batch: list[Task] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= least:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
