"""Expanding the PATHs of a command line, and working on each of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

from gradtool.cli.console import say_error
from gradtool.errors import DeviceError, GradtoolError, SeveralCheckpointsError, UsageError
from gradtool.storage.listing import expanded

if TYPE_CHECKING:  # it loads all readers, which --help does not need
    from gradtool.places import Place

Result = TypeVar("Result")


@dataclass(slots=True)
class Outcome(Generic[Result]):
    """What became of all that a command was to work on.

    Attributes:
        results: of what succeeded.
        several: what holds several checkpoints, of which none was worked on.
        exit_code: the highest of all failures.
    """

    results: list[Result] = field(default_factory=list)
    several: list[SeveralCheckpointsError] = field(default_factory=list)
    exit_code: int = 0


def expand_all(paths: Iterable[str]) -> Iterator[str]:
    """The paths that each of `paths` names, globs expanded."""
    return chain.from_iterable(map(expanded, paths))


def one_place(path: str) -> Place:
    """The one dump that a path or a glob names; UsageError for several."""
    from gradtool.places import places_among  # noqa: PLC0415 - not for --help

    places = places_among([path])
    if len(places) > 1:
        raise UsageError(f"{path}: names {len(places):,} dumps", hint="name one of them")
    return places[0] if places else path


def is_among(place: str, files: Iterable[str]) -> bool:
    """Whether `place` is one of `files`, be it under another name."""
    return os.path.exists(place) and any(
        os.path.exists(file) and os.path.samefile(place, file) for file in files
    )


def for_each(places: Iterable[Place], work: Callable[[Place], Result]) -> Outcome[Result]:
    """The results of `work` for all places where it succeeds, and the highest exit code.

    Ranks that are to be read by themselves are places of their own. Each failure is said on
    stderr. After a DeviceError no other place is tried: the device would fail again.
    """
    outcome = Outcome[Result]()
    waiting = deque(places)
    while waiting:
        place = waiting.popleft()
        try:
            outcome.results.append(work(place))
        except GradtoolError as error:
            if isinstance(error, SeveralCheckpointsError):
                paths = [one.path for one in error.found]
                if error.kind == "ranks" and place not in paths:  # or there is no end
                    waiting.extendleft(reversed(paths))
                    continue
                outcome.several.append(error)
            say_error(error)
            outcome.exit_code = max(outcome.exit_code, error.exit_code)
            if isinstance(error, DeviceError):
                break
    return outcome
