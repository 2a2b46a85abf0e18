"""Files of several ranks as one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from gradtool.core.tensors import Checkpoint
from gradtool.errors import UnsupportedFormatError
from gradtool.formats.layouts._joined import joined, repeated_name
from gradtool.formats.layouts.arrangement import Unit
from gradtool.formats.layouts.asked import Asked


def joined_ranks(path: str, unit: Unit, members: Sequence[Checkpoint], asked: Asked) -> Checkpoint:
    """The whole of what the ranks hold."""
    name = repeated_name(members)
    if name is not None:
        raise UnsupportedFormatError(path, "ranks", tensor=name)
    return joined(path, "ranks", members)
