"""The globals that calling means something for, and what: pure functions over stand-ins.

An allow-list. Calling any other name makes an `Opaque`; nothing here imports, calls or copies
what comes from the file. Signatures are those of torch/_utils.py, torch/_tensor.py and
numpy/_core (numpy/core before 2.0), with arguments that do not matter swallowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gradtool.formats._stand_ins import (
    ArrayRef,
    ArrayScalar,
    ArrayType,
    Attributed,
    Bytes,
    MalformedPickleError,
    MetaRef,
    Name,
    Opaque,
    SparseRef,
    Storage,
    TensorRef,
    TextBytes,
    Unordered,
    UnsupportedPickleError,
    describe,
    set_state,
)

_MAX_NAME_CHARS: Final = 1024


class Handler(NamedTuple):
    """What calling a global does, and how many arguments it takes at least and at most."""

    function: Callable[..., object]
    fewest: int
    most: int


def named(module: object, qualname: object) -> Name:
    """The global `module.qualname`, with what calling it does.

    Raises:
        MalformedPickleError: one of the two is no text.
        UnsupportedPickleError: joining them again and again could cost any amount of time.
    """
    if type(module) is not str or type(qualname) is not str:
        raise MalformedPickleError("a global whose name is no text")
    if len(module) + len(qualname) > _MAX_NAME_CHARS:
        raise UnsupportedPickleError("a global with an overlong name")
    name = f"{module}.{qualname}"
    if not name.isascii():  # surrogates, which no output takes
        name = name.encode("utf-8", "backslashreplace").decode()
    return Name(name, HANDLERS.get(name))


def call(function: object, args: object) -> object:
    """What `function(*args)` stands for.

    Calling what an unknown call gave makes an `Opaque` of both: protocols 2 and 3 write
    `functools.partial(cls.__new__, cls, x=1)()` for a class that is made with keywords.

    Raises:
        MalformedPickleError: `function` can not be called, or takes other arguments.
    """
    if type(function) is Opaque:
        return Opaque(function.name, (function, args))
    if type(function) is not Name:
        raise MalformedPickleError(f"calls {describe(function)}")
    if type(args) is not tuple:
        raise MalformedPickleError(f"calls {function.name} with {describe(args)}")
    handler = function.handler
    if handler is None:
        return Opaque(function.name, args)
    if not handler.fewest <= len(args) <= handler.most:
        raise MalformedPickleError(f"calls {function.name} with {len(args)} arguments")
    return handler.function(*args)


def call_with_keywords(function: object, args: object, keywords: object) -> object:
    """What `function(*args, **keywords)` stands for; only unknown classes take keywords."""
    if type(keywords) is not dict:
        raise MalformedPickleError("keyword arguments that are no dict")
    made = call(function, args)
    if keywords:
        if type(made) is not Opaque:
            raise MalformedPickleError(f"makes {describe(made)} with keyword arguments")
        made.keywords = keywords
    return made


def storage(persistent_id: object) -> Storage:
    """The storage that a persistent id of torch.save names.

    The id is ('storage', class, key, location, numel) and, from older writers, a sixth
    element for views of storages, which torch has not written since 0.4.
    """
    if type(persistent_id) is tuple and len(persistent_id) in (5, 6):
        kind, storage_class, key, _location, numel, *view = persistent_id
        if kind == "storage" and type(storage_class) is Name and type(key) is str:
            if view and view[0] is not None:
                raise UnsupportedPickleError(f"storage {key!r:.80} is a view of a storage")
            return Storage(storage_class.name, key, numel)
    raise MalformedPickleError("a persistent id that names no storage")


def _tensor(
    stored: object,
    offset: object,
    shape: object,
    strides: object,
    _requires_grad: object = None,
    _hooks: object = None,
    metadata: object = None,
    *,
    dtype: str | None = None,
) -> TensorRef:
    if type(stored) is not Storage:
        raise MalformedPickleError(f"a tensor over {describe(stored)} instead of a storage")
    if type(shape) is not tuple or type(strides) is not tuple:
        raise MalformedPickleError("a tensor's shape or strides are no tuple")
    negated = isinstance(metadata, dict) and bool(metadata.get("neg"))
    return TensorRef(stored, offset, shape, strides, dtype, negated)


def _tensor_v3(*args: object) -> TensorRef:
    return _tensor(*args[:6], *args[7:], dtype=_name(args[6], "dtype"))


def _quantized_tensor(
    stored: object, offset: object, shape: object, strides: object, *_: object
) -> TensorRef:
    return _tensor(stored, offset, shape, strides)


def _meta_tensor(dtype: object, *_: object) -> MetaRef:
    return MetaRef(_name(dtype, "dtype"))


def _sparse_tensor(layout: object, data: object) -> SparseRef:
    if not isinstance(layout, Opaque) or type(data) is not tuple or len(data) < 3:
        raise MalformedPickleError("a sparse tensor without layout or values")
    if layout.args == ("torch.sparse_coo",):
        coalesced = len(data) > 3 and data[3] is True
        return SparseRef(data[1], {"indices": data[0]}, coalesced)
    indices = {"compressed_indices": data[0], "plain_indices": data[1]}
    return SparseRef(data[2], indices, coalesced=True)


def _wrapper(subclass: object, *_: object) -> Opaque:
    return Opaque(_name(subclass, "class"))


def _from_type(function: object, _type: object, args: object, state: object) -> object:
    if type(function) is Name and function.handler and function.handler.function is _from_type:
        raise MalformedPickleError(f"calls {function.name} through itself")
    return _with_state(call(function, args), state)


def _parameter(data: object, *_: object) -> object:
    return data


def _parameter_with_state(
    data: object, _requires_grad: object, _hooks: object, state: object
) -> object:
    return _with_state(data, state)


def _with_state(value: object, state: object) -> object:
    if state:
        set_state(value, state)
    return value


def _size(shape: object = ()) -> object:
    if type(shape) is not tuple:
        raise MalformedPickleError(f"a torch.Size of {describe(shape)}")
    return shape


def _array_type(description: object, *_: object) -> ArrayType:
    # Types that NumPy does not know itself are named by their class: ml_dtypes.bfloat16.
    if isinstance(description, Name):
        return ArrayType(description.name)
    if type(description) is not str:
        raise MalformedPickleError(f"a NumPy type made of {describe(description)}")
    return ArrayType(description)


def _new_array(*_: object) -> ArrayRef:
    return ArrayRef()


def _array_of_buffer(data: object, dtype: object, shape: object, order: object) -> ArrayRef:
    return ArrayRef((1, shape, dtype, order == "F", data))


def _array_scalar(dtype: object, _data: object = None) -> ArrayScalar:
    if not isinstance(dtype, ArrayType):
        raise MalformedPickleError(f"a NumPy number of type {describe(dtype)}")
    return ArrayScalar(dtype)


def _mapping(entries: object = None) -> object:
    # Passed through rather than copied: a file could ask for any number of copies.
    if entries is None:
        return Attributed()
    return entries if isinstance(entries, dict) else Opaque("collections.OrderedDict", (entries,))


_TEXT_ENCODINGS: Final = frozenset({"ascii", "latin-1", "latin1", "utf-8"})


def _default_mapping(_factory: object = None) -> Attributed:
    return Attributed()


def _sequence(items: object = None) -> object:
    return Unordered() if items is None else items


def _bytes(data: object = None, encoding: object = "latin1") -> object:
    if data is None:
        return Bytes(0, 0)
    if type(data) is not str:
        return data
    # First the type: a nested tuple may take for ever to hash, and to spell.
    if type(encoding) is not str:
        raise MalformedPickleError(f"bytes as text in {describe(encoding)}")
    if encoding not in _TEXT_ENCODINGS:
        raise UnsupportedPickleError(f"bytes as text in encoding {encoding[:20]!r}")
    return TextBytes(data, encoding)


def _name(value: object, what: str) -> str:
    if type(value) is not Name:
        raise MalformedPickleError(f"{describe(value)} where a {what} belongs")
    return value.name


_TORCH: Final = {
    "torch._utils._rebuild_tensor": Handler(_tensor, 4, 4),
    "torch._utils._rebuild_tensor_v2": Handler(_tensor, 6, 7),
    "torch._utils._rebuild_tensor_v3": Handler(_tensor_v3, 7, 8),
    "torch._utils._rebuild_qtensor": Handler(_quantized_tensor, 7, 7),
    "torch._utils._rebuild_meta_tensor_no_storage": Handler(_meta_tensor, 4, 4),
    "torch._utils._rebuild_sparse_tensor": Handler(_sparse_tensor, 2, 2),
    "torch._utils._rebuild_wrapper_subclass": Handler(_wrapper, 8, 8),
    "torch._utils._rebuild_parameter": Handler(_parameter, 3, 3),
    "torch._utils._rebuild_parameter_with_state": Handler(_parameter_with_state, 4, 4),
    "torch._tensor._rebuild_from_type": Handler(_from_type, 4, 4),
    "torch._tensor._rebuild_from_type_v2": Handler(_from_type, 4, 4),
    "torch.nn.parameter.Parameter": Handler(_parameter, 1, 2),
    "torch.nn.parameter.Buffer": Handler(_parameter, 1, 2),
    "torch.Size": Handler(_size, 0, 1),
}
_NUMPY: Final = {
    "numpy.dtype": Handler(_array_type, 1, 3),
    **{
        f"numpy.{core}.{name}": handler
        for core in ("core", "_core")
        for name, handler in (
            ("multiarray._reconstruct", Handler(_new_array, 3, 3)),
            ("multiarray.scalar", Handler(_array_scalar, 1, 2)),
            ("numeric._frombuffer", Handler(_array_of_buffer, 4, 4)),
        )
    },
}
_PYTHON: Final = {
    "collections.OrderedDict": Handler(_mapping, 0, 1),
    "collections.Counter": Handler(_mapping, 0, 1),
    "collections.defaultdict": Handler(_default_mapping, 0, 1),
    "_codecs.encode": Handler(_bytes, 1, 2),
    **{
        f"{builtins}.{name}": handler
        for builtins in ("builtins", "__builtin__")  # Python 3's name, and protocol 2's
        for name, handler in (
            ("set", Handler(_sequence, 0, 1)),
            ("frozenset", Handler(_sequence, 0, 1)),
            ("list", Handler(_sequence, 0, 1)),
            ("dict", Handler(_mapping, 0, 1)),
            ("bytes", Handler(_bytes, 0, 2)),
            ("bytearray", Handler(_bytes, 0, 2)),
        )
    },
}
HANDLERS: Final[dict[str, Handler]] = {**_TORCH, **_NUMPY, **_PYTHON}
