"""What users are told of a format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """What users are told of a format, in a row of its table.

    Attributes:
        words: what it is or who writes it, in a few words.
        markers: how it is told; of directories names of entries, with `*` for anything and `#` for
            a digit.
        reads: whether gradtool reads it, or only knows it.
        clips: whether `clip` writes it, apart from what a file itself rules out.
        extra: the extra of the package that it needs, None for none.
    """

    words: str
    markers: tuple[str, ...]
    reads: bool = True
    clips: bool = True
    extra: str | None = None
