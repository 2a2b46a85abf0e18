"""What tensors of two dumps are told apart by, and in which forms names of both may agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gradtool.core.names import BareNames

Key = tuple[str, str]
"""A tensor's section and its name."""


def forms(bare: BareNames) -> Iterator[Callable[[Key], Key]]:
    """The forms in which keys may agree, one after another: what agrees in one is settled."""
    yield lambda key: key
    yield lambda key: (key[0], bare(key[1]))
    yield lambda key: ("", key[1])
    yield lambda key: ("", bare(key[1]))
