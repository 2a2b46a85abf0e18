"""What the inert pickle interpreter builds instead of the objects that a pickle names.

None of these does anything. Those without a value of their own compare and hash by identity,
so that no file can choose their hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gradtool.formats._globals import Handler

# Python hashes integers by value: those of more bits can be made to collide without end.
_MAX_KEY_BITS: Final = 60
_SCALARS: Final = frozenset({float, bool, type(None)})  # with few values of one hash


class MalformedPickleError(Exception):
    """The pickle contradicts itself or the pickle language."""


class UnsupportedPickleError(Exception):
    """The pickle is well formed and uses what no checkpoint needs."""


class StandIn:
    """Base of everything that stands for an object that was not built."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class Name(StandIn):
    """A global that the pickle refers to, `module.qualname`; never imported.

    `handler` is what calling it does, None where a call only makes an `Opaque`.
    """

    name: str
    handler: Handler | None


@dataclass(slots=True, eq=False, repr=False)
class Bytes(StandIn):
    """A bytes object of the pickle: `nbytes` bytes from byte `start` of it, not copied."""

    start: int
    nbytes: int


@dataclass(slots=True, eq=False, repr=False)
class TextBytes(StandIn):
    """A bytes object that protocol 2 wrote as text, one character a byte."""

    text: str
    encoding: str


class Unordered(list[object]):
    """A set, as the list of its items: hashing them would be work that a file controls."""


class Attributed(dict[object, object]):
    """An OrderedDict or its like: a mapping that can have attributes, kept in `state`."""

    state: object = None

    def __bool__(self) -> bool:
        """Whether it holds anything, be it an attribute only."""
        return len(self) > 0 or self.state is not None


@dataclass(slots=True, eq=False, repr=False)
class Opaque(StandIn):
    """An object of a type that gradtool does not know: what it would have been made from.

    Attributes:
        name: the qualified name of the type or function.
        args: what it would have been called with.
        state: its attributes, as pickled: a dict, a pair of dicts, or anything.
        keywords: what it would have been called with by name.
        items: what a subclass of list holds.
        entries: what a subclass of dict holds.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    keywords: dict[object, object] | None = None
    items: list[object] | None = None
    entries: dict[object, object] | None = None


@dataclass(slots=True, eq=False, repr=False)
class Key(StandIn):
    """A dictionary key whose own hash a file could choose, or make expensive: any `value`."""

    value: object


@dataclass(slots=True, eq=False, repr=False)
class Storage(StandIn):
    """A torch storage: its class's name, the key of its record, its elements (as claimed)."""

    class_name: str
    key: str
    numel: object


@dataclass(slots=True, eq=False, repr=False)
class TensorRef(StandIn):
    """A strided tensor over a storage; offset and strides in elements, all as claimed.

    `dtype` is the qualified name of its type where the storage does not give it. `negated`
    says that the values are the negative of what is stored.
    """

    storage: Storage
    storage_offset: object
    shape: tuple[object, ...]
    strides: tuple[object, ...]
    dtype: str | None = None
    negated: bool = False
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class SparseRef(StandIn):
    """A sparse tensor: values that are stored densely, and what says where they belong.

    `coalesced` is whether no two values belong to one place.
    """

    values: object
    indices: dict[str, object]
    coalesced: bool
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class MetaRef(StandIn):
    """A tensor of torch's meta device: a type and a shape without data."""

    dtype: str
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayType(StandIn):
    """A NumPy dtype: what `numpy.dtype` was called with (`f8`, say) and its state tuple."""

    description: str
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayRef(StandIn):
    """A NumPy array; `state` is (version, shape, dtype, Fortran order, data) once known."""

    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayScalar(StandIn):
    """A NumPy number, which is no more of a tensor than a Python one."""

    dtype: ArrayType


Buildable = Opaque | Attributed | TensorRef | SparseRef | MetaRef | ArrayType | ArrayRef


def set_state(target: object, state: object) -> None:
    """Give `target` its attributes, as BUILD does; at most once, so that none are lost.

    Raises:
        MalformedPickleError: it can have none, or has them already.
    """
    if not isinstance(target, Buildable):
        raise MalformedPickleError(f"sets attributes of {describe(target)}")
    if target.state is not None:
        raise MalformedPickleError(f"sets the attributes of {describe(target)} twice")
    target.state = state


def items_of(target: object) -> list[object]:
    """Where APPEND puts what it is given: a list, or an object of a type derived from it."""
    if type(target) is list:
        return target
    if type(target) is not Opaque:
        raise MalformedPickleError(f"appends to {describe(target)}")
    if target.items is None:
        target.items = []
    return target.items


def set_items(target: object, items: list[object]) -> None:
    """Put alternating keys and values into a dict, or an object of a type derived from it."""
    if type(target) is Opaque:
        if target.entries is None:
            target.entries = {}
        target = target.entries
    if not isinstance(target, dict):
        raise MalformedPickleError(f"sets items of {describe(target)}")
    if len(items) % 2:
        raise MalformedPickleError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        plain = key if type(key) is str else _key(key)
        if plain in target:
            raise MalformedPickleError(f"dictionary key {plain!r:.80} appears twice")
        target[plain] = value


def _key(key: object) -> object:
    """`key` as something whose hash no file can choose.

    Raises MalformedPickleError where it is of a type that no dictionary takes.
    """
    if type(key) in _SCALARS or isinstance(key, StandIn):
        return key
    if isinstance(key, list | dict) and type(key) is not Unordered:
        raise MalformedPickleError(f"{describe(key)} as a dictionary key")
    is_small = type(key) is int and key.bit_length() <= _MAX_KEY_BITS
    return key if is_small else Key(key)


_WORDS: Final[dict[type, str]] = {
    type(None): "None",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "a tuple",
    list: "a list",
    dict: "a dict",
    Attributed: "a dict",
    Unordered: "a set",
    Bytes: "bytes",
    TextBytes: "bytes",
    Key: "a key",
    Storage: "a storage",
    TensorRef: "a tensor",
    SparseRef: "a sparse tensor",
    MetaRef: "a meta tensor",
    ArrayType: "a NumPy type",
    ArrayRef: "a NumPy array",
    ArrayScalar: "a NumPy number",
}


def describe(value: object) -> str:
    """What `value` is, in a few words: contents may be as large and deep as the file likes."""
    if isinstance(value, Name | Opaque):
        return value.name
    return _WORDS[type(value)]
