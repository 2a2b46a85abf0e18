"""What tensors of optimizers are called, and the sections that they are in."""

from __future__ import annotations

from collections.abc import Iterable

from gradtool.core.sections import KINDS, OPTIMIZER, OTHER, sections_of
from gradtool.core.tensors import SectionKind


def optimizer_name(parameter: str, what: str) -> str:
    """The name of what an optimizer keeps of a parameter, as torch's distributed state has it."""
    return f"{OPTIMIZER}.state.{parameter}.{what}"


def section_of_kind(what: str) -> str:
    """The section of what an optimizer keeps of parameters."""
    name = optimizer_name("w", what)
    return sections_of({name: OPTIMIZER})(name)


def kinds_of(sections: Iterable[str]) -> dict[str, SectionKind]:
    """What sections hold, but those of what is neither."""
    found = {section: KINDS.get(section.partition(".")[0]) for section in sections}
    return {name: kind for name, kind in found.items() if kind is not None and name != OTHER}
