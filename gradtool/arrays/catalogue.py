"""What is in memory as a catalogue, so that it is measured as a file of it would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gradtool.arrays.memory import Located, located
from gradtool.arrays.parameters import Named, gradient, named_arrays, refuse_repeated
from gradtool.arrays.tree import LONE, Tree, all_leaves
from gradtool.core.element_types import listed_name
from gradtool.core.figures import counted
from gradtool.core.sections import SECTION_KINDS
from gradtool.core.tensors import ABSENT, Checkpoint, SectionKind, Skipped, TensorSpec
from gradtool.errors import UsageError
from gradtool.storage.memory import MEMORY_PATH


class Catalogued(NamedTuple):
    """A catalogue, and what has to live for as long as it is read."""

    checkpoint: Checkpoint
    owners: list[object]


def catalogue(source: Tree) -> Catalogued:
    """The catalogue of a module, of pairs of name and parameter, or of a tree of arrays.

    Of parameters their gradients are listed, of other arrays they themselves.

    Raises UsageError for a leaf that is no array, or for names that come twice.
    """
    named = named_arrays(source)
    if named is None:
        found = all_leaves(source)
        named = [item for name, leaf in found for item in gradient(name or LONE, leaf)]
        kinds = _sections_of_tree(source)
    else:
        kinds = {}  # gradients, whatever the parts of a model are called
    listed = catalogue_of(named, kinds)
    refuse_repeated(listed.checkpoint.names)
    return listed


def catalogue_of(named: Sequence[Named], kinds: dict[str, SectionKind]) -> Catalogued:
    """The catalogue of named arrays, of which those under the keys of `kinds` are sections."""
    tensors: list[TensorSpec] = []
    skipped: list[Skipped] = []
    owners: list[object] = []
    shards = sparse = 0
    for name, array, dtype in named:
        head = name.split(".", 1)[0]
        section = head if head in kinds else ""
        if array is None:
            skipped.append(Skipped(name, listed_name(dtype), ABSENT, section))
            continue
        found = _located(name, array)
        owners.append(found.owner)
        listed = found.listed(name, section)
        (tensors if isinstance(listed, TensorSpec) else skipped).append(listed)  # type: ignore[arg-type]
        shards += found.is_shard
        sparse += bool(found.indices)
        for part, index_type in found.indices.items():
            skipped.append(Skipped(f"{name}.{part}", index_type, "integer", section))
    notes = []
    if shards:
        found_shards = counted(shards, "DTensor is", "DTensors are")
        notes.append(f"{found_shards} measured by the part that this rank holds")
    if sparse:
        found_sparse = counted(sparse, "sparse tensor is", "sparse tensors are")
        notes.append(f"{found_sparse} measured by the stored values")
    checkpoint = Checkpoint(
        path=MEMORY_PATH,
        format=MEMORY_PATH,
        files=(),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        section_kinds=kinds,
        notes=tuple(notes),
        in_model_order=True,
    )
    return Catalogued(checkpoint, owners)


def _located(name: str, array: object) -> Located:
    try:
        found = located(array)
    except (AttributeError, RuntimeError) as error:
        # Tensors of transformations, nested ones, and what else libraries make of theirs.
        problem = f"{type(array).__name__} has no elements in memory to be read"
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{name!r}: {problem} ({reason})") from error
    if found is None:
        hint = "one path at a time is measured" if isinstance(array, str) else None
        raise UsageError(f"{name!r} is no array of numbers: {type(array).__name__}", hint=hint)
    return found


def _sections_of_tree(tree: Tree) -> dict[str, SectionKind]:
    """What the recognised keys at the top of a tree hold, as in a dict that torch saved."""
    if not isinstance(tree, dict):
        return {}
    kinds = {key: SECTION_KINDS[key] for key in tree if key in SECTION_KINDS}
    several = len(set(kinds.values())) > 1
    # A section holds arrays; a lone one may well be called `weights`.
    return {
        key: kind
        for key, kind in kinds.items()
        if several or isinstance(tree[key], dict | list | tuple)
    }
