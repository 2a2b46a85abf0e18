"""Files that their beginning says nothing of: MessagePack of others, tables, and zeros."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gradtool.core.locations import Source
from gradtool.errors import InputError
from gradtool.formats.foreign.texts import OPENVINO
from gradtool.formats.msgpack.finding import find_array
from gradtool.storage.reader import open_source

_TENSORFLOW: Final = "a TensorFlow checkpoint: read it by TensorFlow, and save it by numpy.savez"
_TABLE_END: Final = bytes.fromhex("57fb808b247547db")
"""The last bytes of a table of LevelDB's form. Source: `kTableMagicNumber` of
tensorflow/core/lib/io/format.h.
"""

_TABLE_DATA: Final = re.compile(r"(.*)\.data-\d{5}-of-\d{5}", re.DOTALL)
_OPENVINO_DATA: Final = re.compile(r"(.*)\.bin", re.DOTALL)

_PROBES: Final = 16
_PROBE_NBYTES: Final = 1 << 16

_MSGPACK: Final = {
    "none": "is MessagePack without an array as Flax writes them",
    "cut off": "begins as MessagePack does, and ends before its first array: truncated",
}


def unmarked_in(source: Source, head: bytes) -> str | None:
    """What a file that starts with `head` is, in words; None where that is unknown."""
    size = source.file.size
    if _is_table(source):
        return f"is the index of {_TENSORFLOW}"
    if _is_beside(source.path, _TABLE_DATA, ".index", _is_table):
        return f"holds the data of {_TENSORFLOW}"
    if _is_beside(source.path, _OPENVINO_DATA, ".xml", _is_openvino):
        return "holds the weights of an OpenVINO model, of which the `.xml` beside it has the form"
    if not any(head) and _is_zero(source):
        return f"is {size} zero bytes, as far as it was looked at: nothing was ever written there"
    return _MSGPACK.get(find_array(source, head))


def _is_beside(
    path: str, named: re.Pattern[str], suffix: str, is_it: Callable[[Source], bool]
) -> bool:
    """Whether a file so named lies beside one with that suffix that is what it should be."""
    match = named.fullmatch(path)
    if match is None:
        return False
    with suppress(InputError), open_source(match[1] + suffix) as beside:
        return is_it(beside)
    return False


def _is_table(source: Source) -> bool:
    size = source.file.size
    return size >= len(_TABLE_END) and source.read(size - 8, 8) == _TABLE_END


def _is_openvino(source: Source) -> bool:
    return OPENVINO.search(source.read(0, min(source.file.size, _PROBE_NBYTES))) is not None


def _is_zero(source: Source) -> bool:
    """Whether there are zeros wherever one looks, at the end among others."""
    size = source.file.size
    nbytes = min(size, _PROBE_NBYTES)
    places = {(size - nbytes) * probe // (_PROBES - 1) for probe in range(_PROBES)}
    return not any(any(source.read(place, nbytes)) for place in sorted(places))
