"""Two dumps compared, saved or in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gradtool.api.diagnoses import why
from gradtool.api.tolerances import idle_notes, tolerances_of
from gradtool.arguments import globs
from gradtool.arrays.catalogue import catalogue
from gradtool.core.checkpoint import Checkpoint, RanksMode
from gradtool.core.comparing.difference import (
    Difference,
    DumpSide,
    TensorDifference,
)
from gradtool.core.comparing.others import OtherDifference
from gradtool.core.comparing.pairing import Key, NameMap, Pairing, help_for, of_other_kinds, paired
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.names import name_filter, no_name, ordered
from gradtool.engine.memory import reporting_shortage
from gradtool.engine.progress import Observer, Progress, split_progress
from gradtool.engine.reading.differences import differences, others_compared, spooled
from gradtool.engine.reading.pairs.transposition import transposed
from gradtool.engine.reading.scaling import times_scales
from gradtool.engine.reading.unpacking import unpacked
from gradtool.engine.schedule import Runner
from gradtool.errors import InputError, UsageError
from gradtool.places import place_of
from gradtool.request import MeasureRequest, agreed, chosen, measured, opened_in_part, working
from gradtool.rules.config_file import Config

SIDES = ("A", "B")


def diff(  # noqa: PLR0913 - one for each option of the command
    a: str | bytes | os.PathLike[str] | Any,
    b: str | bytes | os.PathLike[str] | Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_rel_l2: float | None = None,
    ulps: int | None = None,
    equal_nan: bool = False,
    tolerances: Mapping[str, Mapping[str, Any]] | Iterable[Mapping[str, Any]] = (),
    config: str | os.PathLike[str] | Config | None = None,
    name_map: str | Iterable[str] | Mapping[str, str] = (),
    transpose: str | Iterable[str] = (),
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    section: str | None = None,
    loss_scale: float | None = None,
    raw_dtype: str | None = None,
    verify: bool = False,
    ranks: RanksMode = "auto",
    replicated: str | Iterable[str] = (),
    strip_prefix: str | Iterable[str] = (),
    join: bool = False,
    apply_scales: bool = False,
    threads: int | None = None,
    backend: str = "auto",
    device: str | None = None,
    device_memory: int | str | None = None,
    progress: Observer | None = None,
) -> Difference:
    """Compare two dumps, element by element, whatever layout each has; `a` is the reference.

    Tensors pair by section and name; wrappers such as `module.` and `_orig_mod.` are taken off
    names that pair without them. Without a tolerance only the same bits are the same. Figures are
    within 1e-12 of the exact ones, and bit-identical for any number of threads.

    Args:
        a: the reference, as for `measure`: a path, a module or arrays.
        b: what is compared with it, alike.
        rtol: with `atol`, `|b - a| <= atol + rtol * |a|` for each element, as numpy.testing has
            it; one that is not given is 0. All bounds that are given must hold.
        atol: see `rtol`.
        max_rel_l2: a bound on `|b - a| / |a|` of each tensor.
        ulps: how many numbers of the dtype elements may be apart, of the narrower of two dtypes.
        equal_nan: any NaN agrees with any NaN; else only one of the same bits does.
        tolerances: bounds by name: a dict from globs to bounds, as `{"*.bias": {"rtol": 1e-3}}`, or
            tables with a `pattern` each. The first that fits a tensor counts, one without bounds
            asks for equal bits, and a tensor that none fits is an error.
        config: a `gradtool.toml`, or a `pyproject.toml` with `[tool.gradtool.diff]`, for what is
            not given here; by default none is looked for.
        name_map: OLD=NEW, or such texts, or a dict: what tensors of `a` are called in `b`; `*`
            stands for any text.
        transpose: a glob or globs of names, as `a` has them, of which `b` has the last two axes
            the other way round.
        include: as for `measure`, of both, and so are
        exclude: and
        section: and
        loss_scale: by default what each file notes;
        raw_dtype: and
        verify: and
        ranks: and
        replicated: and
        strip_prefix: and
        join: and
        apply_scales: and
        threads: and
        backend: and
        device: and
        device_memory: and
        progress: over both together.

    Returns:
        The figures of each pair, and what is only on one side; true if both are the same.

    Raises:
        UsageError: an argument is out of its range, or no names pair.
        InputError: one of the dumps cannot be read; the message says which.
        others as `measure`.
    """
    started = time.perf_counter()
    given = {"rtol": rtol, "atol": atol, "max_rel_l2": max_rel_l2, "ulps": ulps}
    allowed, unused = tolerances_of(given, tolerances, config, equal_nan=equal_nan)
    maps = _maps(name_map)
    is_transposed = globs("transpose", transpose)
    request = MeasureRequest(
        include=include,
        exclude=exclude,
        section=section,
        loss_scale=loss_scale,
        raw_dtype=raw_dtype,
        verify=verify,
        ranks=ranks,
        replicated=replicated,
        strip_prefix=strip_prefix,
        join=join,
        apply_scales=apply_scales,
        threads=threads,
        backend=backend,
        device=device,
        device_memory=device_memory,
        progress=progress,
    )
    with working(request) as executor:
        opened = [_opened(one, side, request) for one, side in zip((a, b), SIDES, strict=True)]
        first, second = (one.checkpoint for one in opened)
        pairing = _paired(first, second, request, maps)
        bounds, idle = allowed.of([first.tensors[n].name for n, _ in pairing.pairs], request.bare)
        *parts, whole, rest = split_progress(request.progress, [None] * 4)
        _compare_copies((first, second), request, executor, parts)
        runners = [request.runner(first, executor, part) for part in (whole, rest)]
        tensors = _compared(
            (first, second), pairing.pairs, request, runners[0], bounds, is_transposed
        )
        others = _others(first, second, request, runners[1])
    return Difference(
        a=_side(first, request),
        b=_side(second, request),
        tensors=tensors,
        others=others,
        only_in_a=tuple(first.tensors[n].name for n in pairing.only_in_a),
        only_in_b=tuple(second.tensors[n].name for n in pairing.only_in_b),
        in_model_order=first.in_model_order,
        tolerance=allowed.default,
        diagnosis=why(tensors, (first, second), request),
        notes=(*pairing.notes, *unused, *idle_notes(idle), *spooled(tensors)),
        backend=runners[0].backend.name,
        elapsed_s=time.perf_counter() - started,
        tolerances=allowed.patterns,
        config=allowed.config,
    )


def _maps(name_map: str | Iterable[str] | Mapping[str, str]) -> tuple[NameMap, ...]:
    if isinstance(name_map, Mapping):
        name_map = [f"{old}={new}" for old, new in name_map.items()]
    return tuple(map(NameMap.read, globs("name_map", name_map)))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A catalogue, and what keeps alive the memory that it is of."""

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


def _opened(source: Any, side: str, request: MeasureRequest) -> _Opened:
    place = place_of(source)
    with _naming(side):
        if place is not None:
            return _Opened(times_scales(unpacked(opened_in_part(place, request))), [])
        checkpoint, owners = catalogue(source)
        return _Opened(times_scales(chosen(checkpoint, request)), owners)


def _paired(
    first: Checkpoint, second: Checkpoint, request: MeasureRequest, maps: Sequence[NameMap]
) -> Pairing:
    a, b = map(_keys, (first, second))
    pairing = paired(a, b, request.bare.prefixes, maps)
    if not pairing.pairs:
        problem = f"{first.path} and {second.path}: no names in common"
        raise UsageError(problem, hint=help_for(a, b))
    return pairing._replace(notes=[*pairing.notes, *of_other_kinds(first, second, pairing)])


def _keys(checkpoint: Checkpoint) -> list[Key]:
    return [(spec.section, spec.name) for spec in checkpoint.tensors]


def _compared(
    sides: tuple[Checkpoint, Checkpoint],
    pairs: Sequence[tuple[int, int]],
    request: MeasureRequest,
    runner: Runner,
    tolerances: Sequence[Tolerance],
    transpose: tuple[str, ...],
) -> tuple[TensorDifference, ...]:
    is_transposed = name_filter(transpose, (), request.bare) if transpose else no_name
    found = [(sides[0].tensors[n], sides[1].tensors[m]) for n, m in pairs]
    specs = [(a, transposed(b) if is_transposed(a.name) else b) for a, b in found]
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


def _others(
    first: Checkpoint, second: Checkpoint, request: MeasureRequest, runner: Runner
) -> tuple[OtherDifference, ...]:
    """What both dumps hold that is no gradient, and is stored in one piece."""
    a, b = ([item for item in one.skipped if item.stored is not None] for one in (first, second))
    keys = [[(item.section, item.name) for item in side] for side in (a, b)]
    pairing = paired(keys[0], keys[1], request.bare.prefixes)
    with reporting_shortage():
        return others_compared([(a[n], b[m]) for n, m in pairing.pairs], runner)


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


def _side(checkpoint: Checkpoint, request: MeasureRequest) -> DumpSide:
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
