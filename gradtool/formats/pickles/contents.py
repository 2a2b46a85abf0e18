"""Filling lists, dicts and objects as APPEND, SETITEM and BUILD do, and refusing what is unsafe."""

from __future__ import annotations

from typing import Final

from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayType,
    Attributed,
    CoordinatesRef,
    Key,
    MalformedPickleError,
    MetaRef,
    Opaque,
    SparseRef,
    StandIn,
    Storage,
    TensorRef,
    Unmeasured,
    Unordered,
    UnsupportedPickleError,
    describe,
)

# Python hashes integers by value: those of more bits can be made to collide without end.
_MAX_KEY_BITS: Final = 60
_MAX_KEY_PARTS: Final = 32
TENSOR_PROPERTIES: Final = frozenset(
    {
        *("H", "T", "_backward_hooks", "_base", "_cdata", "_grad", "_grad_fn"),
        *("_has_symbolic_sizes_strides", "_post_accumulate_grad_hooks", "_python_dispatch"),
        *("_version", "data", "device", "dtype", "grad", "grad_dtype", "grad_fn", "imag", "is_cpu"),
        *("is_cuda", "is_ipu", "is_leaf", "is_maia", "is_meta", "is_mkldnn", "is_mps", "is_mtia"),
        *("is_nested", "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla"),
        *("is_xpu", "itemsize", "layout", "mH", "mT", "name", "names", "nbytes", "ndim"),
        *("output_nr", "real", "requires_grad", "retains_grad", "shape", "volatile"),
    }
)
"""What `torch.Tensor` of torch 2.13 computes; to set some of it, such as `data`, sets elements."""

_SCALARS: Final = frozenset({float, bool, type(None)})  # with few values of one hash
_TENSORS: Final = (TensorRef, CoordinatesRef, SparseRef, Unmeasured, MetaRef)
_WITH_STATE: Final = (*_TENSORS, Opaque, Attributed, ArrayType, ArrayRef)


def build_object(target: object, state: object) -> None:
    """Give `target` its attributes, as BUILD does.

    Raises:
        MalformedPickleError: it can have none, or has them already.
        UnsupportedPickleError: it is a tensor, whose elements torch would replace by others.
    """
    if isinstance(target, _TENSORS):
        raise UnsupportedPickleError(f"replaces the elements of {describe(target)}")
    set_state(target, state)


def set_state(target: object, state: object) -> None:
    """Give `target` its attributes; at most once, so that none are lost.

    Raises:
        MalformedPickleError: it can have none, or has them already.
        UnsupportedPickleError: it is a tensor, and one of them would replace its elements.
    """
    if not isinstance(target, _WITH_STATE):
        raise MalformedPickleError(f"sets attributes of {describe(target)}")
    if target.state is not None:
        raise MalformedPickleError(f"sets the attributes of {describe(target)} twice")
    if isinstance(target, _TENSORS):
        _check_attributes(state)
    if isinstance(target, Attributed) and not isinstance(state, dict):
        raise MalformedPickleError(f"{describe(state)} for the attributes of a dict")
    target.state = state


def _check_attributes(state: object) -> None:
    """Refuse attributes that are no dict or pair of dicts, or that torch computes for tensors."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for attributes in parts:
        if attributes is not None and not isinstance(attributes, dict):
            raise MalformedPickleError(f"{describe(attributes)} for a tensor's attributes")
        for name in attributes or ():
            if name in TENSOR_PROPERTIES or (isinstance(name, str) and name.startswith("__")):
                raise UnsupportedPickleError(f"replaces the {name:.80} of a tensor")


def items_of(target: object) -> list[object]:
    """The list that APPEND adds to: `target`, or the items of an object of a subclass of list."""
    if type(target) is list:
        return target
    if type(target) is not Opaque:
        raise MalformedPickleError(f"appends to {describe(target)}")
    if target.items is None:
        target.items = []
    return target.items


def set_items(target: object, items: list[object]) -> None:
    """Put alternating keys and values into a dict, or into an object of a subclass of dict."""
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
            shown = describe(key) if isinstance(plain, StandIn) else f"{plain!r:.80}"
            raise MalformedPickleError(f"dictionary key {shown} appears twice")
        target[plain] = value


def _refuse_storages(key: object) -> None:
    """Refuse a key with a storage in it, of which tensors elsewhere may show a part only."""
    waiting, visited = [key], 0
    while waiting:
        value = waiting.pop()
        visited += 1
        if type(value) is Storage or visited > _MAX_KEY_PARTS:
            what = "a storage" if type(value) is Storage else f"more than {_MAX_KEY_PARTS} parts"
            raise UnsupportedPickleError(f"a dictionary key with {what} in it")
        if isinstance(value, tuple | Unordered):
            waiting.extend(value[:_MAX_KEY_PARTS])


def _key(key: object) -> object:
    """`key`, wrapped in a `Key` if a file could choose its hash.

    Raises:
        MalformedPickleError: it is of a type that no dictionary takes as a key.
        UnsupportedPickleError: it holds a storage, or too many parts to look through.
    """
    if type(key) in _SCALARS:
        return key
    if isinstance(key, list | dict) and type(key) is not Unordered:
        raise MalformedPickleError(f"{describe(key)} as a dictionary key")
    _refuse_storages(key)
    if isinstance(key, StandIn):
        return key
    is_small = type(key) is int and key.bit_length() <= _MAX_KEY_BITS
    return key if is_small else Key(key)
