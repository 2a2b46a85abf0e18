"""Names of tensors: order, filters, groups, what wraps them, and what is nearest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import translate
from typing import Final, Protocol, TypeAlias, TypeVar

from gradtool.errors import UsageError
from gradtool.shortening import shortened

NameFilter: TypeAlias = Callable[[str], bool]
"""Whether a tensor of that name is asked for."""

_DIGITS = re.compile(r"\d+")
_MOST_DEPTH_DIGITS = 18

UNGROUPED = "(other)"
"""The group of the names that a group pattern does not match."""

_SEPARATORS: Final = re.compile(r"[-_./]+", re.ASCII)
_WRAPPER: Final = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names.

Sources: torch/nn/parallel/distributed.py; torch/_dynamo/eval_frame.py, `OptimizedModule`;
torch/distributed/fsdp/_common_utils.py, `FSDP_WRAPPED_MODULE`;
torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py, `_CHECKPOINT_WRAPPED_MODULE`.
"""

_COMPARED: Final = 1000
"""Names that are compared letter by letter with one that is sought, at most."""

_COMPARED_LENGTH: Final = 200
"""Characters of a name that are compared; it may come from a file and be of any length."""


def unwrapped(name: str) -> str:
    """A name without what wraps modules, wherever that stands: `h.w` of `module.h._orig_mod.w`."""
    return _WRAPPER.sub("", name)


@dataclass(frozen=True, slots=True)
class BareNames:
    """Names as they are matched: without wrappers, and without the prefixes of `strip_prefix`.

    Each of `prefixes` is taken off the start of a name once, in this order, after the wrappers. One
    that ends in a letter, a digit or `_` is whole components: `net` takes off `net.` and not the
    beginning of `network.`.
    """

    prefixes: tuple[str, ...] = ()

    def __call__(self, name: str) -> str:
        """The bare name."""
        bare = unwrapped(name)
        for prefix in self._whole_prefixes():
            bare = bare.removeprefix(prefix) or bare
        return bare

    def forms(self, name: str) -> Iterable[str]:
        """The name as it is, then as it is matched besides, each different form once."""
        bare = unwrapped(name)
        return dict.fromkeys((name, bare, self(name)) if self.prefixes else (name, bare))

    def taken_off(self, name: str) -> Iterator[str]:
        """What is taken off a name, in pieces."""
        yield from _WRAPPER.findall(name)
        bare = unwrapped(name)
        for prefix in self._whole_prefixes():
            if bare.startswith(prefix) and bare != prefix:
                yield prefix
                bare = bare.removeprefix(prefix)

    def _whole_prefixes(self) -> Iterator[str]:
        for given in self.prefixes:
            ends_in_word = given[-1:].isalnum() or given.endswith("_")
            if prefix := unwrapped(f"{given}." if ends_in_word else given):
                yield prefix


ONLY_WRAPPERS: Final = BareNames()
"""Names without wrappers, and no other prefix taken off."""


def natural_key(name: str) -> str:
    """A sort key by which `layers.9` comes before `layers.10`."""
    return _DIGITS.sub(_with_length, name)


def _with_length(digits: re.Match[str]) -> str:
    # Longer numbers are larger; names may hold more digits than `int` would read.
    number = digits[0].lstrip("0")
    return f"{len(number):08d}{number}"


class Named(Protocol):
    """What has the name of a tensor."""

    @property
    def name(self) -> str:
        """The name."""


_Item = TypeVar("_Item", bound=Named)


def ordered(items: Iterable[_Item], *, in_model_order: bool) -> tuple[_Item, ...]:
    """The order that says which tensors are next to each other, whatever the format.

    `items` stay as they are listed where that is `in_model_order`, and come in natural order of
    names where nothing tells the model's.
    """
    if in_model_order:
        return tuple(items)
    return tuple(sorted(items, key=lambda item: (natural_key(item.name), item.name)))


def order_name(*, in_model_order: bool) -> str:
    """What that order is called after the word "in"."""
    return "the model's order" if in_model_order else "natural order of names"


def every_name(_name: str) -> bool:
    """The filter that lets all names through."""
    return True


def no_name(_name: str) -> bool:
    """The filter that lets no name through."""
    return False


def name_filter(
    include: Sequence[str], exclude: Sequence[str], bare: BareNames = ONLY_WRAPPERS
) -> NameFilter:
    """A test for names matched by any glob of `include` (all, if empty) and none of `exclude`.

    `*` also matches dots, as the shell's does not match slashes: `*.bias` is any bias. A glob
    matches a name as it is, or as `bare` has it.
    """
    if not include and not exclude:
        return every_name
    wanted, unwanted = _any_glob(include or ["*"]), _any_glob(exclude)

    def passes(name: str) -> bool:
        forms = bare.forms(name)
        return any(map(wanted, forms)) and not any(map(unwanted, forms))

    return passes


def _any_glob(globs: Iterable[str]) -> Callable[[str], re.Match[str] | None]:
    # Without any glob there is nothing to match: not even the empty name, as "" would.
    return re.compile("|".join(map(translate, globs)) or r"(?!)").match


def group_namer(group_by: str) -> Callable[[str], str]:
    """A function from a tensor's name to its group's.

    `group_by` is a depth (the number of dotted components that make a group) or a pattern of
    dotted components: a literal matches itself, `*` any component, `#` a number, which is
    folded. The group is the name up to the end of the first match, so that `layers.#` makes
    one group of all layers, `layers.*` one of each and `layers.#.*` one of each kind of
    block over all layers. A name that it does not match is tried without wrappers.
    Raises UsageError for an empty request and for a depth of 0 or of 19 digits.
    """
    if group_by.isascii() and group_by.isdigit():
        depth = _depth(group_by)
        return lambda name: ".".join(name.split(".")[:depth])
    wanted = group_by.split(".")
    if not all(wanted):
        raise UsageError(
            f"`group_by` {group_by!r} is no pattern: it has an empty component",
            hint="give a depth such as 2 or a pattern such as 'layers.#'",
        )

    def group(name: str) -> str:
        found = _group(name.split("."), wanted)
        return found if found != UNGROUPED else _group(unwrapped(name).split("."), wanted)

    return group


def _depth(digits: str) -> int:
    significant = digits.lstrip("0")
    if not significant:
        raise UsageError("`group_by` needs a depth of at least 1")
    if len(significant) > _MOST_DEPTH_DIGITS:  # `int` reads no more than 4,300
        raise UsageError(
            f"`group_by` with a number of {len(digits):,} digits: no name has such a depth"
        )
    return int(significant)


def _group(components: list[str], wanted: list[str]) -> str:
    for start in range(len(components) - len(wanted) + 1):
        found = components[start : start + len(wanted)]
        if all(map(_matches, found, wanted)):
            folded = [
                "#" if want == "#" else part for part, want in zip(found, wanted, strict=True)
            ]
            return ".".join([*components[:start], *folded])
    return UNGROUPED


def _matches(component: str, wanted: str) -> bool:
    return wanted in ("*", component) or (wanted == "#" and component.isdigit())


def without_separators(name: str) -> str:
    """A tensor's name in which all that separates words is alike: as of `layers_0_w.npy`."""
    return _SEPARATORS.sub("_", name)


def nearest(wanted: str, names: Iterable[str], most: int = 3) -> list[str]:
    """The names that are most like the one, or the glob, that is wanted; the likest first.

    Names that differ in numbers only are compared once, and of the rest only those that share most
    components, so that a hundred thousand names take no longer to look through than to list.
    """
    numbers = _DIGITS.findall(wanted)
    by_fold: dict[str, str] = {}
    with_numbers: dict[str, str] = {}
    for name in names:
        fold = _folded(name)
        by_fold.setdefault(fold, name)
        if fold not in with_numbers and _DIGITS.findall(name)[: len(numbers)] == numbers:
            with_numbers[fold] = name
    by_fold |= with_numbers
    folds: Sequence[str] = list(by_fold)
    sought = _folded(wanted)
    if len(folds) > _COMPARED:
        components = set(sought.split("."))
        folds = sorted(folds, key=lambda fold: -len(components.intersection(fold.split("."))))
    close = get_close_matches(sought, folds[:_COMPARED], n=most, cutoff=0.0)
    return [by_fold[fold] for fold in close]


def _folded(name: str) -> str:
    return _DIGITS.sub("0", name[:_COMPARED_LENGTH]).replace("*", "")


def nearest_names(wanted: str, names: Iterable[str]) -> str | None:
    """A hint of the names that are most like one that is not there; None where there are none."""
    found = nearest(wanted, names)
    if not found:
        return None
    listed = ", ".join(repr(shortened(name, _COMPARED_LENGTH)) for name in found)
    return f"the nearest name is {listed}" if len(found) == 1 else f"the nearest names are {listed}"


def named(items: Iterable[_Item], name: object) -> _Item:
    """The item of that name; KeyError with the names that are most like it where there is none."""
    names = []
    for item in items:
        if item.name == name:
            return item
        names.append(item.name)
    raise KeyError(name, nearest_names(str(name), names))
