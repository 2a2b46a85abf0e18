"""Which tensor that is no gradient in one dump is which of the other, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.comparing.names.maps import Entry, NameMap, pieces
from gradtool.core.comparing.names.pairing import paired
from gradtool.core.dtypes import DTYPES
from gradtool.core.figures import first_of
from gradtool.core.locations import Extent, Location
from gradtool.core.names import BareNames
from gradtool.core.tensors import ABSENT, SCALAR, TEXT, Skipped, TensorSpec

_NOT_COMPARED: Final = (ABSENT, SCALAR, TEXT)
"""Reasons for which there is no tensor."""


_INDICES: Final = ("indices", "compressed_indices", "plain_indices")
"""What index tensors of a sparse tensor are called after it."""


class Unmeasured(NamedTuple):
    """Tensors that are no gradients.

    Attributes:
        pairs: those of both dumps whose bits can be compared.
        only_in_a, only_in_b: those that the other dump has under no kind.
        unread: pairs of which one at least is stored in no way that can be compared.
        measured: names of the gradients of both.
    """

    pairs: list[tuple[Skipped, Skipped]]
    only_in_a: list[Skipped]
    only_in_b: list[Skipped]
    unread: list[tuple[Skipped, Skipped]]
    measured: set[str]

    def notes(self) -> Iterator[str]:
        """A sentence on those whose elements lie at other places."""
        for here, there, alone in (("A", "B", self.only_in_a), ("B", "A", self.only_in_b)):
            stems = dict.fromkeys(_stem(item.name) for item in alone)
            sparse = [f"{stem!r:.80}" for stem in stems if stem in self.measured]
            if sparse:
                verb = "is" if len(sparse) == 1 else "are"
                how = f"sparse in {here}, and in {there} dense or in another layout"
                yield f"{first_of(sparse)} {verb} {how}: elements do not lie at the same places"


def unmeasured(
    a: Checkpoint, b: Checkpoint, prefixes: Sequence[str], maps: Sequence[NameMap]
) -> Unmeasured:
    """The tensors of two dumps that are no gradients, paired as gradients are, whole ones."""
    sides = [[item for item in one.skipped if item.reason not in _NOT_COMPARED] for one in (a, b)]
    entries = [[Entry((item.section, item.name)) for item in side] for side in sides]
    names = [entry.key[1] for side in entries for entry in side]
    fitting = [
        one
        for one in maps
        if not (one.old_rows or one.has_new_rows)
        and any(one.function()(name) is not None for name in names)
    ]
    first, second = pieces(entries[0], entries[1], fitting, BareNames(tuple(prefixes)))
    found = paired(first, second, prefixes)
    pairs = [(sides[0][n], sides[1][m]) for n, m in found.pairs]
    is_stored = [one.stored is not None and other.stored is not None for one, other in pairs]
    measured = [{spec.name for spec in one.tensors} for one in (a, b)]
    return Unmeasured(
        [pair for pair, stored in zip(pairs, is_stored, strict=True) if stored],
        [one for n in found.only_in_a if (one := sides[0][n]).name not in measured[1]],
        [one for n in found.only_in_b if (one := sides[1][n]).name not in measured[0]],
        [pair for pair, stored in zip(pairs, is_stored, strict=True) if not stored],
        set.union(*measured),
    )


def whole_files(sides: tuple[Checkpoint, Checkpoint]) -> list[tuple[Skipped, Skipped]]:
    """The files of two dumps in turn, as tensors of bytes; none unless there are as many.

    Where all are copies, so is what nothing in them reads.
    """
    first, second = ([_bytes_of(file) for file in one.files] for one in sides)
    return [*zip(first, second, strict=True)] if len(first) == len(second) else []


def _bytes_of(file: Location) -> Skipped:
    extents = (Extent(file, 0, file.size),)
    spec = TensorSpec(file.path, DTYPES["U8"], (file.size,), extents)
    return Skipped(file.path, "U8", "", stored=spec)


def _stem(name: str) -> str | None:
    """The sparse tensor that an index tensor of such a name is of."""
    stem, _, part = name.rpartition(".")
    return stem if part in _INDICES else None
