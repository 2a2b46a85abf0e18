"""The `.metadata` of a torch distributed checkpoint: which boxes of which tensors lie where.

A pickle of `torch.distributed.checkpoint.metadata.Metadata`, read by the inert interpreter: every
number, type and name in it is a claim, and its objects are stand-ins with a state.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NoReturn, TypeGuard

from gradtool.core.element_types import ElementType, torch_type
from gradtool.core.json_text import is_unicode
from gradtool.core.locations import Source
from gradtool.core.shapes.boxes import Box
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.pickles.stand_ins import Name, Opaque
from gradtool.formats.pickles.unpickle import unpickle

METADATA: Final = ".metadata"
MAX_METADATA_NBYTES: Final = 256 << 20
"""About 1.7 million boxes: each takes some 150 bytes."""

_LIMIT: Final = 1 << 63
_MAX_DIMENSIONS: Final = 64

_PACKED: Final = [struct.Struct(f"<{count}q").pack for count in range(_MAX_DIMENSIONS + 1)]

Sizes = tuple[int, ...]


class Stored(NamedTuple):
    """Where an item is: `nbytes` bytes of the file so named, from byte `offset` on."""

    file: str
    offset: int
    nbytes: int


class StoredBox(NamedTuple):
    """A box of a tensor, and where its item is."""

    box: Box
    stored: Stored


class StoredTensor(NamedTuple):
    """A tensor that is stored in boxes."""

    element: ElementType
    shape: Sizes
    boxes: list[StoredBox]


@dataclass(slots=True)
class Metadata:
    """What `.metadata` says.

    Attributes:
        tensors: by name.
        others: the items that are no tensors, by name.
        paths: of the keys that led to each name, where they are noted.
        forgets: whether ranks wrote items that are not in it: where several have an empty box at
            one place, it has one of them.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    others: dict[str, Stored] = field(default_factory=dict)
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    forgets: bool = False


def read_metadata(source: Source) -> Metadata:
    """What an open `.metadata` says.

    Raises:
        CorruptFileError: it is no such pickle, or contradicts itself.
        UnsupportedFormatError: too large, a type that gradtool does not know, items that are
            compressed.
    """
    return _Reader(source.path).read(_root(source))


def _root(source: Source) -> dict[object, object]:
    size = source.file.size
    if size > MAX_METADATA_NBYTES:
        problem = f"a pickle of {size} bytes; gradtool reads {MAX_METADATA_NBYTES}"
        raise UnsupportedFormatError(source.path, problem)
    root = unpickle(source.read(0, size), source.path).root
    if not _is(root, ".Metadata") or not isinstance(root.state, dict):
        raise CorruptFileError(source.path, "holds no Metadata of a torch distributed checkpoint")
    return root.state


def _is(found: object, ending: str) -> TypeGuard[Opaque]:
    """Whether an object is of a class with that end of its name, whichever module it lay in."""
    return type(found) is Opaque and found.name.endswith(ending)


class _Reader:
    """Reads the parts of one `.metadata`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stored: dict[tuple[str, bytes | None], Stored] = {}
        self._empty: set[tuple[str, bytes | None]] = set()
        self._elements: dict[str, ElementType] = {}
        self._forgets = False

    def read(self, root: dict[object, object]) -> Metadata:
        self._read_storage(root.get("storage_data"))
        found = Metadata(paths=_paths(root.get("planner_data")))
        entries = root.get("state_dict_metadata")
        if not isinstance(entries, dict):
            self._broken("has no state_dict_metadata")
        for name, entry in entries.items():
            if not isinstance(name, str) or not is_unicode(name):
                self._broken("a tensor's name is no text")
            if _is(entry, ".TensorStorageMetadata"):
                found.tensors[name] = self._tensor(name, entry.state)
            elif _is(entry, ".BytesStorageMetadata"):
                found.others[name] = self._take(name, None)
            else:
                self._broken("is stored as neither a tensor nor bytes", name)
        for name, _ in self._stored:
            self._broken("storage_data has an item of it that it has no chunk for", name)
        found.forgets = self._forgets
        return found

    def _take(self, name: str, offsets: Sizes | None) -> Stored:
        """Where the item of a box is, which no other box may have."""
        stored = self._stored.pop(_key(name, offsets), None)
        if stored is None:
            where = "" if offsets is None else f" for its chunk at {list(offsets)}"
            self._broken(f"storage_data has no item{where}", name)
        return stored

    def _read_storage(self, found: object) -> None:
        """Note where each item is."""
        if not isinstance(found, dict):
            self._broken("has no storage_data")
        for key, value in found.items():
            index = key.state if _is(key, ".MetadataIndex") else None
            place = value.state if _is(value, "._StorageInfo") else None
            if not isinstance(index, dict) or not isinstance(place, dict):
                self._broken("storage_data is no map of indices to places")
            name, offsets = index.get("fqn"), index.get("offset")
            if not isinstance(name, str) or not (offsets is None or _are_sizes(offsets)):
                self._broken("an index in storage_data has no name or no offset")
            if place.get("transform_descriptors"):
                problem = "its item is compressed or encrypted, by an extension of the writer"
                raise UnsupportedFormatError(self._path, problem, tensor=name)
            file, numbers = place.get("relative_path"), (place.get("offset"), place.get("length"))
            if not isinstance(file, str) or not _are_sizes(numbers):
                self._broken("its place in storage_data is none", name)
            if (
                self._stored.setdefault(_key(name, offsets), stored := Stored(file, *numbers))
                is not stored
            ):
                self._broken("storage_data has two items for one box", name)

    def _tensor(self, name: str, entry: object) -> StoredTensor:
        properties, shape, chunks = (
            (entry.get("properties"), entry.get("size"), entry.get("chunks"))
            if isinstance(entry, dict)
            else (None, None, None)
        )
        if not _are_sizes(shape) or not isinstance(chunks, list):
            self._broken("its size or chunks are none", name)
        boxes = []
        for chunk in chunks:
            state = chunk.state if _is(chunk, ".ChunkStorageMetadata") else None
            offsets, sizes = (
                (state.get("offsets"), state.get("sizes"))
                if isinstance(state, dict)
                else (None, None)
            )
            if not _are_sizes(offsets) or not _are_sizes(sizes):
                self._broken("a chunk of it has no offsets or no sizes", name)
            if 0 in sizes:
                key = _key(name, offsets)
                if key in self._empty:
                    self._forgets = True
                    continue
                self._empty.add(key)
            boxes.append(StoredBox(Box(offsets, sizes), self._take(name, offsets)))
        return StoredTensor(self._element(name, properties), shape, boxes)

    def _element(self, name: str, properties: object) -> ElementType:
        """The type of a tensor's elements: the first of its properties."""
        state = properties.state if _is(properties, ".TensorProperties") else None
        first = state[0] if isinstance(state, tuple) and state else None
        if isinstance(state, dict):
            first = state.get("dtype")
        if type(first) is not Name:
            self._broken("its properties name no type", name)
        element = self._elements.get(first.name) or torch_type(first.name)
        if element is None:
            problem = f"gradtool does not know the type {first.name:.80}"
            raise UnsupportedFormatError(self._path, problem, tensor=name)
        self._elements[first.name] = element
        return element

    def _broken(self, problem: str, name: str | None = None) -> NoReturn:
        raise CorruptFileError(self._path, problem, tensor=name)


def _key(name: str, offsets: Sizes | None) -> tuple[str, bytes | None]:
    """A key of a box, of whose hash a file has no choice, as it has of that of integers."""
    return name, None if offsets is None else _PACKED[len(offsets)](*offsets)


def _are_sizes(found: object) -> TypeGuard[Sizes]:
    if type(found) is not tuple or len(found) > _MAX_DIMENSIONS:
        return False
    for size in found:  # noqa: SIM110 - half the time of `all`
        if type(size) is not int or not 0 <= size < _LIMIT:
            return False
    return True


def _paths(planner_data: object) -> dict[str, tuple[str, ...]]:
    """The keys that led to each name, as far as the planner noted any; indices of lists as text."""
    if not isinstance(planner_data, dict):
        return {}
    return {
        name: tuple(map(str, path))
        for name, path in planner_data.items()
        if isinstance(name, str) and _are_keys(path)
    }


def _are_keys(path: object) -> TypeGuard[tuple[str | int, ...]]:
    return (
        type(path) is tuple
        and 0 < len(path) <= _MAX_DIMENSIONS
        and all(isinstance(key, str | int) for key in path)
    )
