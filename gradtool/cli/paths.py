"""Expanding the PATHs of a command line, and working on each of them."""

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
    """`path` itself if it exists, else the paths that it matches as a glob, in natural order.

    Quoted globs reach gradtool unexpanded, so that neither the shell's rules nor its limit on
    arguments matter. A glob that matches nothing is returned as a path, which does not exist.
    """
    if os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True), key=natural_key) or [path]


def expand_all(paths: Iterable[str]) -> Iterator[str]:
    """The paths that `expand` gives for each of `paths`."""
    return chain.from_iterable(map(expand, paths))


def is_among(place: str, files: Iterable[str]) -> bool:
    """Whether `place` is one of `files`, be it under another name."""
    return os.path.exists(place) and any(
        os.path.exists(file) and os.path.samefile(place, file) for file in files
    )


def for_each(paths: Iterable[str], work: Callable[[str], Result]) -> tuple[list[Result], int]:
    """The results of `work` for all paths where it succeeds, and the highest exit code.

    Each failure is said on stderr. After a DeviceError no other path is tried: the device would
    fail again.
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
