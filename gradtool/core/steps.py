"""The step of the training that a path names."""

from __future__ import annotations

import os
import re
from typing import Final

_STEP: Final = re.compile(
    r"(?<![A-Za-z])(?:step|iter|iteration|checkpoint|ckpt)[-_=]?(\d{1,18})(?!\d)", re.IGNORECASE
)
"""What trainers call the steps of their dumps."""

_PART: Final = re.compile(r"(?:rank|shard|part|gpu|worker|model|of)[-_=]?\d+", re.IGNORECASE)
"""What they call the parts of one dump."""

_NUMBER: Final = re.compile(r"\d+")


def step_in(path: str) -> int | None:
    """The last number in a path that follows a word for a step; None where there is none.

    That of a directory counts for `step_10/rank1.pt`, a part of a step, and not for
    `ckpt2/grads_0001.pt`, in which the file has a number of its own.
    """
    directory, name = os.path.split(path)
    if found := _STEP.findall(name):
        return int(found[-1])
    if _NUMBER.search(_PART.sub("", name)):
        return None
    found = _STEP.findall(directory)
    return int(found[-1]) if found else None


def are_parts(path: str, other: str) -> bool:
    """Whether two paths differ in the number of a rank or another part of one dump only."""
    return path != other and _PART.sub("", path) == _PART.sub("", other)
