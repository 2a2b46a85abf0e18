"""Threads that work: as many as can be started, and fewer where memory runs out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from gradtool.engine.memory import has_room

P = ParamSpec("P")
T = TypeVar("T")

_ONE_THREAD: Final = 32 << 20
"""Bytes for its stack and what it begins with: Python waits for ever for one that dies of that."""


class _Task:
    """A call, and the future of its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.future: Future[Any] = Future()


class Threads(Executor):
    """At most so many threads; tasks must be such as may be begun again.

    A thread that cannot be started is done without; where none can be, whoever submits a task
    does it. A thread whose task finds too little memory gives it back and ends, and with it goes
    the memory that it kept, unless it is the last one: it waits for the others to be gone and
    tries once more, and only then is MemoryError the task's result.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._leaving: list[threading.Thread] = []
        self._tasks: deque[_Task] = deque()
        self._idle = 0
        self._closed = False
        self._changed = threading.Condition()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `Executor` has it."""
        task = _Task(partial(fn, *args, **kwargs))
        with self._changed:
            if self._closed:
                raise RuntimeError("no tasks are taken after shutdown")
            self._tasks.append(task)
            if self._idle < len(self._tasks) and len(self._threads) < self._most:
                self._start()
            if alone := not self._threads:
                self._tasks.remove(task)
            self._changed.notify()
        if alone:
            self._run(task)
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor` has it."""
        with self._changed:
            self._closed = True
            while cancel_futures and self._tasks:
                self._tasks.popleft().future.cancel()
            self._changed.notify_all()
            threads = self._threads + self._leaving
        for thread in threads if wait else ():
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"gradtool_{len(self._threads)}")
        try:
            if not has_room(_ONE_THREAD):
                raise MemoryError
            thread.start()
        except (RuntimeError, MemoryError):
            self._most = len(self._threads)
        else:
            self._threads.append(thread)

    def _serve(self) -> None:
        while (task := self._next()) is not None:
            if not self._run(task):
                return

    def _next(self) -> _Task | None:
        with self._changed:
            self._idle += 1
            while not (self._tasks or self._closed):
                self._changed.wait()
            self._idle -= 1
            return self._tasks.popleft() if self._tasks else None

    def _run(self, task: _Task) -> bool:
        """Whether this thread goes on, the task done, or ends and leaves it to others."""
        future = task.future
        if not (future.running() or future.set_running_or_notify_cancel()):
            return True
        while True:
            try:
                future.set_result(task.call())
            except MemoryError as error:
                if self._leave(task):
                    return False
                if not self._others_left():
                    future.set_exception(error)
                    return True
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                future.set_exception(error)
                return True
            else:
                return True

    def _leave(self, task: _Task) -> bool:
        """Give the task back, unless there is no other thread to do it."""
        with self._changed:
            this = threading.current_thread()
            if this not in self._threads or len(self._threads) == 1:
                return False
            self._threads.remove(this)
            self._leaving.append(this)
            self._most = len(self._threads)
            self._tasks.appendleft(task)
            self._changed.notify()
            return True

    def _others_left(self) -> bool:
        """Wait until those that ended have given back their memory; False where there are none."""
        with self._changed:
            leaving, self._leaving = self._leaving, []
        for thread in leaving:
            thread.join()
        return bool(leaving)
