"""What a test suite calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from gradtool.api.checking import check
from gradtool.api.diff.comparing import diff
from gradtool.core.judging.rule import Severity
from gradtool.report import check_reporter, diff_reporter
from gradtool.report.model import Style
from gradtool.request import MeasureOptions


def assert_healthy(
    source: str | bytes | os.PathLike[str] | Any,
    *,
    baseline: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    select: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: float | None = None,
    fail_on: Severity | None = None,
    **options: Unpack[MeasureOptions],
) -> None:
    """For test suites: AssertionError with the report, unless `check` finds gradients healthy.

        gradtool.assert_healthy(model)
        gradtool.assert_healthy("run/grads.safetensors", thresholds={"GT203.max_norm": 10})

    Takes what `check` takes for one source, and raises what it raises.
    """
    outcome = check(
        source,
        baseline=baseline,
        config=config,
        select=select,
        ignore=ignore,
        thresholds=thresholds,
        rtol=rtol,
        fail_on=fail_on,
        **options,
    )
    if outcome.exit_code:
        render = check_reporter("text")
        raise AssertionError(render(outcome, Style(quiet=True, in_python=True)))


def assert_same(
    a: str | bytes | os.PathLike[str] | Any,
    b: str | bytes | os.PathLike[str] | Any,
    **options: Any,
) -> None:
    """For test suites: AssertionError with the report, unless `diff` finds both the same.

        gradtool.assert_same("reference.safetensors", model)
        gradtool.assert_same("before.npz", "after.npz", rtol=1e-5, atol=1e-8)

    Takes what `diff` takes, and raises what it raises; without a tolerance only the same bits are
    the same.
    """
    difference = diff(a, b, **options)
    if not difference:
        render = diff_reporter("table")
        raise AssertionError(render(difference, Style(quiet=True, in_python=True)))
