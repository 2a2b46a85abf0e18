"""An executor of threads: as many as can be started, and fewer where memory runs out."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from gradtool.engine.memory import has_memory

P = ParamSpec("P")
T = TypeVar("T")

_THREAD_NBYTES: Final = 32 << 20
"""For a thread's stack and start: Python waits for ever for a thread that dies for want of them."""


class _Task:
    """A call, and the future of its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.future: Future[Any] = Future()


class Threads(Executor):
    """At most `most` threads; a task may be started again after MemoryError, and must allow it.

    Where a thread cannot be started there are fewer; where none can, `submit` runs the task itself.
    A thread whose task raises MemoryError gives the task back and ends, which frees the memory that
    the thread kept. The last thread waits for those to end and tries once more; only then is
    MemoryError the task's result.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._leaving: list[threading.Thread] = []
        self._tasks: deque[_Task] = deque()
        self._idle = 0
        self._closed = False
        # Entered as it is: what is raised by Ctrl-C within a condition's own methods, which are
        # Python's, leaves it locked for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor`."""
        task = _Task(partial(fn, *args, **kwargs))
        with self._lock:
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
        """See `Executor`."""
        with self._lock:
            self._closed = True
            while cancel_futures and self._tasks:
                self._tasks.popleft().future.cancel()
            self._changed.notify_all()
            threads = self._threads + self._leaving
        for thread in threads if wait else ():
            thread.join()

    def _start(self) -> None:
        """Start one more thread; if that fails, settle for those that there are."""
        thread = threading.Thread(target=self._serve, name=f"gradtool_{len(self._threads)}")
        try:
            if not has_memory(_THREAD_NBYTES):
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
        """Wait for the next task and take it; None where the thread has to end."""
        with self._lock:
            self._idle += 1
            try:
                while not (self._tasks or self._closed):
                    self._changed.wait()
            except (RuntimeError, MemoryError):  # no memory for a lock to wait on
                self._retire(threading.current_thread())
                return None
            finally:
                self._idle -= 1
            return self._tasks.popleft() if self._tasks else None

    def _run(self, task: _Task) -> bool:
        """Run the task; False if it was given back, so that this thread has to end."""
        future = task.future
        if not (future.running() or future.set_running_or_notify_cancel()):
            return True
        while True:
            try:
                future.set_result(task.call())
            except MemoryError as error:
                if self._leave(task):
                    return False
                if not self._wait_for_leaving():
                    future.set_exception(error)
                    return True
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                future.set_exception(error)
                return True
            else:
                return True

    def _leave(self, task: _Task) -> bool:
        """Give the task back to the other threads; False where there is none."""
        with self._lock:
            this = threading.current_thread()
            if this not in self._threads or len(self._threads) == 1:
                return False
            self._retire(this)
            self._tasks.appendleft(task)
            self._changed.notify()
            return True

    def _retire(self, thread: threading.Thread) -> None:
        """Do without a thread from now on."""
        self._threads.remove(thread)
        self._leaving.append(thread)
        self._most = len(self._threads)

    def _wait_for_leaving(self) -> bool:
        """Wait until leaving threads have freed their memory; False where there are none."""
        with self._lock:
            leaving, self._leaving = self._leaving, []
        for thread in leaving:
            thread.join()
        return bool(leaving)


def available_cores() -> int:
    """Cores that this process may use."""
    # Containers and job schedulers give it fewer than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
