"""Single figures as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradtool.core.checkpoint import Disagreement
from gradtool.core.stats import TensorStats


def number(value: float) -> str:
    """All digits that matter: reading the text back gives the very same number."""
    return "NaN" if math.isnan(value) else repr(value)


def json_number(value: float) -> float | str:
    """JSON has no name for what is not finite; JavaScript's are what readers expect."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def significant(value: float, digits: int) -> str:
    """`digits` significant digits, trailing zeros kept so that a column compares at a glance."""
    if not math.isfinite(value):
        return str(json_number(value))
    return "0" if value == 0.0 else f"{value:#.{digits}g}".removesuffix(".")


def precise(value: float) -> str:
    """Twelve significant digits, all that a norm is certain of."""
    return f"{value:.12g}" if math.isfinite(value) else significant(value, 12)


def short(value: float) -> str:
    """A setting as the user would write it: 1, 0.5, 1e-06."""
    text = f"{value:.12g}"
    return text if float(text) == value or math.isnan(value) else repr(value)


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 tensor`, `1,234 tensors`: `many` is `one` with an s, unless given."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def sparse_notes(stored: int, summed: int) -> Iterator[str]:
    """Sentences on sparse tensors that are measured by stored values, and on those by sums."""
    for count, how in (
        (stored, "measured by the stored values"),
        (summed, "not coalesced, and measured by the sums of the values"),
    ):
        if count:
            yield f"{counted(count, 'sparse tensor is', 'sparse tensors are')} {how}"


def first_of(items: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`: the first of many items, as they are."""
    shown = ", ".join(items[:most])
    return f"{shown} and {len(items) - most:,} more" if len(items) > most else shown


def some(names: Sequence[str], most: int = 3) -> str:
    """`'a', 'b', 'c' and 4 more`: the first of many names, quoted, none of them long."""
    return first_of([f"{name!r:.80}" for name in names], most)


def difference(copy: Disagreement) -> str:
    """What is wrong with a copy of a tensor: how much of it differs, from where on."""
    elements = counted(copy.differing, "element")
    first = f", first at {index_text(copy.first)}" if copy.first else ""
    bad = f"; it holds {', '.join(counts)}" if (counts := nonfinite_counts(copy.stats)) else ""
    verb = "differs" if copy.differing == 1 else "differ"
    return f"{elements} of the copy of {copy.rank} {verb}{first}{bad}"


def listed_apart(names: Sequence[str]) -> Iterator[str]:
    """What to say of tensors of further ranks, named after these, that are no copies."""
    if names:
        yield f"not the same in all ranks, and no gradient: listed as {some(names)}"


def nonfinite_counts(stats: TensorStats) -> list[str]:
    """`3 NaN`, `1 +Inf`: those that there are."""
    counts = ((stats.nan, "NaN"), (stats.posinf, "+Inf"), (stats.neginf, "-Inf"))
    return [f"{count:,} {kind}" for count, kind in counts if count]


def tally(count: int) -> str:
    """A count in a column where most are 0 and the others must stand out."""
    return f"{count:,}" if count else "-"


def share(part: int, whole: int) -> str:
    """A percentage that says 100 only where it is all, and nothing where it is none."""
    if part == 0:
        return "-"
    if part == whole:
        return "100%"
    percent = f"{100.0 * part / whole:.1f}%"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(percent, percent)


def byte_size(nbytes: int) -> str:
    """`999 bytes`, `2.1 GB`: powers of 1000, as disks are sold and `ls -h --si` counts."""
    if nbytes < 1000:
        return counted(nbytes, "byte")
    size = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size:,.1f} PB"


def dimensions(shape: Sequence[int]) -> str:
    """`50257x1280`."""
    return "x".join(map(str, shape)) or "scalar"


def index_text(index: Sequence[int]) -> str:
    """`[5, 7]`."""
    return str(list(index))


def norm_name(norm_type: float) -> str:
    """`L2 norm`, `Linf norm`."""
    return f"L{short(norm_type)} norm"
