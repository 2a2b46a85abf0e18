"""Progress goes forwards and ends at all there is, whatever parts the work has."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gradtool.engine.progress import split_progress, whole_progress

SIZES = st.integers(0, 1000)
STEPS = st.lists(st.integers(1, 400), max_size=6)
PARTS = st.lists(
    st.tuples(st.one_of(st.none(), SIZES), st.one_of(st.none(), SIZES), STEPS), min_size=1
)


@given(work=PARTS)
def test_it_never_goes_back_and_ends_at_the_end(
    work: list[tuple[int | None, int | None, list[int]]],
) -> None:
    """Parts of a share, and of none; some never begin, others do more or less than they said."""
    told: list[tuple[int, int]] = []
    shares = [share for share, _, _ in work]
    progresses = split_progress(lambda *counts: told.append(counts), shares)
    for progress, (_, todo, steps) in zip(progresses, work, strict=True):
        if todo is not None:
            progress.begin(todo)
        for step in steps:
            progress.advance(step)
        progress.finish()
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(done <= total for done, total in told)
    shares = [todo or 0 if share is None else share for share, todo, _ in work]
    if sum(shares):
        assert told[-1] == (sum(shares), sum(shares))
    assert all(one != other for one, other in itertools.pairwise(told)), "told once"


def test_what_has_not_begun_is_taken_for_as_large_as_what_has() -> None:
    told: list[tuple[int, int]] = []
    first, second, third, fourth = split_progress(lambda *counts: told.append(counts), [None] * 4)
    first.begin(100)
    first.advance(50)
    assert told[-1] == (50, 400)
    first.finish()
    second.begin(300)
    second.advance(0)
    assert told[-1] == (100, 800)
    second.finish()
    third.finish()  # which could not be read, and says nothing of how large others are
    assert told[-1] == (400, 600)
    fourth.begin(10)
    fourth.finish()
    assert told[-1] == (410, 410)


def test_a_part_counts_for_its_share_however_much_it_has_to_do() -> None:
    told: list[tuple[int, int]] = []
    reading, writing = split_progress(lambda *counts: told.append(counts), [100, 200])
    reading.begin(50)
    reading.advance(25)
    assert told[-1] == (50, 300)
    reading.finish()
    writing.begin(1000)
    writing.advance(500)
    assert told[-1] == (200, 300)


def test_nobody_need_look() -> None:
    progress = whole_progress(None)
    progress.begin(10)
    progress.advance(10)
    progress.finish()
