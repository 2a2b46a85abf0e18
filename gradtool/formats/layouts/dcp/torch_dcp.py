"""torch's distributed checkpoints: `.metadata`, and a file of items for each rank.

Each item is a box of a tensor, or bytes of another object, which are never opened. Files hold
items one after another, as `torch.save` makes them; or the bytes of other objects, and then one
safetensors file with all boxes. Of the former nothing is read for the catalogue but where they are.

Source: `FileSystemWriter` of torch/distributed/checkpoint/filesystem.py, and metadata.py there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.figures import counted, first_of
from gradtool.core.locations import Location
from gradtool.core.sections import sections_of
from gradtool.core.tensors import Chunk, Skipped, TensorSpec
from gradtool.errors import CorruptFileError, MissingShardError, UnsupportedFormatError
from gradtool.formats.files import is_tensor_file
from gradtool.formats.layouts._chunked import Part, gathered, require_cover
from gradtool.formats.layouts._joined import filtered
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.dcp.blob import Blob, read_blob
from gradtool.formats.layouts.dcp.item import TorchItem
from gradtool.formats.layouts.dcp.metadata import (
    METADATA,
    Metadata,
    StoredBox,
    StoredTensor,
    read_metadata,
)
from gradtool.storage.listing import Listing, is_plain

_SUFFIX: Final = ".distcp"
MARKERS: Final = (METADATA, f"*{_SUFFIX}")
_ITEMS: Final = re.compile(rf"__(\d{{1,9}})_\d{{1,9}}{re.escape(_SUFFIX)}", re.ASCII)
_OF_A_RANK: Final = re.compile(rf"__\d+{re.escape(METADATA)}", re.ASCII)
_OTHER_SAVE: Final = f"truncated, or the {METADATA} of another save"


def recognises(listing: Listing) -> bool:
    """Whether a directory has such files, or nothing but what says where they are.

    Other programs have a `.metadata` too, be it a directory.
    """
    if any(name.endswith(_SUFFIX) for name in listing.names):
        return True
    others = any(is_tensor_file(name) for name in listing.names)
    return METADATA in listing.names and not others and listing.is_file(METADATA)


def open_torch_dcp(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of all tensors, each under its name and with its whole shape.

    Raises:
        MissingShardError: a file of items is missing.
        CorruptFileError: the save was not finished; `.metadata` contradicts itself or the sizes of
            files; boxes that are not all of a tensor, each element once.
        UnsupportedFormatError: a type that gradtool does not know, items that are compressed.
    """
    if METADATA not in listing.names:
        _refuse_unfinished(listing)
    with listing.open(METADATA) as source:
        metadata = read_metadata(source)
        source.check_unchanged()
        files = [source.file]
    shards = _open_shards(listing, metadata)
    files += [shard.file for shard in shards.values()]
    sections = sections_of({name: _top(metadata.paths.get(name, ())) for name in metadata.tensors})
    parts: list[Part] = []
    skipped = []
    path = listing.at(METADATA)
    for name, tensor in metadata.tensors.items():
        element, section = tensor.element, sections(name)
        if element.dtype is None:
            require_cover(path, name, tensor.shape, [box for box, _ in tensor.boxes])
            stored = _integers(path, name, tensor, section, shards)
            skipped.append(Skipped(name, element.name, element.reason, section, stored=stored))
        else:
            parts.extend(_parts(name, tensor, element.dtype, section, shards))
    found = gathered(path, parts)
    others = _of_other_ranks(listing, shards)
    checkpoint = Checkpoint(
        path=listing.path,
        format="torch_dcp",
        files=tuple(files),
        tensors=found.tensors,
        replicas=found.replicas,
        skipped=tuple(skipped),
        section_kinds=sections.kinds,
        essential_notes=_note_on_other_ranks(others),
        notes=tuple(_notes(listing, metadata, {*shards, *others})),
    )
    return filtered(checkpoint.with_scales_apart(), asked.wanted)


def _refuse_unfinished(listing: Listing) -> NoReturn:
    problem = f"holds {_SUFFIX} files and no {METADATA}"
    own = next((name for name in listing.names if _OF_A_RANK.fullmatch(name)), None)
    if own is None:
        raise CorruptFileError(listing.path, f"{problem}: the save was not finished")
    raise UnsupportedFormatError(
        listing.path,
        f"{problem}: {own} is one rank's own, as use_collectives=False has each write it",
        hint="save with dcp.save's default, which has one for all ranks",
    )


def _top(path: tuple[str, ...]) -> str | None:
    """The first of the keys that lead to a tensor; None where there is one alone."""
    return path[0] if len(path) > 1 else None


@dataclass(frozen=True, slots=True)
class _Shard:
    """An open file of items; `blob` is the safetensors file with its tensors, if there is one."""

    file: Location
    blob: Blob | None


class _Item(NamedTuple):
    """An item of a file, in the order in which items come."""

    offset: int
    end: int
    name: str
    is_in_blob: bool


def _open_shards(listing: Listing, metadata: Metadata) -> dict[str, _Shard]:
    """The files of items by name, each of the size that the items take."""
    items: dict[str, list[_Item]] = {}
    for name, tensor in metadata.tensors.items():
        for stored_box in tensor.boxes:
            items.setdefault(stored_box.stored.file, []).append(_item(name, stored_box, tensor))
    for name, (file, offset, nbytes) in metadata.others.items():
        items.setdefault(file, []).append(_Item(offset, offset + nbytes, name, False))
    return {file: _open_shard(listing, file, items[file], metadata) for file in sorted(items)}


def _item(name: str, stored_box: StoredBox, tensor: StoredTensor) -> _Item:
    """The item of a box: where it takes just the bytes of the elements, it lies in a blob."""
    box, (_, offset, nbytes) = stored_box
    is_in_blob = nbytes == box.numel * tensor.element.itemsize
    return _Item(offset, offset + (0 if is_in_blob else nbytes), name, is_in_blob)


def _open_shard(listing: Listing, name: str, items: list[_Item], metadata: Metadata) -> _Shard:
    if not is_plain(name):
        problem = f"names {name!r:.80}, which is no plain file name"
        raise CorruptFileError(listing.at(METADATA), problem, tensor=items[0].name)
    if not listing.exists(name):
        problem = f"{name!r:.80} is missing"
        raise MissingShardError(listing.at(METADATA), problem, tensor=items[0].name)
    items.sort()
    with listing.open(name) as source:
        file = source.file
        reached = _end_of_items(file, items, may_have_gaps=metadata.forgets)
        in_blob = [item for item in items if item.is_in_blob]
        if not in_blob:
            if reached != file.size and not metadata.forgets:
                problem = f"{file.size - reached} bytes after the last item belong to none"
                raise CorruptFileError(file.path, f"{problem}: {_OTHER_SAVE}", byte=reached)
            return _Shard(file, None)
        blob = read_blob(source, in_blob[0].offset)
        _refuse_unnamed(blob, {item.name for item in in_blob})
        source.check_unchanged()
        return _Shard(file, blob)


def _refuse_unnamed(blob: Blob, named: Collection[str]) -> None:
    """Raise CorruptFileError for elements that the file has and `.metadata` does not."""
    for name, type_ in blob.types.items():
        if type_.nbytes and name not in named:
            problem = f"{METADATA} does not name it in this file: {_OTHER_SAVE}"
            raise CorruptFileError(blob.file.path, problem, tensor=name, byte=blob.begins[name])


def _end_of_items(file: Location, items: list[_Item], *, may_have_gaps: bool) -> int:
    """The byte after the last item; CorruptFileError where items overlap or leave gaps.

    Those in a blob are at its first byte, all of them.
    """
    reached = 0
    for position, item in enumerate(items):
        if item.end > file.size or (item.is_in_blob and item.offset >= file.size):
            problem = f"ends before its item does, at byte {max(item.end, item.offset + 1)}"
            raise CorruptFileError(
                file.path, f"{problem}: {_OTHER_SAVE}", tensor=item.name, byte=file.size
            )
        is_next = item.offset == reached or (may_have_gaps and item.offset > reached)
        in_same_blob = position and item.is_in_blob and items[position - 1].is_in_blob
        if not is_next or (position and items[position - 1].is_in_blob and not item.is_in_blob):
            problem = f"its item begins at byte {item.offset}, those before it end at {reached}"
            raise CorruptFileError(
                file.path, f"{problem}: {_OTHER_SAVE}", tensor=item.name, byte=item.offset
            )
        if in_same_blob and item.offset != items[position - 1].offset:
            problem = "lies in a second safetensors file of one file"
            raise CorruptFileError(file.path, problem, tensor=item.name, byte=item.offset)
        reached = max(reached, item.end)
    return reached


def _parts(
    name: str, tensor: StoredTensor, dtype: DType, section: str, shards: Mapping[str, _Shard]
) -> Iterator[Part]:
    """The boxes of a tensor, packed in items, or where they are in blobs."""
    for box, (file, offset, nbytes) in tensor.boxes:
        shard = shards[file]
        if shard.blob is not None:
            stored = shard.blob.spec(name, section, dtype, box)
        else:
            packed = TorchItem(shard.file, offset, nbytes)
            stored = TensorSpec(name, dtype, box.sizes, packed=packed, section=section)
        yield Part(Chunk(box, stored), tensor.shape, file)


def _integers(
    path: str, name: str, tensor: StoredTensor, section: str, shards: Mapping[str, _Shard]
) -> TensorSpec | None:
    """A tensor of integers or bools, put together; None for what is neither."""
    dtype = DTYPES.get(tensor.element.name)
    if dtype is None or dtype.kind not in ("integer", "bool"):
        return None
    (whole,) = gathered(path, _parts(name, tensor, dtype, section, shards)).tensors
    return whole


def _of_other_ranks(listing: Listing, shards: Mapping[str, _Shard]) -> dict[str, str]:
    """Files of ranks of which the metadata name none, as if forgotten, with their ranks."""
    known = {match[1] for match in map(_ITEMS.fullmatch, shards) if match}
    if not known:
        return {}  # they are called otherwise
    matches = [match for match in map(_ITEMS.fullmatch, listing.names) if match]
    return {match[0]: match[1] for match in matches if match[1] not in known}


def _note_on_other_ranks(others: Mapping[str, str]) -> tuple[str, ...]:
    if not others:
        return ()
    ranks = first_of(list(dict.fromkeys(others.values())))
    files = first_of(list(others))
    reason = "they are of another save, or it forgets them, and torch does not load them either"
    return (f"not read: {files}: `{METADATA}` names no file of ranks {ranks}: {reason}",)


def _notes(listing: Listing, metadata: Metadata, known: Collection[str]) -> Iterator[str]:
    others = [name for name in listing.names if name not in known and not name.startswith(".")]
    if others:
        yield f"not read: {first_of(others)}"
    if metadata.others:
        count = counted(len(metadata.others), "item that is", "items that are")
        yield f"{count} no tensor: not opened"
