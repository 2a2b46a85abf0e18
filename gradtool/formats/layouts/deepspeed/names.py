"""The files of a ZeRO checkpoint by their names: whose they are, and which are missing.

Source: `_get_rank_zero_ckpt_name` and `_get_ckpt_name` of deepspeed/runtime/engine.py. Older
versions, and those of others, write `fp16_` where DeepSpeed today writes nothing or `bf16_`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gradtool.errors import CorruptFileError, MissingShardError, UnsupportedFormatError
from gradtool.storage.listing import Listing

_OPTIM: Final = re.compile(
    r"((?:bf16_|fp16_)?)zero_pp_rank_(\d{1,9})_mp_rank_(\d{1,9}(?:_\d{1,9})?)_optim_states\.pt",
    re.ASCII,
)
_MODEL: Final = re.compile(
    r"(?:zero_pp_rank_(\d{1,9})_)?mp_rank_(\d{1,9}(?:_\d{1,9})?)_model_states\.pt", re.ASCII
)
_OF_PARTS: Final = re.compile(
    r"expp_rank_\d+_mp_rank_\d+_optim_states\.pt"
    r"|layer_\d+[-_].*model_states\.pt",
    re.ASCII,
)
"""What experts and the stages of a pipeline have besides."""

_CONVERT: Final = "convert it with DeepSpeed's ds_to_universal.py, which gradtool reads"


class OptimFile(NamedTuple):
    """The file of a rank's optimizer: its name, and what stands before `zero` in it."""

    name: str
    prefix: str


@dataclass(slots=True)
class ZeroFiles:
    """The files of a checkpoint.

    Attributes:
        path: the directory's, for errors.
        optim: of each rank, its optimizer's.
        models: of each rank, its module's: of stage 3, which names the rank in them.
        model: that of all ranks, of the stages before.
        others: entries that are none of these.
    """

    path: str
    optim: dict[int, OptimFile] = field(default_factory=dict)
    models: dict[int, str] = field(default_factory=dict)
    model: str | None = None
    others: list[str] = field(default_factory=list)

    def require(self, world: int) -> None:
        """MissingShardError unless each of `world` ranks has its file, CorruptFileError for more.

        What a module's files are called tells of which stage they are.
        """
        prefix = next((file.prefix for file in self.optim.values()), "")
        for rank in range(world):
            if rank not in self.optim:
                name = f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
                self._refuse_missing(name, world)
            if self.model is None and rank not in self.models:
                self._refuse_missing(f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", world)
        for rank in (*self.optim, *self.models):
            if rank >= world:
                problem = f"has a file of rank {rank}, and its files are of {world} ranks"
                raise CorruptFileError(self.path, f"two checkpoints are mixed: {problem}")

    def _refuse_missing(self, name: str, world: int) -> None:
        raise MissingShardError(self.path, f"{name!r} is missing: the files say {world} ranks")


def is_zero(names: Sequence[str]) -> bool:
    """Whether names of files are those of ZeRO's checkpoints."""
    matches = (_MODEL.fullmatch(name) for name in names)
    return any(map(_OPTIM.fullmatch, names)) or any(match and match[1] for match in matches)


def is_model(name: str) -> bool:
    """Whether a file is so named that holds a module."""
    return _MODEL.fullmatch(name) is not None


def zero_files(listing: Listing) -> ZeroFiles:
    """The files of the one checkpoint in a directory.

    Raises UnsupportedFormatError for tensor and pipeline parallelism, for experts, and for what
    two saves have left.
    """
    found = ZeroFiles(listing.path)
    for name in listing.names:
        if match := _OPTIM.fullmatch(name):
            _refuse_parallel(listing, name, match[3])
            _add_optim(listing, found, int(match[2]), OptimFile(name, match[1]))
        elif match := _MODEL.fullmatch(name):
            _refuse_parallel(listing, name, match[2])
            _add_model(listing, found, match[1], name)
        elif _OF_PARTS.fullmatch(name):
            problem = f"has experts or stages of a pipeline in files of their own: {name!r:.80}"
            raise UnsupportedFormatError(listing.path, problem, hint=_CONVERT)
        elif not name.startswith("."):
            found.others.append(name)
    return found


def _add_optim(listing: Listing, found: ZeroFiles, rank: int, file: OptimFile) -> None:
    there = found.optim.setdefault(rank, file)
    first = next(iter(found.optim.values()))
    if there is not file or first.prefix != file.prefix:
        _refuse_two(listing, there.name if there is not file else first.name, file.name)


def _add_model(listing: Listing, found: ZeroFiles, rank: str | None, name: str) -> None:
    of_others = [*found.models.values()] if rank is None else []
    if found.model is not None:
        of_others.append(found.model)
    if rank is None:
        found.model = name
    elif (there := found.models.setdefault(int(rank), name)) != name:
        of_others.append(there)
    if of_others:
        _refuse_two(listing, of_others[0], name)


def _refuse_parallel(listing: Listing, name: str, number: str) -> None:
    if set(number) - {"0", "_"}:
        problem = f"is cut by tensor or pipeline parallelism, and no file says how: {name!r:.80}"
        raise UnsupportedFormatError(listing.path, problem, hint=_CONVERT)


def _refuse_two(listing: Listing, name: str, other: str) -> None:
    problem = f"two checkpoints are mixed: {name!r} and {other!r}"
    raise UnsupportedFormatError(listing.path, problem)
