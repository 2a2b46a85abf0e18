"""Trees: nested dicts, lists and tuples with anything else as leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any, Final

from gradtool.errors import UsageError

Tree = Any


LONE: Final = "array"
"""The name of a leaf that is the whole tree."""


def all_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Every leaf and its name; UsageError for a tree that holds itself."""
    try:
        return list(leaves(tree))
    except RecursionError:
        raise UsageError("the tree nests too deeply, or holds itself") from None


def leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf, and the keys and positions that lead to it, joined by dots."""
    children = _children(tree)
    if children is None:
        yield name, tree
        return
    for key, child in children:
        yield from leaves(child, f"{name}.{key}" if name else str(key))


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """A tree of the same shape, its leaves what `function` makes of these, in the same order."""
    if isinstance(tree, dict):
        # Not every kind of dict is made of its items.
        new = copy(tree)
        for key, child in tree.items():
            new[key] = mapped(function, child)
        return new
    if isinstance(tree, Mapping):
        made_of: Any = type(tree)
        return made_of({key: mapped(function, child) for key, child in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, child) for child in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(function, child) for child in tree)
    return function(tree)


def _children(tree: Tree) -> Iterator[tuple[object, Tree]] | None:
    if isinstance(tree, Mapping):
        return iter(tree.items())
    return enumerate(tree) if isinstance(tree, list | tuple) else None
