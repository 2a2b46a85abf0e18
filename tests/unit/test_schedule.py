"""Tasks in order: nothing of them goes on once whoever wanted their results has gone."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from gradtool.engine.schedule import in_order


@pytest.mark.parametrize("fails", [True, False], ids=["one fails", "the one who waits goes"])
def test_no_task_runs_any_more_once_it_is_closed(fails: bool) -> None:
    """What tasks write to is closed next, and its number may be another file's by then."""
    begun, ended = threading.Event(), threading.Event()

    def work(task: int) -> int:
        if task == 0:
            assert begun.wait(60.0)
            if fails:
                raise ZeroDivisionError
        else:
            begun.set()
            # Longer than it takes to leave; the test can only pass too easily, never fail by it.
            assert not threading.Event().wait(0.2)
            ended.set()
        return task

    with ThreadPoolExecutor(2) as executor:
        try:
            with closing(in_order(range(2), work, executor, 2)) as results:
                for task, result in results:
                    assert task == result == 0
                    break
        except ZeroDivisionError:
            assert fails
        assert ended.is_set()


def test_the_task_that_is_waited_for_ends_before_whoever_is_interrupted_goes_on() -> None:
    hold, ended = threading.Event(), threading.Event()

    def work(task: int) -> int:
        assert hold.wait(60.0)
        ended.set()
        return task

    def interrupt(*_: object) -> None:
        threading.Timer(0.1, hold.set).start()
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with (
            ThreadPoolExecutor(1) as executor,
            closing(in_order(range(1), work, executor, 1)) as results,
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(ZeroDivisionError):
                next(results)
            assert ended.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_those_that_have_not_begun_are_not_begun() -> None:
    hold, done = threading.Event(), []

    def work(task: int) -> int:
        done.append(task)
        if task == 1:
            assert hold.wait(60.0)
        return task

    with ThreadPoolExecutor(1) as executor:
        results = in_order(range(100), work, executor, 50)
        assert next(results) == (0, 0)
        threading.Timer(0.05, hold.set).start()
        results.close()
        assert done in ([0], [0, 1])
