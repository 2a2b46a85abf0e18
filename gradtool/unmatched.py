"""Why nothing is left of a checkpoint, said with the filter's words and the nearest names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.names import BareNames, name_filter, nearest, nearest_names
from gradtool.core.tensors import ABSENT, Skipped, TensorSpec
from gradtool.errors import EmptyDumpError, UsageError

_MOST_SECTIONS: Final = 20


class NoSectionsError(UsageError):
    """A section was asked for of a checkpoint that has none at all."""


def refuse_nothing(
    checkpoint: Checkpoint,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    section: str | None,
    bare: BareNames,
) -> NoReturn:
    """Say why no tensor of a whole catalogue is chosen.

    Raises EmptyDumpError where there is none to choose, and else UsageError naming the filter.
    """
    if not checkpoint.tensors:
        raise EmptyDumpError(checkpoint.path, _why_empty(checkpoint))
    inside = [*filter(checkpoint.section_filter(section), checkpoint.tensors)]
    if section is not None and not inside:
        _refuse_section(checkpoint, section)
    names = [spec.name for spec in inside]
    path, given = checkpoint.path, ", ".join(map(repr, include))
    for glob in include:
        if not any(map(name_filter([glob], (), bare), names)):
            problem = f"no tensor matches the filters: `include` {given}"
            raise UsageError(f"{path}: {problem}", hint=nearest_names(glob, names))
    left_out = ", ".join(map(repr, exclude))
    problem = f"no tensor matches the filters: `exclude` {left_out} leaves none"
    also = f" of what `include` {given} matches" if include else ""
    raise UsageError(f"{path}: {problem}{also}")


def _refuse_section(checkpoint: Checkpoint, section: str) -> NoReturn:
    sections = sorted({spec.section for spec in checkpoint.tensors if spec.section})
    problem = f"{checkpoint.path}: has no section {section!r}"
    if not sections:
        raise NoSectionsError(problem, hint="it has no sections")
    # Optimizers give sections their names, and a file may hold any number of them.
    most_like = nearest(section, sections, _MOST_SECTIONS)
    listed = sections if len(sections) <= _MOST_SECTIONS else most_like
    raise UsageError(problem, hint=f"its sections are {', '.join(map(repr, listed))}")


def refuse_merged_names(checkpoint: Checkpoint, bare: BareNames) -> None:
    """UsageError, naming both, where two names of one section become one without the prefixes."""
    first_with: dict[tuple[str, str], str] = {}
    wrappers_off = BareNames()
    items: list[TensorSpec | Skipped] = [*checkpoint.tensors, *checkpoint.skipped]
    for item in items:
        first = first_with.setdefault((item.section, bare(item.name)), item.name)
        if first != item.name and wrappers_off(first) != wrappers_off(item.name):
            problem = f"{first!r} and {item.name!r} become one name, {bare(item.name)!r}"
            prefixes = ", ".join(map(repr, bare.prefixes))
            raise UsageError(f"{checkpoint.path}: {problem}, without `strip_prefix` {prefixes}")


def _why_empty(checkpoint: Checkpoint) -> str:
    if not checkpoint.skipped and checkpoint.format == "torchscript":
        return "is a TorchScript program without parameters: save the model's weights"
    if not checkpoint.skipped:
        return "holds no tensor at all: an empty dump (were gradients kept in `main_grad`?)"
    if {item.reason for item in checkpoint.skipped} == {ABSENT}:
        return "no parameter has a gradient: measure after backward() and before zero_grad()"
    reasons = ", ".join(sorted({item.reason for item in checkpoint.skipped}))
    return f"holds no gradient: every tensor is skipped ({reasons})"
