"""Trees: nested dicts, lists and tuples with anything else as leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any, Final

from gradtool.errors import UsageError

Tree = Any

LONE_NAME: Final = "array"
"""The name of an array that is a whole tree, and so has no key."""


def all_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Every leaf and its name, as `leaves` gives them; UsageError for a tree that holds itself."""
    try:
        return list(leaves(tree))
    except RecursionError:
        raise UsageError("the tree nests too deeply, or holds itself") from None


def leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf and its name: the keys and positions that lead to it, joined by dots."""
    children = _children(tree)
    if children is None:
        yield name, tree
        return
    for key, child in children:
        yield from leaves(child, f"{name}.{key}" if name else str(key))


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """A tree of the same shape, each leaf replaced by `function` of it, in the order of leaves."""
    if isinstance(tree, dict):
        # Not every subclass of dict can be constructed from its items.
        new = copy(tree)
        for key, child in tree.items():
            new[key] = mapped(function, child)
        return new
    if isinstance(tree, Mapping):
        constructor: Any = type(tree)
        return constructor({key: mapped(function, child) for key, child in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, child) for child in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(function, child) for child in tree)
    return function(tree)


def _children(tree: Tree) -> Iterator[tuple[object, Tree]] | None:
    if isinstance(tree, Mapping):
        return iter(tree.items())
    return enumerate(tree) if isinstance(tree, list | tuple) else None
