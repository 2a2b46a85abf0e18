"""Models that are one message of protobuf, which has no mark: told by their outermost fields.

Only the fields' numbers and lengths are read, over the whole of the file, which they have to fill.
Sources: `ModelProto` of onnx/onnx.proto, `Model` of Core ML's mlmodel/format/Model.proto,
`SavedModel` of tensorflow/core/protobuf/saved_model.proto.
"""

from __future__ import annotations

from typing import Final

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError
from gradtool.formats.cursor import Cursor

_FIRST: Final = b"\x08"
"""The first field of all three: a version, an integer."""

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_NBYTES: Final = {1: 8, 5: 4}
_MOST_FIELDS: Final = 10_000
_MOST_VARINT_NBYTES: Final = 10

_ONNX: Final = frozenset({*range(1, 9), 14, 20, 25, 26})
_ONNX_GRAPH: Final = 7
_COREML_KINDS: Final = range(200, 3001)
_COREML: Final = frozenset({1, 2, 10, *_COREML_KINDS})
_SAVED_MODEL: Final = frozenset({1, 2})

_EXPORTED: Final = "a graph for inference: save the weights that it was made of, by safetensors say"


def model_in(source: Source, head: bytes) -> str | None:
    """Which model a file that starts with `head` is, in words; None for none of them."""
    if not head.startswith(_FIRST):
        return None
    try:
        fields = _fields(Cursor(source))
    except CorruptFileError:
        return None
    return None if fields is None else _model_of(fields)


def _model_of(fields: set[int]) -> str | None:
    if _ONNX_GRAPH in fields and fields <= _ONNX:
        return f"is an ONNX model, {_EXPORTED}"
    if fields <= _COREML and not fields.isdisjoint(_COREML_KINDS):
        return f"is a Core ML model, {_EXPORTED}"
    is_saved = fields == _SAVED_MODEL
    return "is a TensorFlow SavedModel: save its variables by numpy.savez" if is_saved else None


def _fields(cursor: Cursor) -> set[int] | None:
    """The numbers of the fields of a message that fills the source; None for anything else."""
    found: set[int] = set()
    for _ in range(_MOST_FIELDS):
        if not cursor.left:
            return found
        tag = _varint(cursor)
        number, wire = tag >> 3, tag & 7
        found.add(number)
        if wire == _VARINT:
            _varint(cursor)
        elif wire == _BYTES:
            cursor.skip(_varint(cursor))
        elif wire in _FIXED_NBYTES:
            cursor.skip(_FIXED_NBYTES[wire])
        else:
            return None
    return None


def _varint(cursor: Cursor) -> int:
    value = 0
    for position in range(_MOST_VARINT_NBYTES):
        byte = cursor.take(1)[0]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            break
    return value
