"""Whether the order in which a file lists its tensors may be that of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from gradtool.core.names import natural_key
from gradtool.core.tensors import TensorSpec

_COMPONENT: Final = re.compile(r"[./]")


def may_be_the_model_s(specs: Iterable[TensorSpec]) -> bool:
    """Whether no section lies as a dict that JAX, or `sorted`, has put in order.

    That is layer 10 before layer 2, which no model has. Where files note the order of the model
    nobody needs to ask.
    """
    names: dict[str, list[str]] = {}
    for spec in specs:
        names.setdefault(spec.section, []).append(spec.name)
    return not any(map(_are_sorted, names.values()))


def _are_sorted(names: Sequence[str]) -> bool:
    """Whether names lie as their characters do, where natural order is another."""
    components = map(_COMPONENT.split, names)
    is_sorted = all(one <= other for one, other in pairwise(names)) or all(
        one <= other for one, other in pairwise(components)
    )
    return is_sorted and any(
        natural_key(one) > natural_key(other) for one, other in pairwise(names)
    )
