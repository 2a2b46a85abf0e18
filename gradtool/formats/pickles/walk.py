"""The tensors in an unpickled object, each under the dotted path that leads to it.

Keys of dicts, positions in lists and attributes of unknown objects are the parts of a name;
the tables in which `torch.nn.Module` keeps parameters, buffers and children add nothing, so
that a pickled module's tensors are called what its `state_dict` calls them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, get_args

from gradtool.core.figures import counted
from gradtool.core.sections import OPTIMIZER, OPTIMIZER_KEYS, Sections, sections_of
from gradtool.errors import UnsupportedFormatError
from gradtool.formats.pickles.distributed import local_part
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayScalar,
    Attributed,
    CoordinatesRef,
    Key,
    MetaRef,
    Name,
    Opaque,
    SparseRef,
    StandIn,
    Storage,
    TensorRef,
    Unmeasured,
    describe,
)

_MAX_DEPTH: Final = 200
# A walk may cost, in items, containers and characters of names, this many times the pickle's
# bytes: an object is walked once for each name that leads to it, of which there may be any number.
_EXPANSION: Final = 4
_FREE_COST: Final = 1 << 20
_NODE_COST: Final = 16
_MAX_PLAIN_ITEMS: Final = 8
_MAX_KEY_ITEMS: Final = 16
_MAX_KEY_CHARS: Final = 256

_MODULE_TABLES: Final = frozenset({"_parameters", "_buffers", "_modules"})

Leaf = TensorRef | CoordinatesRef | Unmeasured | MetaRef | ArrayRef | ArrayScalar | Storage
_BRANCHES: Final = (dict, list, tuple, Opaque, SparseRef)
_WITH_ELEMENTS: Final = (*get_args(Leaf), SparseRef)
_WALKED: Final = (*_BRANCHES, *get_args(Leaf))


class NamedLeaf(NamedTuple):
    """A stand-in that holds elements, or describes some, with its name.

    `top` is the key at the top of the file that it lies under; None where that is its name.
    """

    name: str
    top: str | None
    leaf: Leaf


@dataclass(slots=True)
class Walk:
    """A walk over an unpickled object, and what it finds, in the order of the pickle.

    Attributes:
        path: the file's path, for errors and for the name of a tensor that has none.
        budget: what the walk may still cost.
        leaves: everything that holds elements.
        reached: the identities (`id`) of those, and of their parts.
        sections: of the leaves, by name, once all are found.
        distributed: the DTensors and ShardedTensors, by the name of the part in the file.
        sparse: how many sparse tensors of other layouts than coordinates were found.
    """

    path: str
    budget: int
    leaves: list[NamedLeaf] = field(default_factory=list)
    reached: set[int] = field(default_factory=set)
    sections: Sections = field(default_factory=Sections)
    distributed: dict[str, Opaque] = field(default_factory=dict)
    sparse: int = 0
    _top: str | None = None
    _open: set[int] = field(default_factory=set)

    def visit_root(self, root: object) -> None:
        """Find all tensors, and the sections among the top-level keys."""
        attributes = root.state if isinstance(root, Opaque) else None
        top = attributes if isinstance(attributes, dict) else root
        is_optimizer = isinstance(top, dict) and top.keys() >= OPTIMIZER_KEYS
        if not isinstance(top, dict) or (top is attributes and not is_optimizer):
            self.visit(root, "")
            return
        self._open.add(id(root))
        keys = []
        for key, value in self._children(root, ""):
            keys.append(key)
            self._top = key if isinstance(value, _BRANCHES) else None
            if is_optimizer and key in OPTIMIZER_KEYS:
                self._top = OPTIMIZER
            self.visit(value, key)
        tops = {found.name: found.top for found in self.leaves}
        self.sections = sections_of(tops, keys)

    def visit(self, value: object, name: str) -> None:
        """Find the tensors in `value`, which `name` leads to."""
        self._spend(_NODE_COST + len(name))
        if isinstance(value, _WITH_ELEMENTS):
            self._note(value, name)
        if id(value) in self._open:
            return  # a cycle: all it leads to has a shorter name already
        if len(self._open) == _MAX_DEPTH:
            raise self._refusal(f"nests too deeply: more than {_MAX_DEPTH} levels", name)
        self._open.add(id(value))
        for key, child in self._children(value, name):
            self.visit(child, f"{name}.{key}" if name and key else name or key)
        self._open.discard(id(value))

    def _note(self, value: Leaf | SparseRef, name: str) -> None:
        self.reached.add(id(value))
        if isinstance(value, Leaf) and _objects(value) is None:
            self.leaves.append(NamedLeaf(name or self._stem(), self._top, value))
        if isinstance(value, Unmeasured):
            self.reached.update(map(id, (value.values, *value.parts)))
        if isinstance(value, CoordinatesRef):
            self.reached.update(map(id, (value.values, value.indices)))

    def _children(self, value: object, name: str) -> Iterator[tuple[str, object]]:
        """The parts of `value`, called `name`, that may hold tensors, each with what it adds."""
        match value:
            case dict():
                yield from self._entries(value)
                if isinstance(value, Attributed):
                    yield from self._attributes(value.state)
            case list() | tuple():
                yield from self._numbered(value)
            case SparseRef(values=values, indices=indices, state=state):
                self.sparse += 1
                yield from self._entries({"": values, **indices})
                yield from self._attributes(state)
            case (
                TensorRef(state=state)
                | CoordinatesRef(state=state)
                | MetaRef(state=state)
                | Unmeasured(state=state)
            ):
                yield from self._attributes(state)
            case ArrayRef():
                yield from self._numbered(_objects(value) or ())
            case Opaque():
                local = local_part(value)
                if local is None:
                    yield from self._parts(value)
                else:
                    self.distributed[name or self._stem()] = value
                    yield "", local

    def _parts(self, value: Opaque) -> Iterator[tuple[str, object]]:
        # Empty parts are left out early: files may hold millions of empty objects.
        if value.state:
            for key, attribute in self._attributes(value.state):
                yield "" if key in _MODULE_TABLES else key, attribute
        if value.entries:
            yield from self._entries(value.entries)
        if value.items:
            yield from self._numbered(value.items)
        if value.args:
            for part, argument in self._numbered(value.args):
                yield f"args.{part}", argument
        if value.keywords:
            for part, argument in self._entries(value.keywords):
                yield f"args.{part}", argument

    def _attributes(self, state: object) -> Iterator[tuple[str, object]]:
        """The attributes in a pickled state: a dict, a pair of dicts, or anything."""
        match state:
            case dict():
                yield from self._entries(state)
            case (dict() | None as attributes, dict() | None as slots):
                yield from self._entries(attributes or {})
                yield from self._entries(slots or {})
            case _ if isinstance(state, _WALKED):
                yield "state", state

    def _entries(self, mapping: Mapping[Any, object]) -> Iterator[tuple[str, object]]:
        self._spend(len(mapping))
        for position, (key, value) in enumerate(mapping.items()):
            # An empty container costs nothing: a module has a dozen, one for each kind of hook.
            if value and isinstance(value, _WALKED) and not _is_plain(value):
                yield _name_part(key, position), value

    def _numbered(self, items: Sequence[object]) -> Iterator[tuple[str, object]]:
        self._spend(len(items))
        for position, item in enumerate(items):
            if item and isinstance(item, _WALKED) and not _is_plain(item):
                yield str(position), item

    def part_notes(self) -> tuple[str, ...]:
        """The same of what one rank holds."""
        if not self.distributed:
            return ()
        parts = counted(len(self.distributed), "DTensor is", "DTensors are")
        return (f"{parts} measured by the part that this file holds",)

    def _stem(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]

    def _spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise self._refusal("the pickle expands far beyond its size", None)

    def _refusal(self, problem: str, name: str | None) -> UnsupportedFormatError:
        return UnsupportedFormatError(self.path, problem, tensor=name and name[:80])


def walk(root: object, path: str, pickle_nbytes: int) -> Walk:
    """All tensors in `root`, the object of a pickle of `pickle_nbytes` bytes.

    Raises:
        UnsupportedFormatError: nested too deeply, or far larger than what describes it.
    """
    walked = Walk(path, _EXPANSION * pickle_nbytes + _FREE_COST)
    walked.visit_root(root)
    return walked


def _is_plain(value: object) -> bool:
    """Whether `value` is a few numbers or texts, such as the strides and paddings of a layer."""
    if not isinstance(value, tuple | list) or len(value) > _MAX_PLAIN_ITEMS:
        return False
    return not any(isinstance(item, _WALKED) for item in value)


def _name_part(key: object, position: int) -> str:
    """The part of a name for a key: short, and without surrogates, which no output takes."""
    if isinstance(key, str):
        return key if key.isascii() else key.encode("utf-8", "backslashreplace").decode()
    if isinstance(key, Key):
        return repr(key.value) if _is_small_tuple(key.value) else f"key#{position}"
    if isinstance(key, Name | Opaque):
        return f"{describe(key)}#{position}"
    return f"key#{position}" if isinstance(key, StandIn) else str(key)


def _is_small_tuple(value: object) -> bool:
    """Whether `value` is a tuple of few texts and numbers, such as ("layer", 3)."""
    if type(value) is not tuple or len(value) > _MAX_KEY_ITEMS:
        return False
    sizes = [_size(item) for item in value]
    return sum(sizes) <= _MAX_KEY_CHARS


def _size(item: object) -> int:
    """About how many characters `item` takes in a name; too many for an item of another type."""
    if isinstance(item, str):
        return len(item)
    if isinstance(item, int):
        return item.bit_length()
    return 0 if item is None or isinstance(item, float) else _MAX_KEY_CHARS + 1


def _objects(value: object) -> list[object] | None:
    """The elements of a NumPy array of Python objects; None for anything else."""
    match value:
        case ArrayRef(state=(_, _, _, _, list() as objects)):
            return objects
    return None
