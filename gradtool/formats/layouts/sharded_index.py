"""Hugging Face's sharded checkpoints: `*.index.json` with a `weight_map` from tensor to file.

Source: `save_pretrained` of transformers, which writes both the safetensors and the older
`pytorch_model.bin.index.json` kind. An index names plain files in its own directory; the files
themselves may be symbolic links, as in the Hugging Face cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.locations import Location
from gradtool.core.names import natural_key
from gradtool.errors import CorruptFileError, InputError, MissingShardError, UnknownFormatError
from gradtool.formats.files import OpenFile
from gradtool.formats.layouts._joined import joined
from gradtool.formats.layouts.arrangement import arranged, glob_of
from gradtool.formats.layouts.names.gaps import refuse_faults
from gradtool.storage.json import parse_object
from gradtool.storage.listing import Listing, is_plain, listing_around

MAX_INDEX_BYTES: Final = 100_000_000


def is_index_name(path: str) -> bool:
    """Whether a file of that name is an index rather than tensors."""
    return path.endswith(".index.json")


def open_index(listing: Listing, name: str, open_file: OpenFile) -> Checkpoint:
    """The catalogue of all shards of the index so named, in natural order of their names.

    In this order writers cut a model into shards.

    Raises CorruptFileError where index and shards contradict each other, MissingShardError for a
    shard that is not there.
    """
    path = listing.at(name)
    weight_map, file = _read_index(listing, name)
    shards = []
    for shard_name in _shard_names(weight_map):
        if not listing.exists(shard_name):
            hint = _hint_on_stale_index(listing, weight_map, open_file)
            raise MissingShardError(path, f"shard {shard_name!r} is missing", hint=hint)
        shards.append((shard_name, _open_shard(listing, shard_name, open_file)))
    _refuse_numbers_missing(listing, weight_map)
    notes = _check_names(path, weight_map, shards)
    catalogues = [shard for _, shard in shards]
    return joined(path, "sharded", catalogues, files=[file], notes=notes)


def shards_named_by(path: str) -> list[str]:
    """The paths of the files that an index names; none where it cannot be read."""
    listing, name = listing_around(path)
    with suppress(InputError):
        return [listing.at(shard) for shard in _shard_names(_read_index(listing, name)[0])]
    return []


def _read_index(listing: Listing, name: str) -> tuple[dict[str, str], Location]:
    path = listing.at(name)
    with listing.open(name) as source:
        if source.file.size > MAX_INDEX_BYTES:
            raise CorruptFileError(path, f"an index of {source.file.size} bytes is none")
        index = parse_object(source.read(0, source.file.size), path, "the index")
        return _weight_map(path, index.get("weight_map")), source.file


def _shard_names(weight_map: dict[str, str]) -> list[str]:
    return sorted(set(weight_map.values()), key=natural_key)


def _refuse_numbers_missing(listing: Listing, weight_map: dict[str, str]) -> None:
    """MissingShardError where the names of the shards tell of more than are there."""
    named = set(weight_map.values())
    for unit in arranged(name for name in listing.names if name in named or listing.is_file(name)):
        if unit.kind == "shard" and not named.isdisjoint(unit.entries):
            refuse_faults(unit, listing.path, listing.path)


def _open_shard(listing: Listing, name: str, open_file: OpenFile) -> Checkpoint:
    shard = open_file(listing.at(name))
    if shard is None:
        problem = "is a shard in no format that gradtool knows"
        raise UnknownFormatError(listing.at(name), problem)
    return shard


def _hint_on_stale_index(
    listing: Listing, weight_map: dict[str, str], open_file: OpenFile
) -> str | None:
    """What to read instead, if other shards beside the index hold all that it lists."""
    named = set(weight_map.values())
    others = [name for name in listing.names if name not in named and listing.is_file(name)]
    for unit in arranged(others):
        if unit.kind == "shard":
            with suppress(InputError):
                refuse_faults(unit, listing.path, listing.path)
                shards = [_open_shard(listing, entry, open_file) for entry in unit.entries]
                if {name for shard in shards for name in shard.names} >= weight_map.keys():
                    return (
                        f"the index is stale: all {len(weight_map):,} tensors in it are in "
                        f"{len(shards)} files beside it: read {glob_of(listing, unit)!r}"
                    )
    return None


def _weight_map(path: str, found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not found:
        raise CorruptFileError(path, "the index has no weight_map of tensors to files")
    for tensor, name in found.items():
        if not isinstance(name, str) or not is_plain(name):
            raise CorruptFileError(
                path, f"names {name!r}, which is no plain file name", tensor=tensor
            )
    return found


def _check_names(
    path: str, weight_map: dict[str, str], shards: Sequence[tuple[str, Checkpoint]]
) -> list[str]:
    """Refuse tensors that lie elsewhere than the index says; note those that it forgets."""
    home: dict[str, str] = {}
    for name, shard in shards:
        for tensor in shard.names:
            if tensor in home:
                raise CorruptFileError(
                    path, f"is in two shards, {home[tensor]!r} and {name!r}", tensor=tensor
                )
            home[tensor] = name
    for tensor, name in weight_map.items():
        if home.get(tensor) != name:
            where = f"{home[tensor]!r} has it" if tensor in home else "no shard has it"
            raise CorruptFileError(path, f"is not in its shard {name!r}: {where}", tensor=tensor)
    extra = len(home) - len(weight_map)
    return [f"tensors of the shards that are not in the index: {extra}"] if extra else []
