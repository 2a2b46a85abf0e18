"""Mutants: each follows from the name of its seed and a number.

A mutant is a few changes to the parts of its seed, each with random numbers of its own, so that
one can be left out and the others stay what they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from fuzz.files.flax_files import FLAX_MUTATIONS, FlaxFile
from fuzz.files.flax_files import spoil_array as spoil_flax
from fuzz.files.gguf_files import GGUF_MUTATIONS, GgufFile, spoil_tensor
from fuzz.files.legacy_files import LegacyFile
from fuzz.files.numpy_files import (
    ARCHIVE_MUTATIONS,
    ARRAY_MUTATIONS,
    NpyFile,
    spoil_array,
    spoil_member,
)
from fuzz.files.pickle_files import PICKLE_MUTATIONS, PickleFile, spoil_bytes
from fuzz.files.safetensors_files import SAFETENSORS_MUTATIONS, SafetensorsFile, spoil
from fuzz.files.seeds import Seed, seeds
from fuzz.files.torch_files import TorchFile
from fuzz.files.zips import Archive, build, parse
from fuzz.mutations.archives import ZIP_MUTATIONS
from fuzz.mutations.legacy import LEGACY_MUTATIONS
from fuzz.mutations.objects import OBJECT_MUTATIONS
from fuzz.mutations.opcodes import OPCODE_MUTATIONS
from fuzz.mutations.polyglots import also_legacy_torch, opcodes_in_header
from fuzz.mutations.records import RECORD_MUTATIONS, spoil_record
from fuzz.mutations.tensors import TENSOR_MUTATIONS

MOST_CHANGES: Final = 5

Change = Callable[[Any, random.Random], None]
Parts = Any
"""A file taken apart: a `TorchFile`, a `LegacyFile`, an `Archive`, an `NpyFile`, a
`SafetensorsFile`, a `GgufFile` or a `FlaxFile`.
"""


def _changing(change: Change, archive_of: Callable[[Parts], Archive]) -> Change:
    """A change to the archive that is, or is in, a file's parts; none where it is empty."""

    def mutate(parts: Parts, rng: random.Random) -> None:
        archive = archive_of(parts)
        if archive.members:
            change(archive, rng)

    mutate.__name__ = change.__name__
    return mutate


_OF_ARCHIVE: Final = {
    _changing(change, lambda archive: archive): weight for change, weight in ZIP_MUTATIONS.items()
}
_OF_RECORDS: Final = {
    _changing(change, lambda file: file.archive): weight for change, weight in ZIP_MUTATIONS.items()
}


@dataclass(frozen=True)
class Kind:
    """How files of one kind are taken apart, put together, spoiled, and changed by what chances."""

    parse: Callable[[bytes], Parts]
    build: Callable[[Parts], bytes]
    spoil: Change
    families: tuple[tuple[int, dict[Change, int]], ...]


KINDS: Final[dict[str, Kind]] = {
    "torch": Kind(
        TorchFile.parse,
        TorchFile.build,
        spoil_record,
        (
            (10, TENSOR_MUTATIONS),
            (12, OBJECT_MUTATIONS),
            (5, RECORD_MUTATIONS),
            (2, OPCODE_MUTATIONS),
            (2, _OF_RECORDS),
        ),
    ),
    "torch legacy": Kind(
        LegacyFile.parse,
        LegacyFile.build,
        spoil_record,
        (
            (10, TENSOR_MUTATIONS),
            (10, OBJECT_MUTATIONS),
            (6, LEGACY_MUTATIONS),
            (2, OPCODE_MUTATIONS),
        ),
    ),
    "npz": Kind(
        parse,
        build,
        spoil_member,
        ((10, ARCHIVE_MUTATIONS), (4, _OF_ARCHIVE)),
    ),
    "pickle": Kind(
        PickleFile.parse,
        PickleFile.build,
        spoil_bytes,
        ((12, PICKLE_MUTATIONS), (5, OBJECT_MUTATIONS), (2, OPCODE_MUTATIONS)),
    ),
    "npy": Kind(NpyFile.parse, NpyFile.build, spoil_array, ((1, ARRAY_MUTATIONS),)),
    "safetensors": Kind(
        SafetensorsFile.parse,
        SafetensorsFile.build,
        spoil,
        ((30, SAFETENSORS_MUTATIONS), (1, {also_legacy_torch: 1, opcodes_in_header: 1})),
    ),
    "gguf": Kind(GgufFile.parse, GgufFile.build, spoil_tensor, ((1, GGUF_MUTATIONS),)),
    "flax": Kind(FlaxFile.parse, FlaxFile.build, spoil_flax, ((1, FLAX_MUTATIONS),)),
}

_SHARES: Final = {
    "torch": 10, "torch legacy": 3, "npz": 4, "npy": 2, "pickle": 3, "safetensors": 4, "gguf": 2,
    "flax": 2,
}  # fmt: skip
"""Of all mutants, by the kind of their seed."""


@dataclass(frozen=True)
class Mutant:
    """A file, and where it comes from: the names of its changes are for who reads of it."""

    seed: str
    number: int
    changes: tuple[str, ...]
    content: bytes


@cache
def _seeds_of(kind: str) -> list[Seed]:
    return [seed for seed in seeds().values() if seed.kind == kind]


def chosen_seed(number: int) -> Seed:
    """The seed of the mutant of that number, where none was asked for."""
    rng = random.Random(f"seed {number}")
    kind = rng.choices([*_SHARES], [*_SHARES.values()])[0]
    return rng.choice(_seeds_of(kind))


def _chosen_changes(kind: Kind, rng: random.Random) -> list[Change]:
    """One to four changes, after a bad number in the data as often as not."""
    chosen = [kind.spoil] if rng.random() < 0.5 else []
    for _ in range(rng.choice((1, 1, 2, 2, 3, MOST_CHANGES - 1))):
        _, family = rng.choices(kind.families, [weight for weight, _ in kind.families])[0]
        chosen += rng.choices([*family], [*family.values()])
    return chosen


def mutant(seed: Seed, number: int, keep: Collection[int] | None = None) -> Mutant:
    """The mutant of a seed; `keep` are the positions of changes to make, all if None."""
    rng = random.Random(f"{seed.name} {number}")
    kind = KINDS[seed.kind]
    parts = kind.parse(seed.content)
    names = []
    for position, change in enumerate(_chosen_changes(kind, rng)):
        own = random.Random(rng.random())
        if keep is None or position in keep:
            change(parts, own)
            names.append(f"{position}:{change.__name__}")
    return Mutant(seed.name, number, tuple(names), kind.build(parts))
