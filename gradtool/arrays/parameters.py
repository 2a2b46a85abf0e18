"""Finding the gradients of modules and of named parameters."""

from __future__ import annotations

import sys
from collections.abc import ItemsView, Iterable, Iterator
from typing import Any, NamedTuple

from gradtool.arrays.memory import torch_dtype_name
from gradtool.errors import UsageError


class NamedArray(NamedTuple):
    """A named array: a parameter's gradient, or an array that was given itself.

    `array` is None for a parameter that requires a gradient and has none. `dtype` is the name of
    a parameter's dtype, and empty for other arrays.
    """

    name: str
    array: Any
    dtype: str = ""


def named_arrays(source: Any) -> list[NamedArray] | None:
    """The gradients of a module or of pairs of name and parameter; None for another source.

    A parameter with several names is listed under each. Raises UsageError for a name that comes
    twice, an item that is no such pair, or parameters that FSDP1 keeps in pieces.
    """
    if hasattr(source, "named_parameters") and not isinstance(source, type):
        pairs = list(source.named_parameters(remove_duplicate=False))
    elif isinstance(source, Iterator | ItemsView) or _is_list_of_pairs(source):
        pairs = list(source)
    else:
        return None
    gradients: list[NamedArray] = []
    for pair in pairs:
        if not _is_pair(pair):
            raise UsageError(f"expected pairs of name and parameter, not {type(pair).__name__}")
        gradients.extend(gradient(*pair))
    _refuse_pieces(leaf for _, leaf in pairs)
    refuse_repeated(name for name, _ in pairs)
    return gradients


def refuse_repeated(names: Iterable[str]) -> None:
    """UsageError for a name that comes twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"two tensors come by the name {name!r}")
        seen.add(name)


def _refuse_pieces(leaves: Iterable[Any]) -> None:
    """UsageError if FSDP1 has these parameters flattened and split over the ranks.

    A piece has one dimension, and none of its elements may be on this rank; nothing leads from it
    to its tensor, and what is on other ranks would be taken for a missing gradient. Where FSDP1
    does not split, or has put tensors together, they have their own shapes.
    """
    shapes = [leaf.shape for leaf in leaves if getattr(leaf, "_fsdp_flattened", False)]
    if shapes and (all(len(shape) < 2 for shape in shapes) or (0,) in shapes):
        raise UsageError(
            "FSDP1 has split these gradients into flat pieces, which nothing puts together again",
            hint="use FSDP2 (fully_shard), or with use_orig_params=True call this within "
            "summon_full_params(model, with_grads=True)",
        )


def gradient(name: str, leaf: Any) -> Iterator[NamedArray]:
    """A parameter's gradient (`main_grad`, where Megatron keeps it), or another leaf itself.

    Yields at most one: none for None, and for a frozen parameter without a gradient.
    """
    if not _is_parameter(leaf):
        if leaf is not None:
            yield NamedArray(name, leaf)
        return
    main = getattr(leaf, "main_grad", None)
    grad = leaf.grad if main is None else main
    if grad is not None or leaf.requires_grad:
        yield NamedArray(name, grad, torch_dtype_name(leaf.dtype))


def _is_parameter(leaf: Any) -> bool:
    """Whether `leaf` is a torch tensor that has a gradient or is to get one."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(leaf, torch.Tensor):
        return False
    if isinstance(leaf, torch.nn.Parameter) or hasattr(leaf, "main_grad"):
        return True
    if leaf.is_leaf:
        return leaf.requires_grad or leaf.grad is not None
    return bool(leaf.retains_grad)


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)


def _is_list_of_pairs(source: object) -> bool:
    return isinstance(source, list | tuple) and all(map(_is_pair, source[:1]))
