"""What the figures of a difference say together, in words."""

from __future__ import annotations

from dataclasses import dataclass

DEAD_SIDES = "GT501"
"""The code of the finding that no element of two dumps is finite and not zero."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the figures say together.

    Attributes:
        code, name: of the rule that says so; see `gradtool explain`.
        text: one sentence.
        tensors: names of the tensors that it is about, as the first dump has them.
    """

    code: str
    name: str
    text: str
    tensors: tuple[str, ...] = ()
