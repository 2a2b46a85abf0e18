"""Counts of what was judged, and an example of each kind of failure."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from fuzz.judging.judge import LOADERS, Verdict
from fuzz.judging.reasons import classified
from fuzz.mutations.mutants import chosen_seed
from fuzz.smaller import smallest
from fuzz.workers import Judged

FAILURES: Final = ("disagree", "unlisted")
"""Outcomes that there may be none of; a crash of gradtool or of the fuzzer is another."""

_MOST_EXPLAINED: Final = 40
_FOLDER: Final = "python tests/hostile/fuzz"

_NAMES_AND_NUMBERS: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(\.\d+)?(e[-+]\d+)?")


def kind_of(verdict: Verdict) -> str:
    """The outcome under which a verdict is counted."""
    if verdict.outcome in ("stricter", "laxer"):
        reason = classified(verdict)
        return "unlisted" if reason is None else f"{verdict.outcome}: {reason.name}"
    return verdict.outcome


class Tally:
    """What came of all mutants so far.

    Attributes:
        files: how many were judged.
        accepted: how many gradtool reads.
        agreed: how many gradtool and a loader read, and say the same of.
        counts: of each outcome by loader.
        failures: numbers of the mutants that failed, by what was said of them, without names
            and numbers.
    """

    def __init__(self, folder: str, keep: Path | None) -> None:
        self.files = self.accepted = self.agreed = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: dict[str, list[int]] = {}
        self._explained = 0
        self._path = os.path.join(folder, "mutant")
        self._keep = keep

    def add(self, one: Judged) -> None:
        """Count one mutant, and explain it where it fails as none did before."""
        self.files += 1
        self.accepted += one.accepted
        kinds = [(verdict, kind_of(verdict)) for verdict in one.verdicts]
        self.counts.update((verdict.loader, kind) for verdict, kind in kinds)
        self.agreed += any(kind == "agree" for _, kind in kinds)
        for verdict, kind in kinds:
            if kind in FAILURES:
                self._fail(one.number, verdict)
        if one.crashed is not None:
            phase, how = one.crashed
            is_loaders = phase in LOADERS and not how.startswith("Traceback")
            self.counts[phase, f"loader crashed: {how}" if is_loaders else "crashed"] += 1
            if not is_loaders:
                self._fail(one.number, Verdict(phase, "crash", (how,)))

    def _fail(self, number: int, verdict: Verdict) -> None:
        words = f"{verdict.loader}: {verdict.outcome}: {verdict.why[0]}"
        known = self.failures.setdefault(_NAMES_AND_NUMBERS.sub("_", words), [])
        known.append(number)
        if len(known) == 1 and self._explained < _MOST_EXPLAINED:
            self._explained += 1
            self._explain(number, verdict, words)

    def _explain(self, number: int, verdict: Verdict, words: str) -> None:
        seed = chosen_seed(number)
        say(f'{words}\n    of "{seed.name}" {number}')
        if verdict.outcome == "crash":
            return  # nor would it be wise to make the mutant in this process
        known = (verdict.loader, kind_of(verdict))
        one = smallest(seed, number, self._path, lambda to: (to.loader, kind_of(to)) == known)
        changes = ",".join(change.partition(":")[0] for change in one.changes)
        command = f'run.py --replay "{seed.name}" {number} --changes {changes}'
        say(f"    by {', '.join(one.changes)}; again by\n    {_FOLDER}/{command}")
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^0-9A-Za-z]", "-", seed.name)
            (self._keep / f"{name}-{number}").write_bytes(one.content)


def say(words: str) -> None:
    """A line of output, at once."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
