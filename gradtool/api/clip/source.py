"""What is to be clipped: where its files lie, and the catalogues that have a norm of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.clip.adaptive import without_state
from gradtool.core.clip.plan import ClipRequest
from gradtool.engine.reading.unpacking import unpacked
from gradtool.errors import SeveralCheckpointsError
from gradtool.formats.layouts.sharded_index import is_index_name
from gradtool.formats.named import units_named
from gradtool.places import Place, label_of
from gradtool.request import MeasureRequest, chosen, opened


class Catalogue(NamedTuple):
    """A checkpoint that is clipped by a norm of its own.

    Attributes:
        rank: whose it is, "rank 1"; "" for a whole checkpoint.
        whole: all that its files hold.
        part: what of it is to be clipped.
    """

    rank: str
    whole: Checkpoint
    part: Checkpoint


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be clipped.

    Attributes:
        place: what to open.
        shown: how it is called.
        path: the file, or the directory in which its files lie.
        chosen: the files and folders in the directory that it consists of, and which alone are
            written; None for all.
        index: the name of the index in the directory, if that was named; or "".
    """

    place: str | tuple[str, ...]
    shown: str
    path: str
    chosen: tuple[str, ...] | None = None
    index: str = ""

    def within(self, directory: str) -> str:
        """What to open of the same files in another directory."""
        return os.path.join(directory, self.index) if self.index else directory


def source_of(place: str | tuple[str, ...], request: MeasureRequest) -> Source:
    """What a path, a glob or several paths name; SeveralCheckpointsError for more than one."""
    shown = label_of(place)
    units = units_named(shown, [place] if isinstance(place, str) else place)
    if len(units) > 1:
        opened(place, request)  # which says what they are
    entries = units[0].entries
    if units[0].kind == "entry":
        (path,) = entries
        if is_index_name(path) and not os.path.isdir(path):
            directory, index = os.path.split(path)
            return Source(path, path, directory or os.curdir, index=index)
        return Source(path, path, path)
    directory = _in_common(entries)
    names = tuple(os.path.relpath(entry, directory) for entry in entries)
    return Source(place, shown, directory, names)


def _in_common(entries: Sequence[str]) -> str:
    """The directory in which all of these are, themselves or further down."""
    directories = {os.path.dirname(entry.rstrip(os.sep)) for entry in entries}
    return os.path.commonpath(directories) or os.curdir


def catalogues(place: Place, measuring: MeasureRequest, request: ClipRequest) -> list[Catalogue]:
    """What lies at a place: one checkpoint, or with `ranks="each"` those of all ranks."""
    try:
        found = [("", opened(place, measuring))]
    except SeveralCheckpointsError as error:
        if error.kind != "ranks":
            raise
        found = [(one.rank, opened(one.path, measuring)) for one in error.found]
    wholes = [(rank, unpacked(checkpoint)) for rank, checkpoint in found]
    return [Catalogue(rank, whole, _part(whole, measuring, request)) for rank, whole in wholes]


def _part(whole: Checkpoint, measuring: MeasureRequest, request: ClipRequest) -> Checkpoint:
    """What of a whole catalogue is to be clipped."""
    part = chosen(whole, measuring).without_others()
    return part if request.agc is None else without_state(part)
