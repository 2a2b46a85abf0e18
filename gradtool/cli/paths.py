"""What the PATHs on a command line stand for, and doing something with each of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeVar

from gradtool.cli.console import say_error
from gradtool.core.names import natural_key
from gradtool.errors import DeviceError, GradtoolError

Result = TypeVar("Result")


def expand(path: str) -> list[str]:
    """What `path` names: itself if there is such a thing, else what it matches as a glob.

    Quoted globs reach gradtool unexpanded, so that neither the shell's rules nor its limit on
    arguments matter. One that matches nothing stands for itself, a file that does not exist.
    """
    if os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True), key=natural_key) or [path]


def expand_all(paths: Iterable[str]) -> Iterator[str]:
    """What all of `paths` name."""
    return chain.from_iterable(map(expand, paths))


def is_among(place: str, files: Iterable[str]) -> bool:
    """Whether writing to `place` would destroy one of `files`, under whatever name."""
    return os.path.exists(place) and any(
        os.path.exists(file) and os.path.samefile(place, file) for file in files
    )


def for_each(paths: Iterable[str], work: Callable[[str], Result]) -> tuple[list[Result], int]:
    """Do `work` with every path, whatever happens to the others.

    Each failure is said on stderr. Where what computes has failed that is the end: it would again.
    Returns the results and the highest exit code.
    """
    results: list[Result] = []
    exit_code = 0
    for path in expand_all(paths):
        try:
            results.append(work(path))
        except GradtoolError as error:
            say_error(error)
            exit_code = max(exit_code, error.exit_code)
            if isinstance(error, DeviceError):
                break
    return results, exit_code
