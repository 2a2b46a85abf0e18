"""What the inert pickle interpreter builds instead of the objects that a pickle names.

None of these does anything. Those without a value of their own compare and hash by identity,
so that no file can choose their hashes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple


class MalformedPickleError(Exception):
    """The pickle contradicts itself or the pickle language."""


class UnsupportedPickleError(Exception):
    """The pickle is well formed and uses what no checkpoint needs."""


Spend = Callable[[int], None]
"""Pays for memory, in bytes; raises UnsupportedPickleError where the pickle may have no more."""


class Handler(NamedTuple):
    """What calling a global does, and how many arguments it takes at least and at most.

    `is_class` says that `__new__` takes the same arguments, and `copies` that the function takes
    `spend` too, because its result is as large as an argument.
    """

    function: Callable[..., object]
    fewest: int
    most: int
    is_class: bool = False
    copies: bool = False


class StandIn:
    """Base of everything that stands for an object that was not built."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class Name(StandIn):
    """A global that the pickle refers to, `module.qualname`; never imported.

    `handler` is what calling it does, None where a call only makes an `Opaque`. Mentions of one
    global are one key of a dict, as the object would be.
    """

    name: str
    handler: Handler | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


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

    __slots__ = ()


class Attributed(dict[object, object]):
    """An OrderedDict or its like: a mapping that can have attributes, kept in `state`."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        super().__init__()
        self.state: object = None

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
    """A dictionary key whose own hash a file could choose, or make expensive: any `value`.

    The same object is the same key, as in any dict.
    """

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(slots=True, eq=False, repr=False)
class Storage(StandIn):
    """A torch storage: its class's name, the key of its record, its elements (as claimed)."""

    class_name: str
    key: str
    numel: int


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
    """A sparse tensor: values that are stored densely, each for another place, and the places."""

    values: object
    indices: dict[str, object]
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class Unmeasured(StandIn):
    """A tensor whose elements are no plain function of those that are stored, and why.

    `values` is what is stored, and `parts` what belongs to it: indices, scales, sizes.
    """

    values: TensorRef
    parts: tuple[object, ...]
    reason: str
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class MetaRef(StandIn):
    """A tensor of torch's meta device: a type and a shape without data."""

    dtype: str
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayType(StandIn):
    """A NumPy dtype: what `numpy.dtype` was called with (`f8`, say) and its state tuple.

    `copied` says that it was asked for as a copy: NumPy's own types take no state.
    """

    description: str
    copied: bool = False
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayRef(StandIn):
    """A NumPy array; `state` is (version, shape, dtype, Fortran order, data) once known."""

    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayScalar(StandIn):
    """A NumPy number, which is no more of a tensor than a Python one."""

    dtype: ArrayType


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
    Unmeasured: "a tensor",
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
