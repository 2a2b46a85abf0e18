"""Tasks through an executor, a bounded number of them at a time, and word of how far it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from typing import TypeVar

from gradtool.errors import ResourceError

Task = TypeVar("Task")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes to do, from the thread that started the work."""


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


class Advance:
    """Tells an observer how far the work is, of `todo` bytes."""

    def __init__(self, progress: Progress | None, todo: int) -> None:
        self._progress = progress
        self._todo = todo
        self._done = 0

    def by(self, nbytes: int) -> None:
        """So many bytes more are done."""
        self._done = min(self._done + nbytes, self._todo)
        if self._progress is not None:
            self._progress(self._done, self._todo)

    def finish(self) -> None:
        """All is done: bytes that tensors share were read once, and counted by each of them."""
        if self._done < self._todo:
            self.by(self._todo)
