"""Files of several ranks as one checkpoint: pieces put together, copies set beside each other.

What the files say decides: the boxes that they hold of larger tensors. Where they say nothing, the
same name in several files is a question, unless all hold the same bytes, which is found out when
they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted, listed_apart
from gradtool.core.names import no_name
from gradtool.core.sections import OTHER
from gradtool.core.shapes.boxes import Box
from gradtool.core.tensors import ABSENT, Chunk, Placed, Replica, Skipped, TensorSpec
from gradtool.errors import (
    CorruptFileError,
    MissingShardError,
    RanksDifferError,
    RanksQuestionError,
)
from gradtool.formats.layouts._chunked import Part, gathered, parts_of_tensor, skipped_once
from gradtool.formats.layouts._joined import joined, repeated_name
from gradtool.formats.layouts.arrangement import Unit, rank_labels
from gradtool.formats.layouts.asked import Asked


class _Holder(NamedTuple):
    """A tensor in the file of one rank."""

    rank: str
    path: str
    spec: TensorSpec
    placed: Placed | None


def joined_ranks(path: str, unit: Unit, members: Sequence[Checkpoint], asked: Asked) -> Checkpoint:
    """The whole of what the ranks hold, as what lies at `path`.

    Raises:
        MissingShardError: the files say that there are more ranks.
        RanksQuestionError: ranks hold tensors of one name and different shapes, and nothing says
            what they are to each other.
        CorruptFileError: files contradict each other in what they note of ranks and steps, or
            their boxes do not make up a tensor; of copies with different shapes a
            RanksDifferError.
    """
    labels = rank_labels(unit)
    _refuse_contradictions(path, labels, members)
    _refuse_missing(path, members)
    _refuse_empty(path, labels, members)
    _refuse_other_steps(path, labels, members)
    tensors: list[TensorSpec] = []
    replicas: list[Replica] = []
    apart: list[str] = []
    for holders in _by_name(labels, members):
        first = holders[0].spec
        if any(holder.placed for holder in holders):
            found = gathered(path, list(_parts(holders)))
            tensors += found.tensors
            replicas += found.replicas
        elif len(holders) == 1:
            tensors.append(first)
        elif (
            first.section == OTHER and asked.ranks != "replica" and not asked.replicated(first.name)
        ):
            # A loss, a step: each rank may have its own, and no norm counts them.
            alike, others = _by_shape(holders)
            tensors += (first, *(copy.as_tensor for copy in others))
            replicas += alike
            apart += (copy.as_tensor.name for copy in others)
        elif asked.ranks == "shard" and not asked.replicated(first.name):
            tensors.append(_in_a_row(holders))
        else:
            is_assumed = asked.ranks == "auto" and not asked.replicated(first.name)
            _refuse_other_shapes(path, holders, is_assumed=is_assumed)
            tensors.append(first)
            replicas += (
                Replica(holder.rank, holder.spec, is_assumed=is_assumed) for holder in holders[1:]
            )
    whole = joined(path, "ranks", members)
    partly = _held_by_some(tensors, whole.skipped)
    return replace(
        whole,
        tensors=tuple(tensors),
        replicas=tuple(replicas),
        skipped=skipped_once(path, labels, members, partly),
        notes=(*whole.notes, *listed_apart(apart)),
        left_out=tuple(dict.fromkeys(whole.left_out)),
        skipped_left_out=tuple(dict.fromkeys(whole.skipped_left_out)),
        writer=None,
        essential_notes=(*_notes(unit, members, replicas, asked, partly), *whole.essential_notes),
        ranks=frozenset(),
        placed={},
        part_notes=(),
    ).with_scales_of(whole.fp8)


def _held_by_some(tensors: Sequence[TensorSpec], skipped: Sequence[Skipped]) -> set[str]:
    """The parameters without a gradient on one rank and with one on another, as of a pipeline."""
    absent = {item.name for item in skipped if item.reason == ABSENT}
    return absent.intersection(tensor.name for tensor in tensors)


def _by_name(labels: Sequence[str], members: Sequence[Checkpoint]) -> Iterator[list[_Holder]]:
    """Who holds each tensor, in the order in which names first occur."""
    holders: dict[str, list[_Holder]] = {}
    for rank, member in zip(labels, members, strict=True):
        for spec in member.tensors:
            holder = _Holder(rank, member.path, spec, member.placed.get(spec.name))
            holders.setdefault(spec.name, []).append(holder)
    yield from holders.values()


def _parts(holders: Sequence[_Holder]) -> Iterator[Part]:
    for holder in holders:
        yield from parts_of_tensor(holder.spec, holder.placed, holder.path, holder.rank)


def _in_a_row(holders: Sequence[_Holder]) -> TensorSpec:
    """The pieces of all ranks as one tensor of one dimension: how they lie, nothing tells."""
    chunks = []
    start = 0
    for holder in holders:
        box = Box((start,), (holder.spec.numel,))
        if box.sizes[0]:
            chunks.append(Chunk(box, holder.spec))
        start += box.sizes[0]
    first = holders[0].spec
    return TensorSpec(
        first.name, first.dtype, (start,), section=first.section, chunks=tuple(chunks)
    )


def _by_shape(holders: Sequence[_Holder]) -> tuple[list[Replica], list[Replica]]:
    """What further ranks hold: what may be a copy of the first rank's, and what cannot be one."""
    first = holders[0].spec
    alike: list[Replica] = []
    others: list[Replica] = []
    for holder in holders[1:]:
        spec = holder.spec
        is_alike = (spec.shape, spec.dtype.name) == (first.shape, first.dtype.name)
        copies = alike if is_alike else others
        copies.append(Replica(holder.rank, spec, is_assumed=True, may_differ=True))
    return alike, others


def _refuse_other_shapes(path: str, holders: Sequence[_Holder], *, is_assumed: bool) -> None:
    """Raise for what cannot be copies of one tensor."""
    first = holders[0]
    for holder in holders[1:]:
        for what, mine, its in (
            ("shape", list(first.spec.shape), list(holder.spec.shape)),
            ("type", first.spec.dtype.name, holder.spec.dtype.name),
        ):
            if mine != its:
                shown = f"its {what} is {mine} in {first.rank} and {its} in {holder.rank}"
                if is_assumed:
                    raise RanksQuestionError(path, first.spec.name, shown)
                raise RanksDifferError(path, shown, tensor=first.spec.name)


def _refuse_missing(path: str, members: Sequence[Checkpoint]) -> None:
    """MissingShardError where files note how many ranks there are, and some are not here."""
    writers = {member.writer for member in members if member.writer is not None}
    noted = frozenset(writers).union(*(member.ranks for member in members))
    present = {rank for rank, _ in noted}
    total = max((number for _, number in noted), default=0)
    if len(present) < total:
        missing = next(rank for rank in range(total) if rank not in present)
        raise MissingShardError(path, f"rank {missing} of {total} is missing, the files say")


def _refuse_empty(path: str, labels: Sequence[str], members: Sequence[Checkpoint]) -> None:
    """MissingShardError for a rank that lists nothing, and does not note that it is that rank."""
    listed = [
        any((member.tensors, member.left_out, member.skipped, member.skipped_left_out))
        for member in members
    ]
    for label, member, lists in zip(labels, members, listed, strict=True):
        if not lists and member.writer is None and any(listed):
            raise MissingShardError(path, f"{label} holds no tensor; other ranks do")


def _refuse_contradictions(path: str, labels: Sequence[str], members: Sequence[Checkpoint]) -> None:
    """CorruptFileError for ranks of which not all can be of the run that the files note.

    What a process notes that knew of no other says nothing.
    """
    noted = {
        label: member.writer
        for label, member in zip(labels, members, strict=True)
        if member.writer is not None and member.writer[1] > 1
    }
    seen: dict[int, str] = {}
    first, count = next(((label, total) for label, (_, total) in noted.items()), ("", len(labels)))
    for label, (rank, total) in noted.items():
        problem = ""
        if total != count:
            problem = f"{first} notes {count} ranks, and {label} {total}"
        elif rank >= total:
            problem = f"{label} notes that it is rank {rank} of {total}"
        elif seen.setdefault(rank, label) != label:
            problem = f"{seen[rank]} and {label} both note rank {rank} of {total}"
        if problem:
            raise CorruptFileError(path, f"ranks are not of one run: {problem}")
    if len(labels) > count:
        silent = next(label for label in labels if label not in noted)
        problem = f"{silent} notes nothing, and the others {count} ranks"
        raise CorruptFileError(path, f"ranks are not of one run: {problem}")


def _refuse_other_steps(path: str, labels: Sequence[str], members: Sequence[Checkpoint]) -> None:
    """CorruptFileError for ranks of which one stopped earlier than another."""
    noted = [
        (member.step, label)
        for label, member in zip(labels, members, strict=True)
        if member.step is not None
    ]
    for step, label in noted:
        if step != noted[0][0]:
            problem = f"{noted[0][1]} notes step {noted[0][0]} and {label} step {step}"
            raise CorruptFileError(path, f"ranks are of different steps: {problem}")


def _notes(
    unit: Unit,
    members: Sequence[Checkpoint],
    replicas: Sequence[Replica],
    asked: Asked,
    partly: set[str],
) -> Iterator[str]:
    """What was taken for what."""
    if unit.kind == "shard":
        repeated = repeated_name(members)
        reason = f"several hold {repeated!r:.80}"
        yield f"{len(members)} files named like shards, taken for ranks: {reason}"
    else:
        yield f"{len(members)} ranks"
    copied = {copy.name for copy in replicas if copy.is_assumed and not copy.may_differ}
    if copied:
        yield f"{counted(len(copied), 'tensor')} held alike by several ranks, each counted once"
    if partly:
        yield f"{counted(len(partly), 'gradient')} that only some ranks have"
    names_held = (name for member in members for name in member.names)
    if asked.replicated is not no_name and not any(map(asked.replicated, names_held)):
        yield "no tensor has a name of those said to be whole on each rank"
    if asked.ranks == "shard":
        yield "pieces of ranks are counted one after the other: how they lie, no file says"
