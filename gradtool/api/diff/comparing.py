"""Two dumps compared, saved or in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gradtool.api.diff.comparison import PARTS, Terms, compare, opened_sides
from gradtool.api.diff.tolerances import tolerances_of
from gradtool.arguments import globs
from gradtool.core.checkpoint import RanksMode
from gradtool.core.comparing.difference import Difference
from gradtool.core.comparing.names.maps import NameMap
from gradtool.engine.progress import Observer, split_progress
from gradtool.request import MeasureRequest
from gradtool.rules.config_file import Config


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
            stands for any text. Either may end in rows of the tensors that it names, as Python's
            slices: `*.k.weight=*.kv.weight[0:8]`; `w[3]` is one row, without the first axis.
        transpose: a glob or globs of names, as `a` has them, of which `b` has the last two axes
            the other way round.
        include: as for `measure`, of both, and so are
        exclude: and
        section: (of a dump without sections it takes all) and
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
    first, second = opened_sides(a, b, request)
    terms = Terms(request, allowed, maps, is_transposed)
    difference = compare(first, second, terms, split_progress(progress, [None] * PARTS))
    return replace(
        difference,
        notes=(*difference.notes, *unused),
        elapsed_s=time.perf_counter() - started,
    )


def _maps(name_map: str | Iterable[str] | Mapping[str, str]) -> tuple[NameMap, ...]:
    if isinstance(name_map, Mapping):
        name_map = [f"{old}={new}" for old, new in name_map.items()]
    return tuple(map(NameMap.read, globs("name_map", name_map)))
