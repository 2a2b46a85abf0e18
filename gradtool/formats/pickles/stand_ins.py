"""The stand-ins that the inert pickle interpreter builds for the objects that a pickle names.

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
    """The pickle is well formed, but uses something that no checkpoint needs."""


Spend = Callable[[int], None]
"""Pays for memory, in bytes; raises UnsupportedPickleError where the budget is exceeded."""


class Handler(NamedTuple):
    """What calling a global does, and the fewest and the most arguments that it takes.

    `is_class` says that `__new__` takes the same arguments, and `copies` that the function takes
    `spend` too, because its result is as large as an argument.
    """

    function: Callable[..., object]
    fewest: int
    most: int
    is_class: bool = False
    copies: bool = False


class StandIn:
    """Base of all stand-ins for objects."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class Name(StandIn):
    """A global that the pickle refers to, `module.qualname`; never imported.

    `handler` is what calling it does, None where a call makes an `Opaque`. All mentions of one
    global are the same key of a dict, as the object would be.
    """

    name: str
    handler: Handler | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(slots=True, eq=False, repr=False)
class Bytes(StandIn):
    """A bytes object, not copied: `nbytes` bytes of the pickle from its byte `start` on."""

    start: int
    nbytes: int


@dataclass(slots=True, eq=False, repr=False)
class TextBytes(StandIn):
    """A bytes object that protocol 2 wrote as text, one character a byte."""

    text: str
    encoding: str


class Unordered(list[object]):
    """A set, as the list of its items: a file could make hashing them take any time."""

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
    """An object of a type that gradtool does not know, by what it would be made from.

    Attributes:
        name: the qualified name of the type or function.
        args: the arguments of the call that would make it.
        state: its attributes, as pickled: a dict, a pair of dicts, or anything.
        keywords: the keyword arguments of the call.
        items: the items of an object of a subclass of list.
        entries: the entries of an object of a subclass of dict.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    keywords: dict[object, object] | None = None
    items: list[object] | None = None
    entries: dict[object, object] | None = None


@dataclass(slots=True, eq=False, repr=False)
class Key(StandIn):
    """A dictionary key, `value`, whose own hash a file could choose or make expensive.

    Only the same object is the same key.
    """

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(slots=True, eq=False, repr=False)
class Storage(StandIn):
    """A torch storage: the name of its class, the key of its record, its claimed elements."""

    class_name: str
    key: str
    numel: int


@dataclass(slots=True, eq=False, repr=False)
class TensorRef(StandIn):
    """A strided tensor over a storage; offset and strides in elements, all as claimed.

    `dtype` is the qualified name of its type where the storage does not give it. `negated`
    says that the stored elements are the values times -1, `conjugated` that they are their
    conjugates.
    """

    storage: Storage
    storage_offset: object
    shape: tuple[object, ...]
    strides: tuple[object, ...]
    dtype: str | None = None
    negated: bool = False
    conjugated: bool = False
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class CoordinatesRef(StandIn):
    """A sparse tensor of coordinates (COO): entries that may name one place several times.

    `sizes` is the shape, as pickled.
    """

    values: TensorRef
    indices: TensorRef
    sizes: object
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class SparseRef(StandIn):
    """Another sparse tensor: its values, stored densely, and the indices of their places."""

    values: object
    indices: dict[str, object]
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class Unmeasured(StandIn):
    """A tensor that cannot be measured by its stored elements, and the reason.

    `values` are the stored elements, and `parts` what belongs to them: indices, scales, sizes.
    """

    values: TensorRef
    parts: tuple[object, ...]
    reason: str
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class MetaRef(StandIn):
    """A tensor of torch's meta device, which has a type and a shape but no data."""

    dtype: str
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class ArrayType(StandIn):
    """A NumPy dtype: what `numpy.dtype` was called with (`f8`, say) and its state tuple.

    `copied` says that a copy was asked for; NumPy's own types, which are no copies, take no state.
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
    """A NumPy number: no tensor, as little as a Python number."""

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
    CoordinatesRef: "a sparse tensor",
    SparseRef: "a sparse tensor",
    Unmeasured: "a tensor",
    MetaRef: "a meta tensor",
    ArrayType: "a NumPy type",
    ArrayRef: "a NumPy array",
    ArrayScalar: "a NumPy number",
}


def describe(value: object) -> str:
    """What `value` is, in a few words, without its content, which may be of any size and depth."""
    if isinstance(value, Name | Opaque):
        return value.name
    return _WORDS[type(value)]
