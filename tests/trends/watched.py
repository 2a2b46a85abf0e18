"""A run that is followed look by look, by a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass

from gradtool.api.follow.following import Follower


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Followed:
    """A follower, and what it tells at each look."""

    follower: Follower
    clock: Clock

    def look(self, after: float = 1.0) -> list[str]:
        """What is new after some seconds: the number of a step, or its path; a * for a change."""
        self.clock.now += after
        return [
            "together" if news.step is None else f"{news.step.label}{'*' if news.is_change else ''}"
            for news in self.follower.look()
        ]
