"""One warmed process for all runs, and the dumps that they clip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from forks import Forks
from halved import Halved, halved_directory, halved_file


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A warmed process whose children run the command line."""
    with Forks(tmp_path_factory.mktemp("warm")) as started:
        yield started


@pytest.fixture(scope="session")
def large_file() -> Halved:
    """A file of two tasks, written by two threads."""
    return halved_file(elements=2 << 20, copied_nbytes=4 << 20)


@pytest.fixture(scope="session")
def large_directory() -> Halved:
    """A sharded directory of as much."""
    return halved_directory(elements=1 << 20, rest_nbytes=2 << 20)


@pytest.fixture(scope="session")
def small_file() -> Halved:
    """A file that takes hardly any time."""
    return halved_file(elements=1 << 10, copied_nbytes=100)


@pytest.fixture(scope="session")
def small_directory() -> Halved:
    """A directory that takes hardly any time."""
    return halved_directory(elements=1 << 10, rest_nbytes=100)
