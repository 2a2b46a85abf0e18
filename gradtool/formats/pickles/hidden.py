"""Elements that a loader sees but no name leads to: a tensor as a key, in a hook, an argument.

The interpreter notes all elements that a pickle makes, wherever they go; those that the walk over
the object does not reach would be missing from every figure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from gradtool.core.element_types import numpy_type, storage_type, torch_type
from gradtool.core.tensors import META
from gradtool.errors import UnsupportedFormatError
from gradtool.formats.pickles.machine import ElementHolder
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayType,
    CoordinatesRef,
    MetaRef,
    SparseRef,
    Storage,
    TensorRef,
    Unmeasured,
    describe,
)

_NO_GRADIENTS: Final = frozenset({"integer", "bool", META})


def refuse_hidden(
    made: Sequence[ElementHolder], reached: Collection[int], path: str, record: str, byte: int
) -> None:
    """Raise UnsupportedFormatError for elements that may be gradients and have no name.

    Args:
        made: everything with elements that the pickle makes.
        reached: the identities (`id`) of those that have a name, and of their parts.
        path: the file's path, for errors.
        record: the name of the pickle's record, for errors.
        byte: where the pickle begins in the file, for errors.
    """
    tensors = (value.values if isinstance(value, Unmeasured) else value for value in made)
    storages = {id(tensor.storage) for tensor in tensors if isinstance(tensor, TensorRef)}
    for value in made:
        if id(value) in reached or id(value) in storages:
            continue
        element_type = _element_type(value)
        if element_type not in _NO_GRADIENTS:
            raise UnsupportedFormatError(
                path,
                f"holds {describe(value)} of {element_type} where no name leads: as the key of a "
                "dict, in a hook or as an argument",
                tensor=record,
                byte=byte,
                hint="save a dict of tensors",
            )


def _element_type(value: ElementHolder) -> str:
    """The type of the elements, or why they are no gradients (one of `_NO_GRADIENTS`)."""
    match value:
        case TensorRef(dtype=str(name)):
            element = torch_type(name)
        case TensorRef(storage=Storage(class_name=name)) | Storage(class_name=name):
            element = storage_type(name)
        case ArrayRef(state=(_, _, ArrayType(description=name), *_)):
            element = numpy_type(name)
        case Unmeasured(values=values):
            return _element_type(values)
        case MetaRef() | CoordinatesRef() | SparseRef():
            return META  # no elements but those of the tensors in it
        case _:
            return "unknown type"
    if element is None:
        return f"{name:.80}"
    return element.reason if element.reason in _NO_GRADIENTS else element.name
