"""What is asked of a directory, and what every layout needs to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gradtool.core.checkpoint import Checkpoint, RanksMode
from gradtool.core.names import NameFilter, no_name
from gradtool.formats.files import OpenFile
from gradtool.storage.listing import Listing

DEEPEST: Final = 3
"""Levels of directories below the one that was named in which checkpoints are looked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a directory or of several files.

    Attributes:
        open_file: opens one file of it.
        open_folder: opens a directory in it, by whatever layout that has.
        wanted: the names of tensors that are asked for; others may be left out of the catalogue.
        ranks: what the files of ranks are to each other.
        replicated: names of tensors of which each rank holds the whole.
        join: whether files with the same tensors are read under prefixes.
        levels: how many levels of directories may be looked into yet.
    """

    open_file: OpenFile
    open_folder: Callable[[Listing, Asked], Checkpoint]
    wanted: NameFilter
    ranks: RanksMode = "auto"
    replicated: NameFilter = no_name
    join: bool = False
    levels: int = DEEPEST

    def below(self) -> Asked:
        """The same of a directory one level further down."""
        return replace(self, levels=self.levels - 1)
