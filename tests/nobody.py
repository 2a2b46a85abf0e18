"""Somebody who may not read and write everything, as whom the superuser runs tests of that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
NOT_ROOT = {"ids": [NOBODY, NOBODY, []]} if IS_ROOT else {}
"""Has `Forks.run` step down from the superuser, to whom nothing is read-only."""


@contextmanager
def as_nobody() -> Iterator[None]:
    """The superuser is nobody for as long; who is not the superuser stays who they are."""
    if not IS_ROOT:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def give(folder: Path) -> None:
    """Make whoever the tests step down to the owner of `folder` and all in it."""
    if IS_ROOT:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
