"""What each file of a directory is of: gradients, weights, moments, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gradtool.core.sections import GRADS, KINDS, MODEL, OPTIMIZER
from gradtool.core.tensors import SectionKind
from gradtool.formats.file_kinds import Told, is_bare, told_by
from gradtool.formats.layouts._contents import Part, stem_of

_SECTIONS: Final[Mapping[SectionKind | None, str]] = {"weights": MODEL, "optimizer": OPTIMIZER}
"""The section of a file of which one kind is known."""


def kinds_apart(parts: Sequence[Part]) -> dict[str, str]:
    """The section that each file is of, by the names of the files.

    "" where nothing tells, and for a file of which its own keys do. What its name tells with some
    doubt counts beside files of a kind that is known.
    """
    told = {part.name: _told(part) for part in parts}
    recognised = any(
        has_keys(part) or ((its := told[part.name]) and its.is_sure and its.section in KINDS)
        for part in parts
    )
    return {
        name: its.section if its and (its.is_sure or recognised) else ""
        for name, its in told.items()
    }


def has_keys(part: Part) -> bool:
    """Whether the file's own keys say what is in it."""
    kinds = part.checkpoint.section_kinds
    return bool(kinds) and "" not in kinds


def _told(part: Part) -> Told | None:
    if has_keys(part):
        return None
    if part.checkpoint.is_dump:
        return Told(GRADS, is_sure=True)
    stem = stem_of(part.name)
    told = told_by(stem, is_bare=is_bare(part.checkpoint, stem))
    section = _SECTIONS.get(part.checkpoint.section_kinds.get(""))
    return Told(section, is_sure=True) if told is None and section else told
