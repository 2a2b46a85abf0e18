"""What the numbers in the names of files and folders count: shards, ranks, layers or steps."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

from gradtool.core.names import natural_key

Dump = TypeVar("Dump")

Role: TypeAlias = Literal["shard", "rank", "part", "count", "layer", "step", "other"]
"""What a number counts; "count" is how many shards or ranks there are, "other" is not said.

Of a "part" nothing says how many there are; it belongs to a step, as shards and ranks do.
"""

_ROLES: Final[dict[str, Role]] = {
    **dict.fromkeys(("rank", "gpu", "worker", "proc", "process"), "rank"),
    **dict.fromkeys(("shard", "part"), "part"),
    **dict.fromkeys(("of", "size"), "count"),
    **dict.fromkeys(("layer", "layers", "block", "blocks", "h", "stage"), "layer"),
    **dict.fromkeys(("expert", "experts", "module", "modules"), "layer"),
    **dict.fromkeys(("step", "iter", "iteration", "checkpoint", "ckpt"), "step"),
}
"""What a number counts after a word, as trainers write it."""

_AFTER_A_DOT: Final[dict[str, Role]] = {
    **{word: role for word, role in _ROLES.items() if role == "layer"},
    "consolidated": "rank",  # a file for each rank that Llama's releases are run on
}

_WORD_AND_NUMBER: Final = re.compile(
    r"(?<![A-Za-z])([A-Za-z]*)((?<![-_=.])[-_=.]*)(\d+)", re.ASCII
)  # tried only where words and separators begin: long names would take time by their square
_OF: Final = re.compile(r"[-_]of[-_]\d", re.ASCII | re.IGNORECASE)
_TWO_RANKS: Final = re.compile(r".*mp_rank_\d+_", re.ASCII)
_MOST_DIGITS: Final = 18
REMEMBERED: Final = 1 << 14
"""Paths whose numbers are found once: each is asked for a dozen times while a run is sorted."""

_OF_PARTS: Final = frozenset({"rank", "shard", "part", "count"})
_EPOCHS: Final = frozenset({"ep", "epoch", "epochs"})

_UNFINISHED: Final = re.compile(r"tmp[-_].+|.+\.tmp", re.DOTALL)

_OF_THE_HUB: Final = re.compile(
    r"(model|pytorch_model)(-[\d*]+-of-[\d*]+)?\.(safetensors|bin)(\.index\.json)?", re.ASCII
)
_CONSOLIDATED: Final = re.compile(
    r"consolidated([-.][\d*]+(-of-[\d*]+)?)?\.(safetensors|pth)(\.index\.json)?", re.ASCII
)
_OF_FLAX: Final = re.compile(r"(diffusion_)?flax_model(-[\d*]+-of-[\d*]+)?\.msgpack", re.ASCII)
"""Names of whole models: as Transformers write them, as Meta and Mistral release them, and as
Transformers and Diffusers write what Flax reads.
"""


class Number(NamedTuple):
    """A number in a path: what it counts, its value, where its digits are, and the word before."""

    role: Role
    value: int
    start: int
    end: int
    word: str


@lru_cache(maxsize=REMEMBERED)
def numbers_in(path: str) -> Sequence[Number]:
    """All numbers of a path, in their order, but those too long to count anything."""
    numbers: list[Number] = []
    for match in _WORD_AND_NUMBER.finditer(path):
        word, separator, digits = match.groups()
        if len(digits) <= _MOST_DIGITS:
            role = _role(path, match, word.lower(), separator)
            numbers.append(Number(role, int(digits), *match.span(3), word.lower()))
    return tuple(numbers)


def _role(path: str, match: re.Match[str], word: str, separator: str) -> Role:
    if _OF.match(path, match.end()):  # model-00001-of-00004
        return "shard"
    if word == "shard" and path.startswith("-model-", match.end()):  # and which rank wrote it
        return "shard"
    if separator.endswith("."):  # layer.3 names a layer; model.3 is anything
        return _AFTER_A_DOT.get(word, "other")
    if not word:
        name = path[path.rfind("/", 0, match.start()) + 1 : match.start(3)]
        # __0_1: the second file of rank 0. mp_rank_00_001: two dimensions of ranks.
        return "rank" if name == "__" or _TWO_RANKS.fullmatch(name) else "other"
    if word == "size" and not path[: match.start()].lower().endswith("world_"):
        return "other"
    return _ROLES.get(word, "other")


def template(path: str, of: Callable[[Number], bool], placeholder: str = "*") -> str:
    """The path, with a placeholder for each number that `of` holds for."""
    pieces, end = [], 0
    for number in numbers_in(path):
        if of(number):
            pieces += [path[end : number.start], placeholder]
            end = number.end
    return "".join([*pieces, path[end:]])


def one_model_twice(names: Sequence[str]) -> tuple[str, str] | None:
    """Two of the names of files, or of globs for them, that stand for the same model, if any do.

    What releases have as `consolidated.*` or `flax_model.msgpack` is for other programs, under
    names of their own: it is the same model as `model.safetensors` beside it.
    """
    forms = (_OF_THE_HUB, _CONSOLIDATED, _OF_FLAX)
    first_of_each = (next(filter(form.fullmatch, names), None) for form in forms)
    found = [name for name in first_of_each if name is not None]
    return (found[0], found[1]) if len(found) > 1 else None


def step_in(path: str) -> int | None:
    """The last number in a path that follows a word for a step; None where there is none.

    That of a directory counts for `step_10/rank1.pt`, a part of a step, and not for
    `ckpt2/grads_0001.pt`, in which the file has a number of its own.
    """
    name_start = len(os.path.split(path)[0])
    steps = [number for number in numbers_in(path) if number.role == "step"]
    own = [number for number in numbers_in(path) if number.start >= name_start]
    if any(number.role == "other" for number in own):
        steps = [number for number in steps if number.start >= name_start]
    return steps[-1].value if steps else None


def in_order_of_steps(
    dumps: Iterable[Dump], step_of: Callable[[Dump], int | None], path_of: Callable[[Dump], str]
) -> list[Dump]:
    """Dumps in the order of their steps, those without one last.

    In that of their paths where a step occurs twice: steps begin anew in each epoch, say.
    """
    dumps = list(dumps)
    ordered = sorted(dumps, key=lambda one: (step_of(one) is None, step_of(one) or 0))
    for one, following in itertools.pairwise(ordered):
        same = step_of(one) is not None and step_of(one) == step_of(following)
        if same and not are_parts(path_of(one), path_of(following)):
            return sorted(dumps, key=lambda one: natural_key(path_of(one)))
    return ordered


def is_unfinished(name: str) -> bool:
    """Whether a folder is, by its name, a save that was not finished: `tmp-checkpoint-500`.

    Source: the Trainer of Transformers, which wrote such folders and renamed them; its
    `get_last_checkpoint` takes none of them.
    """
    return _UNFINISHED.fullmatch(name) is not None


def is_numbered(path: str) -> bool:
    """Whether the last part of a path has a number that counts steps, or may do so."""
    numbers = numbers_in(os.path.basename(path.rstrip("/")))
    return any(number.role in ("step", "other") for number in numbers)


def are_parts(path: str, other: str) -> bool:
    """Whether two paths differ in the number of a rank or another part of one dump only."""
    return path != other and without_parts(path) == without_parts(other)


def are_ranks(path: str, other: str) -> bool:
    """Whether two paths differ in the number of a rank only."""

    def without(name: str) -> str:
        return template(name, lambda number: number.role == "rank")

    return path != other and without(path) == without(other)


def without_parts(path: str) -> str:
    """The path with a placeholder for each number of a rank or another part of one dump."""
    return template(path, lambda number: number.role in _OF_PARTS)


def counts_steps(path: str) -> bool:
    """Whether a number in a path may be that of a step: it counts nothing else."""
    return any(number.role in ("step", "other") for number in numbers_in(path))


def series_of(path: str) -> str:
    """The path with placeholders for the numbers in which steps of one run differ, and their parts.

    A number counts steps after a word for one; other numbers do in the last part of the path that
    has any, and those of epochs everywhere: `run2/` is one run, and `run3/` another. Before the
    word for a step they do not: `run2_step1.pt`.
    """
    numbers = numbers_in(path)
    steps = [number for number in numbers if number.role == "step"]
    last = next((one for one in reversed(numbers) if one.role in ("step", "other")), None)
    start = 0 if last is None else path.rfind("/", 0, last.start) + 1
    end = max((number.start for number in steps if number.start >= start), default=start)

    def differs(number: Number) -> bool:
        if number.role != "other":
            return number.role == "step" or number.role in _OF_PARTS
        is_of_run = number.start < end and number.word != ""
        return number.word in _EPOCHS or (number.start >= start and not is_of_run)

    return template(path, differs)
