"""Further copies of tensors: with what each is compared, and what is told of one that differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint, Disagreement
from gradtool.core.figures import listed_apart
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import unravel
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import Replica, TensorSpec
from gradtool.engine.reading.pairs.comparisons import Differing
from gradtool.engine.reading.pairs.regions import Pair


def pairs_of(checkpoint: Checkpoint) -> list[Pair]:
    """Each replica with what it must equal, in their order."""
    replicated = {replica.name for replica in checkpoint.replicas}
    specs = {spec.name: spec for spec in checkpoint.tensors if spec.name in replicated}
    # A copy of one chunk has nothing to do with the others, of which there may be thousands.
    with_chunk: dict[tuple[str, Box | None], TensorSpec] = {
        (name, chunk.box): replace(spec, chunks=(chunk,))
        for name, spec in specs.items()
        for chunk in spec.chunks
    }
    return [
        Pair(
            first=with_chunk.get((replica.name, replica.box), specs[replica.name]),
            second=replica.stored,
            box=replica.box,
        )
        for replica in checkpoint.replicas
    ]


def with_those_of_ranks(
    tensors: Iterable[TensorMeasurement], copies: Iterable[tuple[Replica, TensorMeasurement]]
) -> tuple[TensorMeasurement, ...]:
    """The tensors, each followed by what further ranks hold under its name, as their own."""
    of_ranks: dict[str, list[TensorMeasurement]] = {}
    for replica, copy in copies:
        of_ranks.setdefault(replica.name, []).append(copy)
    return tuple(one for tensor in tensors for one in (tensor, *of_ranks.get(tensor.name, ())))


def without_those_of_ranks(
    checkpoint: Checkpoint, copies: Sequence[tuple[Replica, TensorMeasurement]]
) -> Checkpoint:
    """The catalogue without these copies, which are none, and with a note that says so."""
    if not copies:
        return checkpoint
    gone = {id(replica) for replica, _ in copies}
    return replace(
        checkpoint,
        replicas=tuple(replica for replica in checkpoint.replicas if id(replica) not in gone),
        notes=(*checkpoint.notes, *listed_apart([copy.as_tensor.name for copy, _ in copies])),
    )


def disagreement(
    replica: Replica, pair: Pair, found: Differing, stats: TensorStats
) -> Disagreement:
    """What is told of a copy that differs, and that has these statistics."""
    first = unravel(found.first or 0, pair.first.shape)
    return Disagreement(replica.name, replica.rank, first, found.count, stats, replica.is_assumed)
