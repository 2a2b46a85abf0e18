"""Totals and sections as JSON and rows of numbers, and what else several kinds of rows have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast, get_args

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.measurement import Summary
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import SectionKind
from gradtool.storage.rows.texts import Fields, as_number, number_of, text_of


def summary_fields(summary: Summary) -> dict[str, object]:
    """A summary but for its statistics."""
    dtype = summary.native_dtype
    return {
        "name": summary.name,
        "kind": summary.kind,
        "tensors": summary.tensors,
        "native_norm": as_number(summary.native_norm),
        "native_dtype": None if dtype is None else dtype.name,
        "lower_bound": summary.lower_bound,
        "has_norm": summary.has_norm,
    }


def summary_of(members: Any, rows: Iterator[TensorStats]) -> Summary:
    """The summary again, whose statistics are the next of the rows."""
    fields = Fields(members)
    return Summary(
        name=fields.text("name"),
        kind=fields.optional("kind", kind_of),
        tensors=fields.count("tensors"),
        stats=next_of(rows),
        native_norm=fields.optional("native_norm", number_of),
        native_dtype=fields.optional("native_dtype", dtype_of),
        lower_bound=fields.flag("lower_bound"),
        has_norm=fields.flag("has_norm"),
    )


def next_of(rows: Iterator[TensorStats]) -> TensorStats:
    """The next of the rows."""
    found = next(rows, None)
    if found is None:
        raise ValueError("fewer figures than tensors")
    return found


def items_of(item: Any, count: int) -> Sequence[Any]:
    """A list of so many."""
    if not isinstance(item, list) or len(item) != count:
        raise ValueError(f"no list of {count}")
    return item


def dtype_of(value: Any) -> DType:
    """The dtype of that name."""
    dtype = DTYPES.get(text_of(value))
    if dtype is None:
        raise ValueError(f"no dtype {value!r:.80}")
    return dtype


def kind_of(value: Any) -> SectionKind:
    """What a section holds."""
    if value not in get_args(SectionKind):
        raise ValueError(f"no kind {value!r:.80}")
    return cast(SectionKind, value)
