"""Handlers of Python's own containers, which pickles make by calls, from another container or none.

The result is a copy, as in Python: items that are added to one of the two are not in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gradtool.formats.pickles.contents import set_items
from gradtool.formats.pickles.stand_ins import (
    Attributed,
    Bytes,
    Handler,
    MalformedPickleError,
    Opaque,
    Spend,
    TextBytes,
    Unordered,
    UnsupportedPickleError,
    describe,
)

_ITEM_COST: Final = 64
_NUMBERS: Final = (bool, int, float, str)
_TEXT_ENCODINGS: Final = frozenset({"ascii", "latin-1", "latin1", "utf-8"})


def _mapping(entries: object = None, *, spend: Spend) -> object:
    """A dict of the entries of another, or of a list of pairs, as Python 2 wrote OrderedDict."""
    made = Attributed()
    if isinstance(entries, dict):
        spend(_ITEM_COST * len(entries))
        made.update(entries)
    elif isinstance(entries, list):
        spend(_ITEM_COST * len(entries))
        set_items(made, [part for pair in entries for part in _pair(pair)])
    elif entries is not None:
        raise MalformedPickleError(f"a dict made of {describe(entries)}")
    return made


def _pair(pair: object) -> Sequence[object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise MalformedPickleError(f"a dict with {describe(pair)} for a key and its value")
    return pair


def _counter(entries: object = None, *, spend: Spend) -> object:
    if isinstance(entries, list):
        raise MalformedPickleError("a Counter made of a list, which no pickler writes")
    return _mapping(entries, spend=spend)


def _default_mapping(_factory: object = None) -> Attributed:
    return Attributed()


def _sequence(items: object = (), *, spend: Spend) -> object:
    if not isinstance(items, list | tuple):
        raise MalformedPickleError(f"a set or list made of {describe(items)}")
    spend(_ITEM_COST * len(items))
    return Unordered(items)


def _list(items: object = (), *, spend: Spend) -> object:
    made = _sequence(items, spend=spend)
    return list(made) if isinstance(made, Unordered) else made


def _bytes(data: object = None, encoding: object = "latin1") -> object:
    if data is None:
        return Bytes(0, 0)
    if type(data) is not str:
        return data
    # The type first: a nested tuple may take for ever to hash, or to show.
    if type(encoding) is not str:
        raise MalformedPickleError(f"bytes as text in {describe(encoding)}")
    if encoding not in _TEXT_ENCODINGS:
        raise UnsupportedPickleError(f"bytes as text in encoding {encoding[:20]!r}")
    return TextBytes(data, encoding)


def _complex(*parts: object) -> Opaque:
    if not all(isinstance(part, _NUMBERS) for part in parts):
        raise MalformedPickleError(f"a number made of {' and '.join(map(describe, parts))}")
    return Opaque("builtins.complex", parts)


CONTAINERS: Final = {
    "collections.OrderedDict": Handler(_mapping, 0, 1, copies=True),
    "collections.Counter": Handler(_counter, 0, 1, copies=True),
    "collections.defaultdict": Handler(_default_mapping, 0, 1),
    "_codecs.encode": Handler(_bytes, 1, 2),
    "builtins.set": Handler(_sequence, 0, 1, copies=True),
    "builtins.frozenset": Handler(_sequence, 0, 1, copies=True),
    "builtins.list": Handler(_list, 0, 1, copies=True),
    "builtins.dict": Handler(_mapping, 0, 1, copies=True),
    "builtins.complex": Handler(_complex, 0, 2, is_class=True),
    "builtins.bytes": Handler(_bytes, 0, 2),
    "builtins.bytearray": Handler(_bytes, 0, 2),
}
