"""Elements that a loader sees and no name leads to: a tensor as a key, in a hook, an argument.

Whatever a pickle makes is noted while it is made, wherever it then goes; what the walk over the
object did not come by would be missing from every figure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from gradtool.core.element_types import numpy_type, storage_type, torch_type
from gradtool.core.tensors import META
from gradtool.errors import UnsupportedFormatError
from gradtool.formats.pickles.machine import Elements
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayType,
    MetaRef,
    SparseRef,
    Storage,
    TensorRef,
    Unmeasured,
    describe,
)

_NO_GRADIENTS: Final = frozenset({"integer", "bool", META})


def refuse_hidden(
    made: Sequence[Elements], reached: Collection[int], path: str, record: str, byte: int
) -> None:
    """Raise UnsupportedFormatError for elements that may be gradients and have no name.

    Args:
        made: everything with elements that the pickle makes.
        reached: the identities of what was found under a name.
        path: the file's.
        record: the pickle's.
        byte: where the pickle is.
    """
    tensors = (value.values if isinstance(value, Unmeasured) else value for value in made)
    read = {id(tensor.storage) for tensor in tensors if isinstance(tensor, TensorRef)}
    for value in made:
        if id(value) in reached or id(value) in read:
            continue
        elements = _elements(value)
        if elements not in _NO_GRADIENTS:
            raise UnsupportedFormatError(
                path,
                f"holds {describe(value)} of {elements} where no name leads: as the key of a dict, "
                "in a hook or as an argument",
                tensor=record,
                byte=byte,
                hint="save a dict of tensors",
            )


def _elements(value: Elements) -> str:
    """What the elements of something are, as far as it says: why they are none, or their type."""
    match value:
        case TensorRef(dtype=str(name)):
            element = torch_type(name)
        case TensorRef(storage=Storage(class_name=name)) | Storage(class_name=name):
            element = storage_type(name)
        case ArrayRef(state=(_, _, ArrayType(description=name), *_)):
            element = numpy_type(name)
        case Unmeasured(values=values):
            return _elements(values)
        case MetaRef() | SparseRef():
            return META  # without elements but those of tensors in it
        case _:
            return "unknown type"
    if element is None:
        return f"{name:.80}"
    return element.reason if element.reason in _NO_GRADIENTS else element.name
