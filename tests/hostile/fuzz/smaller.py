"""The fewest changes of a mutant that still fail as all of them do."""

from __future__ import annotations

import os
from collections.abc import Callable

from fuzz.files.seeds import Seed
from fuzz.judging.judge import LOADERS, Verdict, judge, measured
from fuzz.mutations.mutants import MOST_CHANGES, Mutant, mutant
from fuzz.workers import write

Fails = Callable[[Verdict], bool]


def verdicts_of(path: str, content: bytes) -> list[Verdict]:
    """How gradtool and each loader stand to each other over a file, judged in this process."""
    write(path, content)
    found = measured(path)
    return [judge(found, name, load(path)) for name, load in LOADERS.items()]


def smallest(seed: Seed, number: int, path: str, fails: Fails) -> Mutant:
    """The mutant without each change that it fails without; changes are tried in order.

    Each trial is a process of its own: what a loader does with half of a mutant nobody knows.
    """
    keep = set(range(MOST_CHANGES))
    for position in range(MOST_CHANGES):
        fewer = mutant(seed, number, keep - {position})
        if _fails_elsewhere(fewer, path, fails):
            keep.discard(position)
    return mutant(seed, number, keep)


def _fails_elsewhere(one: Mutant, path: str, fails: Fails) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if any(map(fails, verdicts_of(path, one.content))) else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0
