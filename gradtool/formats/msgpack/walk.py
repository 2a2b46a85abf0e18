"""The arrays in a document of Flax's, each under the dotted path that leads to it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.msgpack.arrays import (
    ARRAY,
    COMPLEX,
    LIMIT,
    MAX_DIMENSIONS,
    SCALAR,
    StoredArray,
    read_array,
)
from gradtool.formats.msgpack.document import Document, Entries, Extension, Items, Node

CHUNKED: Final = "__msgpack_chunked_array__"
"""The key of a map that stands for an array of more than 1 GiB."""

# Names may take this many times the bytes of the document, and as many more as are free.
_EXPANSION: Final = 16
_FREE_CHARS: Final = 1 << 22


class Leaf(NamedTuple):
    """An array with its name, in one piece or several, which are chunks of it in their order.

    `top` is the key at the top that it lies under; None where that is its name.
    """

    name: str
    top: str | None
    shape: tuple[int, ...]
    pieces: tuple[StoredArray, ...]
    is_scalar: bool = False


@dataclass(slots=True)
class Walk:
    """Finds all arrays of a document.

    Attributes:
        leaves: the arrays, in the order of the document.
        keys: those at its top.
        types: the extensions in it that are none of Flax's.
    """

    source: Source
    leaves: list[Leaf] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    types: set[int] = field(default_factory=set)
    _names: set[str] = field(default_factory=set)
    _budget: int = 0

    def visit_root(self, document: Document) -> None:
        """Find all.

        Raises:
            CorruptFileError: an array that is not as Flax writes it.
            UnsupportedFormatError: two arrays come by one name, or names are far too long.
        """
        self._budget = _EXPANSION * document.nbytes + _FREE_CHARS
        root = document.root
        if not isinstance(root, Entries) or CHUNKED in root:
            self._visit(root, "", None, below_maps=True)
            return
        self.keys = tuple(root)
        for key, value in root.items():
            top = key if isinstance(value, Entries) and CHUNKED not in value else None
            self._visit(value, key, top, below_maps=not isinstance(root, Items))

    def _visit(self, node: Node, name: str, top: str | None, *, below_maps: bool) -> None:
        if isinstance(node, Extension):
            self._visit_extension(node, name, top)
        elif isinstance(node, Entries):
            if below_maps and CHUNKED in node:  # where alone Flax looks for them
                self._add(self._chunked(node, name, top))
                return
            below_maps &= not isinstance(node, Items)
            for key, value in node.items():
                if isinstance(value, Entries | Extension):
                    whole = f"{name}.{key}" if name and key else name or key
                    self._spend(len(whole), name)
                    self._visit(value, whole, top, below_maps=below_maps)

    def _visit_extension(self, found: Extension, name: str, top: str | None) -> None:
        if found.type in (ARRAY, SCALAR):
            stored = read_array(self.source, found, name or self._stem())
            if found.type == SCALAR and stored.shape:
                raise self._corrupt("is a scalar, and has a shape", name, found.offset)
            self._add(Leaf(name, top, stored.shape, (stored,), found.type == SCALAR))
        elif found.type != COMPLEX:
            self.types.add(found.type)

    def _chunked(self, node: Entries, name: str, top: str | None) -> Leaf:
        """The one array of a map that stands for it, and holds nothing else."""
        sizes, chunks = _tuple_in(node, "shape"), _tuple_in(node, "chunks")
        is_alone = node.keys() == {CHUNKED, "shape", "chunks"}
        is_flagged = not isinstance(node[CHUNKED], Entries | Extension)
        if not (is_alone and is_flagged and chunks) or sizes is None:
            raise self._corrupt("is no chunked array as Flax writes it", name)
        shape = tuple(size for size in sizes if isinstance(size, int) and 0 <= size < LIMIT)
        if len(shape) != len(sizes) or len(sizes) > MAX_DIMENSIONS or math.prod(shape) >= LIMIT:
            raise self._corrupt("its shape has what is no size", name)
        pieces: list[StoredArray] = []
        for number, chunk in enumerate(chunks):
            if not isinstance(chunk, Extension) or chunk.type != ARRAY:
                raise self._corrupt(f"chunk {number} is no array", name)
            piece = read_array(self.source, chunk, name or self._stem())
            pieces.append(piece)
            if len(piece.shape) != 1 or piece.type != pieces[0].type:
                problem = f"chunk {number} is not flat, or of another type than the first"
                raise self._corrupt(problem, name, chunk.offset)
        count = sum(math.prod(piece.shape) for piece in pieces)
        if count != math.prod(shape):
            problem = f"its chunks have {count} elements, its shape {math.prod(shape)}"
            raise self._corrupt(problem, name)
        return Leaf(name, top, shape, tuple(pieces))

    def _add(self, leaf: Leaf) -> None:
        name = leaf.name or self._stem()
        if name in self._names:
            problem = "two tensors come by this name: their keys differ in dots only"
            raise UnsupportedFormatError(self.source.path, problem, tensor=name)
        self._names.add(name)
        self.leaves.append(leaf._replace(name=name))

    def _spend(self, chars: int, name: str) -> None:
        self._budget -= chars
        if self._budget < 0:
            problem = "the document expands far beyond its size: names of its arrays"
            raise UnsupportedFormatError(self.source.path, problem, tensor=name[:80])

    def _stem(self) -> str:
        return os.path.splitext(os.path.basename(self.source.path))[0]

    def _corrupt(self, problem: str, name: str, byte: int | None = None) -> CorruptFileError:
        return CorruptFileError(self.source.path, problem, tensor=name or self._stem(), byte=byte)


def _tuple_in(node: Mapping[str, Node], key: str) -> list[Node] | None:
    """The values of a map by positions, as Flax writes tuples; None for anything else."""
    found = node.get(key)
    if not isinstance(found, Entries) or isinstance(found, Items):
        return None
    values = [found.get(str(position)) for position in range(len(found))]
    return None if any(value is None for value in values) else values
