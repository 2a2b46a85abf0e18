"""Running tasks on an executor, a bounded number of them at a time."""

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
    """A task that knows how many bytes it works on."""

    @property
    def nbytes(self) -> int:
        """The number of bytes."""


SizedTask = TypeVar("SizedTask", bound=Sized)


@dataclass(frozen=True, slots=True)
class Runner:
    """What the tasks of a plan are run with: an executor, a backend, a progress.

    Attributes:
        executor: runs the tasks, in threads, processes or elsewhere.
        window: how many tasks are submitted at a time: a few for each worker keep all busy.
        backend: computes the results.
        progress: notes the bytes of each task that is done.
    """

    executor: Executor
    window: int
    backend: Backend
    progress: Progress

    def results(
        self, tasks: Iterable[SizedTask], work: Callable[[SizedTask], Result]
    ) -> Generator[Result, None, None]:
        """The results of `work`, as `in_order`; a task is done once its result has been used."""
        with closing(in_order(tasks, work, self.executor, self.window)) as pairs:
            for task, result in pairs:
                yield result
                self.progress.advance(task.nbytes)


def in_order(
    tasks: Iterable[Task], work: Callable[[Task], Result], executor: Executor, window: int
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with its result of `work`, in order; at most `window` tasks are under way.

    Closing the generator waits until no task is under way. Raises ResourceError where a worker
    process died.
    """
    under_way: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            under_way.append((task, executor.submit(work, task)))
            if len(under_way) >= window:
                yield _take_first(under_way)
        while under_way:
            yield _take_first(under_way)
    except BrokenExecutor as error:
        raise ResourceError(
            "a process that worked on this ended before it was done",
            hint="the system's log says whether it was killed for its memory",
        ) from error
    finally:
        wait([future for _, future in under_way if not future.cancel()])


def _take_first(under_way: deque[tuple[Task, Future[Result]]]) -> tuple[Task, Result]:
    """Wait for the first task's result, and only then take it off the queue."""
    task, future = under_way[0]
    result = future.result()
    under_way.popleft()
    return task, result


def batches(items: Iterable[Task], size: Callable[[Task], int], least: int) -> Iterator[list[Task]]:
    """The items in order, in batches whose sizes add up to `least` or more, but for the last."""
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
