"""What torch's writer of distributed checkpoints for Hugging Face leaves: a file for each rank.

Rank r writes `shard-0000R-model-0000i-of-0000n.safetensors`, R being r + 1, for each i that it has
tensors of. Files of several ranks hold boxes of one tensor under one name; the metadata of each say
where they belong. The shape of the whole tensor is nowhere: it is as large as its boxes.

Source: `HuggingFaceStorageWriter(save_distributed=True)` of torch/distributed/checkpoint, in
hf_storage.py and _hf_utils.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import first_of
from gradtool.core.sections import sections_of_flat_names
from gradtool.errors import CorruptFileError, MissingShardError, UnsupportedFormatError
from gradtool.formats.files import is_tensor_file
from gradtool.formats.layouts._chunked import Part, gathered, parts_of, skipped_once
from gradtool.formats.layouts._joined import filtered, joined
from gradtool.formats.layouts.asked import Asked
from gradtool.storage.listing import Listing

_NAME: Final = re.compile(r"shard-(\d{5})-model-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)

MARKERS: Final = ("shard-#####-model-#####-of-#####.safetensors",)
_MAY_BE_NONE: Final = (
    "lost, or never written, as HSDP has one of its replicas write each part and no file says "
    "which: read what torch's consolidate_safetensors_files makes of them"
)


class _Place(NamedTuple):
    """What a file's name says: of which shard it is, and which of how many files."""

    shard: int
    number: int
    total: int

    @property
    def name(self) -> str:
        return f"shard-{self.shard:05}-model-{self.number:05}-of-{self.total:05}.safetensors"


def recognises(listing: Listing) -> bool:
    """Whether files of a directory are so named."""
    return any(map(_NAME.fullmatch, listing.names))


def open_hf_dcp(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of all shards, each tensor put together.

    Raises:
        MissingShardError: a number among the names is missing.
        CorruptFileError: a file does not say which boxes it holds, or they do not fit each other.
        UnsupportedFormatError: other tensor files.
    """
    places = _places(listing)
    shards = []
    for place in places:
        path = listing.at(place.name)
        shard = asked.open_file(path)
        if shard is None or (shard.names and not shard.placed):
            problem = "is named like a shard, and says nothing of the boxes that it holds"
            raise CorruptFileError(path, problem)
        shards.append(shard)
    _refuse_gaps(listing, places, shards)
    found = gathered(listing.path, _parts(shards))
    unread = _others(listing)
    notes = [f"not read: {first_of(unread)}"] if unread else []
    notes.append(
        "no file says how many shards there are: tensors are as large as the parts that are here"
    )
    all_of_them = joined(listing.path, "hf_dcp", shards, notes=notes)
    whole = replace(
        all_of_them,
        tensors=found.tensors,
        replicas=found.replicas,
        skipped=skipped_once(listing.path, [*_labels(shards)], shards),
        placed={},
        part_notes=(),
    )
    return filtered(_in_sections(whole).with_scales_apart(), asked.wanted)


def _labels(shards: Iterable[Checkpoint]) -> Iterator[str]:
    return (os.path.basename(shard.path) for shard in shards)


def _parts(shards: Sequence[Checkpoint]) -> Iterator[Part]:
    for shard, label in zip(shards, _labels(shards), strict=True):
        yield from parts_of(shard, label)


def _places(listing: Listing) -> list[_Place]:
    """What the names of all shards say, in order; they have to be of one checkpoint."""
    matches = filter(None, map(_NAME.fullmatch, listing.names))
    places = sorted(_Place(*map(int, match.groups())) for match in matches)
    for place in places:
        if place.total != places[0].total:
            problem = f"two checkpoints are mixed: {places[0].name!r} and {place.name!r}"
            raise UnsupportedFormatError(listing.path, problem)
    return places


def _refuse_gaps(listing: Listing, places: Sequence[_Place], shards: Sequence[Checkpoint]) -> None:
    """Raise MissingShardError if a file is missing that must have been written.

    A rank that has nothing of some file does not write it. Where tensors are cut, ranks have parts
    of each, and files that some have and others not are taken for missing ones.
    """
    total = places[0].total
    there = {(place.shard, place.number) for place in places}
    numbers = {place.shard for place in places}
    last = max(numbers)
    missing = {*range(1, last + 1)} - numbers
    if missing:
        problem = f"{_Place(min(missing), 1, total).name!r} is missing"
        some = f"{len(numbers)} of at least {last} shards are there"
        raise MissingShardError(listing.path, f"{problem}: {some}", hint=_MAY_BE_NONE)
    are_cut = _are_cut(shards)
    for number in range(1, total + 1):
        absent = [shard for shard in sorted(numbers) if (shard, number) not in there]
        if absent and (are_cut or len(absent) == len(numbers)):
            name = _Place(absent[0], number, total).name
            raise MissingShardError(listing.path, f"{name!r} is missing", hint=_MAY_BE_NONE)


def _are_cut(shards: Iterable[Checkpoint]) -> bool:
    """Whether some tensor lies in several files, or in one that has no beginning of it."""
    seen: set[str] = set()
    for shard in shards:
        if not seen.isdisjoint(shard.placed):
            return True
        seen.update(shard.placed)
        if any(any(held.box.offsets) for placed in shard.placed.values() for held in placed.held):
            return True
    return False


def _others(listing: Listing) -> list[str]:
    """The directories beside the shards; UnsupportedFormatError for other tensor files."""
    others = [name for name in listing.names if not _NAME.fullmatch(name) and name[0] != "."]
    for name in others:
        if is_tensor_file(name):
            problem = f"holds {name!r} beside the shards of a checkpoint: two at once"
            raise UnsupportedFormatError(listing.path, problem, hint="read them one by one")
    return [f"{name}/" for name in others if listing.is_directory(name)]


def _in_sections(checkpoint: Checkpoint) -> Checkpoint:
    """The catalogue with the sections that the names of all files together tell."""
    section_of = sections_of_flat_names(checkpoint.names)
    return checkpoint.in_sections(lambda item: section_of(item.name), section_of.kinds)
