"""Two dumps that are open, compared on given terms."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from gradtool.api.diff.diagnoses import why
from gradtool.api.diff.tolerances import idle_notes
from gradtool.arrays.catalogue import catalogue
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.comparing.difference import Difference, DumpSide, TensorDifference
from gradtool.core.comparing.names.hints import help_for
from gradtool.core.comparing.names.maps import Entry, NameMap, pieces
from gradtool.core.comparing.names.pairing import Pairing, of_other_kinds, paired, tied
from gradtool.core.comparing.others import OtherDifference
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.comparing.tolerances import Tolerances
from gradtool.core.comparing.unmeasured import Unmeasured, unmeasured, whole_files
from gradtool.core.names import BareNames, name_filter, nearest_names, no_name, ordered
from gradtool.core.tensors import Skipped
from gradtool.engine.memory import reporting_shortage
from gradtool.engine.progress import Progress
from gradtool.engine.reading.differences import Specs, differences, others_compared, spooled
from gradtool.engine.reading.pairs.slicing import cut_up
from gradtool.engine.reading.pairs.transposition import transposed
from gradtool.engine.reading.scaling import times_scales
from gradtool.engine.reading.unpacking import as_stored, unpacked
from gradtool.engine.schedule import Runner
from gradtool.errors import InputError, UsageError
from gradtool.places import place_of
from gradtool.request import MeasureRequest, agreed, chosen, measured, opened_in_part, working
from gradtool.unmatched import NoSectionsError

SIDES: Final = ("A", "B")

PARTS: Final = 4
"""What `compare` does one after the other, each with a progress of its own."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How two dumps are compared.

    Attributes:
        request: what is read of both, and how.
        allowed: what may differ.
        maps: what names of the first are called in the second.
        transpose: globs of names of which the second has the last two axes the other way round.
        must_pair: whether it is an error that no names pair, and no difference.
    """

    request: MeasureRequest
    allowed: Tolerances
    maps: tuple[NameMap, ...] = ()
    transpose: tuple[str, ...] = ()
    must_pair: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """The catalogue of one of two dumps, and what keeps alive the memory that it is of."""

    checkpoint: Checkpoint
    owners: list[object]


@contextmanager
def _naming(side: str) -> Iterator[None]:
    """Says of an unreadable file which of the two dumps it is of."""
    try:
        yield
    except InputError as error:
        error.hint = "; ".join(filter(None, [error.hint, f"this is {side} of the two dumps"]))
        raise


def opened_side(source: Any, side: str, request: MeasureRequest) -> Side:
    """A dump, saved or in memory; errors say which `side` it is."""
    place = place_of(source)
    with _naming(side), reporting_shortage():
        if place is not None:
            return Side(_computed(unpacked(opened_in_part(place, request))), [])
        checkpoint, owners = catalogue(source)
        return Side(_computed(chosen(checkpoint, request)), owners)


def _computed(checkpoint: Checkpoint) -> Checkpoint:
    """The catalogue of what is compared: elements times scales, and sums, in float64."""
    computed = times_scales(checkpoint)
    return replace(computed, tensors=tuple(map(as_stored, computed.tensors)))


def opened_sides(a: Any, b: Any, request: MeasureRequest) -> tuple[Side, Side]:
    """Both dumps. Of one that has no sections all is in the section that is asked for.

    So gradients within a checkpoint are compared with a dump of nothing else.
    """
    sides: list[Side | None] = []
    for source, side in zip((a, b), SIDES, strict=True):
        try:
            sides.append(opened_side(source, side, request))
        except NoSectionsError:
            if sides == [None]:
                raise
            sides.append(None)
    whole = replace(request, section=None)
    first, second = (
        found or opened_side(source, side, whole)
        for found, source, side in zip(sides, (a, b), SIDES, strict=True)
    )
    return first, second


def compare(one: Side, other: Side, terms: Terms, progress: Sequence[Progress]) -> Difference:
    """How two dumps differ, of which the first is the reference; `progress` has `PARTS` parts."""
    started = time.perf_counter()
    request, allowed = terms.request, terms.allowed
    first, second = both = one.checkpoint, other.checkpoint
    with working(request) as executor:
        cut, pairing, names = _paired(both, terms)
        bounds, idle = allowed.of(names, request.bare)
        *parts, whole, rest = progress
        _compare_copies(both, request, executor, parts)
        runners = [request.runner(first, executor, part) for part in (whole, rest)]
        specs = [(cut[0].tensors[n], cut[1].tensors[m]) for n, m in pairing.pairs]
        tensors = _compared(both, _turned(specs, names, terms), terms, runners[0], bounds)
        rest_of_both = unmeasured(first, second, request.bare.prefixes, terms.maps)
        with reporting_shortage():
            others, not_compared = _others(both, rest_of_both, runners[1])
    return Difference(
        a=_dump_side(first, request),
        b=_dump_side(second, request),
        tensors=tensors,
        others=others,
        only_in_a=_alone(cut[0], pairing.only_in_a, rest_of_both.only_in_a),
        only_in_b=_alone(cut[1], pairing.only_in_b, rest_of_both.only_in_b),
        in_model_order=first.in_model_order,
        tolerance=allowed.default,
        diagnosis=why(tensors, both, request),
        notes=(
            *pairing.notes,
            *tied(cut, pairing),
            *rest_of_both.notes(),
            *idle_notes(idle),
            *spooled(tensors),
        ),
        backend=runners[0].backend.name,
        elapsed_s=time.perf_counter() - started,
        tolerances=allowed.patterns,
        config=allowed.config,
        not_compared=not_compared,
    )


def _others(
    sides: tuple[Checkpoint, Checkpoint], unmeasured: Unmeasured, runner: Runner
) -> tuple[tuple[OtherDifference, ...], tuple[Skipped, ...]]:
    """What is no gradient, compared, and what nothing compares: unless whole files are equal."""
    pairs, unread = unmeasured.pairs, tuple(item for item, _ in unmeasured.unread)
    files = whole_files(sides) if unread else []
    found = others_compared([*pairs, *files], runner)
    are_copies = bool(files) and all(one.identical for one in found[len(pairs) :])
    return found[: len(pairs)], () if are_copies else unread


def _alone(
    checkpoint: Checkpoint, numbers: Sequence[int], unmeasured: Sequence[Skipped]
) -> tuple[str, ...]:
    """The names of what pairs with nothing, gradients first."""
    names = (checkpoint.tensors[n].name for n in numbers)
    return (*names, *(item.name for item in unmeasured))


class _Paired(NamedTuple):
    """Two catalogues, cut into the rows that maps tell apart, and what pairs of them.

    `names` has, for each pair, the name of the whole tensor of the first that it is of.
    """

    sides: tuple[Checkpoint, Checkpoint]
    pairing: Pairing
    names: list[str]


def _paired(sides: tuple[Checkpoint, Checkpoint], terms: Terms) -> _Paired:
    first, second = sides
    bare = terms.request.bare
    a, b = ([Entry((one.section, one.name), one.shape) for one in side.tensors] for side in sides)
    parts, others = pieces(a, b, terms.maps, bare)
    pairing = paired(parts, others, bare.prefixes)
    if terms.must_pair and not pairing.pairs:
        problem = f"{first.path} and {second.path}: no names in common"
        raise UsageError(problem, hint=help_for(a, b))
    cut = cut_up(first, parts), cut_up(second, others)
    notes = [*pairing.notes, *of_other_kinds(*cut, pairing)]
    names = [a[parts[n].number].key[1] for n, _ in pairing.pairs]
    return _Paired(cut, pairing._replace(notes=notes), names)


def _refuse_idle(globs: Sequence[str], names: Sequence[str], bare: BareNames) -> None:
    """UsageError for a glob of tensors to transpose that fits none of those that pair."""
    for glob in globs:
        if not any(map(name_filter([glob], (), bare), names)):
            hint = nearest_names(glob, names)
            raise UsageError(f"`transpose` {glob!r} fits no tensor that pairs", hint=hint)


def _turned(specs: Sequence[Specs], names: Sequence[str], terms: Terms) -> list[Specs]:
    """The pairs, of which those of names that say so have the second transposed."""
    bare, globs = terms.request.bare, terms.transpose
    is_transposed = name_filter(globs, (), bare) if globs else no_name
    _refuse_idle(globs, names, bare)
    turned = map(is_transposed, names)
    return [(a, transposed(b) if one else b) for (a, b), one in zip(specs, turned, strict=True)]


def _compared(
    sides: tuple[Checkpoint, Checkpoint],
    specs: Sequence[Specs],
    terms: Terms,
    runner: Runner,
    tolerances: Sequence[Tolerance],
) -> tuple[TensorDifference, ...]:
    request = terms.request
    with reporting_shortage():
        tensors = differences(
            specs,
            sides,
            runner,
            tolerances=tolerances,
            loss_scales=(request.loss_scale_of(sides[0]), request.loss_scale_of(sides[1])),
            verify=request.verify,
        )
    return ordered(tensors, in_model_order=sides[0].in_model_order)


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """The catalogue of the tensors of which there are copies."""
    names = {replica.name for replica in checkpoint.replicas}
    return checkpoint.narrowed(lambda item: item.name in names)


def _compare_copies(
    sides: Sequence[Checkpoint],
    request: MeasureRequest,
    executor: Executor,
    parts: Sequence[Progress],
) -> None:
    """Raise what `measure` raises where copies that ranks hold of a tensor are not the same."""
    for side, checkpoint, progress in zip(SIDES, sides, parts, strict=True):
        if not checkpoint.replicas:
            progress.finish()
            continue
        with _naming(side):
            agreed(measured(_copied(checkpoint), request, executor, progress, time.perf_counter()))


def _dump_side(checkpoint: Checkpoint, request: MeasureRequest) -> DumpSide:
    return DumpSide(
        path=checkpoint.path,
        format=checkpoint.format,
        files=tuple(file.path for file in checkpoint.files),
        nbytes=checkpoint.nbytes,
        loss_scale=request.loss_scale_of(checkpoint),
        step=checkpoint.step,
        skipped=checkpoint.skipped,
        notes=(*checkpoint.essential_notes, *checkpoint.part_notes, *checkpoint.notes),
    )
