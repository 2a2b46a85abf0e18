"""Catalogues of arrays in memory, so that these are measured like a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gradtool.arrays.memory import Elements, elements_of
from gradtool.arrays.parameters import NamedArray, gradient, named_arrays, refuse_repeated
from gradtool.arrays.tree import LONE_NAME, Tree, all_leaves
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.element_types import listed_name
from gradtool.core.figures import counted, sparse_notes
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.core.sections import OPTIMIZER, OPTIMIZER_KEYS, Sections, sections_of
from gradtool.core.tensors import ABSENT, Skipped, TensorSpec
from gradtool.errors import UsageError
from gradtool.storage.elements.coordinates import listed
from gradtool.storage.memory import MEMORY_PATH


class MemoryCatalogue(NamedTuple):
    """A catalogue of arrays, and the objects to keep alive until their memory has been read."""

    checkpoint: Checkpoint
    owners: list[object]


def catalogue(source: Tree) -> MemoryCatalogue:
    """The catalogue of a module, of pairs of name and parameter, or of a tree of arrays.

    It lists the gradients of parameters, and other arrays themselves.

    Raises UsageError for a leaf that is no array, or for names that come twice.
    """
    named = named_arrays(source)
    if named is not None:
        listed = catalogue_of(named, Sections())  # a module may be called like a section
    else:
        leaves = all_leaves(source)
        named = [item for name, leaf in leaves for item in gradient(name or LONE_NAME, leaf)]
        listed = catalogue_of(named, _sections_of_tree(source, [item.name for item in named]))
        checkpoint = replace(
            listed.checkpoint.with_scales_apart(),
            in_model_order=may_be_the_model_s(listed.checkpoint.tensors),
        )
        listed = listed._replace(checkpoint=checkpoint)
    refuse_repeated(listed.checkpoint.names)
    return listed


def catalogue_of(named: Sequence[NamedArray], section_of: Sections) -> MemoryCatalogue:
    """The catalogue of named arrays, in these sections."""
    tensors: list[TensorSpec] = []
    skipped: list[Skipped] = []
    owners: list[object] = []
    shards = stored = summed = 0
    for name, array, dtype in named:
        section = section_of(name)
        if array is None:
            skipped.append(Skipped(name, listed_name(dtype), ABSENT, section))
            continue
        elements = _elements(name, array)
        parts = [(f"{name}.{part}", _elements(name, one)) for part, one in elements.indices.items()]
        owners += (one.owner for one in (elements, *(part for _, part in parts)))
        shards += elements.is_shard
        entry = elements.entry(name, section)
        of_parts = [one.entry(part, section) for part, one in parts]
        if elements.whole is not None and isinstance(entry, TensorSpec):
            entry, of_parts, is_summed = _coordinates(entry, of_parts, elements.whole)
            summed += is_summed
            stored += not is_summed
        else:
            stored += bool(parts)
        for one in (entry, *of_parts):
            (tensors if isinstance(one, TensorSpec) else skipped).append(one)  # type: ignore[arg-type]
    notes = []
    if shards:
        subject = counted(shards, "DTensor is", "DTensors are")
        notes.append(f"{subject} measured by the part that this rank holds")
    notes += sparse_notes(stored, summed)
    checkpoint = Checkpoint(
        path=MEMORY_PATH,
        format=MEMORY_PATH,
        files=(),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        section_kinds=section_of.kinds,
        notes=tuple(notes),
        in_model_order=True,
    )
    return MemoryCatalogue(checkpoint, owners)


def _coordinates(
    values: TensorSpec, of_parts: Sequence[TensorSpec | Skipped], whole: tuple[int, ...]
) -> tuple[TensorSpec, list[TensorSpec | Skipped], bool]:
    """The entries of a sparse tensor of that shape, and whether they are of sums."""
    (indices,) = of_parts
    if not isinstance(indices, Skipped) or indices.stored is None:  # torch has I64 there, in order
        return values, [indices], False
    found = listed(MEMORY_PATH, values, indices.stored, whole)
    return found.values, [found.indices], found.is_summed


def _elements(name: str, array: object) -> Elements:
    """The elements of an array in memory; UsageError for what has none."""
    try:
        elements = elements_of(array)
    except (AttributeError, RuntimeError) as error:
        # Tensors inside transformations such as vmap, nested ones, and other special types.
        problem = f"{type(array).__name__} has no elements in memory to be read"
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{name!r}: {problem} ({reason})") from error
    if elements is None:
        hint = "give a path, several paths, a module, or arrays by name"
        if isinstance(array, str):
            hint = "a path has to stand alone, or among paths only"
        raise UsageError(f"{name!r} is no array of numbers: {type(array).__name__}", hint=hint)
    return elements


def _sections_of_tree(tree: Tree, names: Sequence[str]) -> Sections:
    """The sections of the arrays in a tree, as of those in a dict that torch saved."""
    if not isinstance(tree, dict):
        return Sections()
    keys = {str(key): isinstance(value, dict | list | tuple) for key, value in tree.items()}
    heads = [name.split(".", 1)[0] for name in names]
    if keys.keys() >= OPTIMIZER_KEYS:
        tops = {key: OPTIMIZER if key in OPTIMIZER_KEYS else key for key in keys}
    else:
        tops = {key: key for key in keys}
    by_name = {
        name: tops[head] if keys.get(head) else None
        for name, head in zip(names, heads, strict=True)
    }
    return sections_of(by_name, keys)
