"""The known answers: norms of tensors in memory, by plain Python and exact sums.

Nothing here is shared with gradtool, and no file is read back. Every element becomes a
Python float, powers are taken in float64 (squares of float32 and narrower are exact there)
and added by `math.fsum`, which rounds once. Clipping multiplies Python floats, and rounds
each product into the tensor's dtype by exact fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

Json = dict[str, object]

NORM_TYPES = (0.0, 0.5, 1.0, 2.0, 3.0, math.inf, -math.inf)

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

MAX_NORM = 0.1  # nearly every sample has a larger norm
EPS = 1e-6  # torch's

# Bits of the significand, the hidden one included; smallest normal exponent; largest number.
_FORMATS = {
    "F32": (24, -126, (2 - 2.0**-23) * 2.0**127),
    "F16": (11, -14, 65504.0),
    "BF16": (8, -126, (2 - 2.0**-7) * 2.0**127),
}


@dataclass(frozen=True)
class Entry:
    """A tensor as it is saved: under this name, in this section."""

    name: str | None
    tensor: Tensor
    section: str = ""
    alias_of: str | None = None


@dataclass(frozen=True)
class Clip:
    """What `gradtool clip` is asked for."""

    section: str | None = None
    nonfinite: str = "error"
    loss_scale: float = 1.0

    @property
    def options(self) -> list[str]:
        """The same on the command line."""
        found = ["--max-norm", f"{MAX_NORM:g}"]
        if self.section is not None:
            found += ["--section", self.section]
        if self.nonfinite != "error":
            found += ["--nonfinite", self.nonfinite]
        if self.loss_scale != 1.0:
            found += ["--loss-scale", f"{self.loss_scale:.17g}"]
        return found


def strict(number: float) -> float | str:
    """`number` as strict JSON has it."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def norm(values: Iterable[float], p: float) -> float:
    """The p-norm of `values`, as torch defines it for any p."""
    values = [abs(value) for value in values]
    if p == 0:
        return float(sum(value != 0 for value in values))
    if any(math.isnan(value) for value in values):
        return math.nan
    if p < 0:
        return min((value for value in values if value != math.inf), default=0.0)
    if math.inf in values:
        return math.inf
    if p == math.inf:
        return max(values, default=0.0)
    power: Callable[[float], float] = {
        0.5: math.sqrt,
        1.0: lambda value: value,
        2.0: lambda value: value * value,
        3.0: lambda value: value * value * value,
    }[p]
    total = math.fsum(map(power, values))
    return total * total if p == 0.5 else math.cbrt(total) if p == 3.0 else total ** (1 / p)


def rounded(value: float, dtype: str) -> float:
    """`value` to nearest even in `dtype`, by exact fractions."""
    if dtype == "F64" or not math.isfinite(value) or value == 0.0:
        return value
    digits, lowest, largest = _FORMATS[dtype]
    exponent = max(math.frexp(value)[1] - 1, lowest)
    quantum = Fraction(2) ** (exponent - digits + 1)
    nearest = round(Fraction(value) / quantum) * quantum
    return math.inf if nearest > largest else float(nearest)


def tensor_facts(entry: Entry) -> Json:
    """What is known about one tensor."""
    flat = entry.tensor.detach().flatten()
    values = flat.double().tolist()
    finite = [value for value in values if math.isfinite(value)]
    dtype = DTYPE_NAMES[entry.tensor.dtype]
    return {
        "name": entry.name,
        "section": entry.section,
        "dtype": dtype,
        "shape": list(entry.tensor.shape),
        "numel": len(values),
        "norm": strict(norm(values, 2.0)),
        "finite_norm": norm(finite, 2.0),
        "native_norm": strict(rounded(norm(values, 2.0), dtype)),
        "max_abs": norm(finite, math.inf),
        **_counts(values),
        "subnormals": _subnormals(values, entry.tensor.dtype),
        "first_nonfinite": _first_nonfinite(values, list(entry.tensor.shape)),
        "alias_of": entry.alias_of,
    }


def set_facts(entries: Iterable[Entry]) -> Json:
    """What is known about a set of tensors together; aliases add nothing."""
    stored = [entry.tensor.detach() for entry in entries if entry.alias_of is None]
    each = [tensor.flatten().double().tolist() for tensor in stored]
    values = [value for one in each for value in one]
    finite = [value for value in values if math.isfinite(value)]
    dtypes = [DTYPE_NAMES[tensor.dtype] for tensor in stored]
    promoted = dtypes[0] if len(set(dtypes)) == 1 else "F64" if "F64" in dtypes else "F32"
    native = [rounded(norm(one, 2.0), name) for one, name in zip(each, dtypes, strict=True)]
    return {
        "tensors": len(stored),
        "numel": len(values),
        "norms": {f"{p:g}": strict(norm(values, p)) for p in NORM_TYPES},
        "finite_norm": norm(finite, 2.0),
        "native_norm": strict(rounded(norm(native, 2.0), promoted)),
        "native_dtype": promoted,
        "max_abs": norm(finite, math.inf),
        **_counts(values),
        "subnormals": sum(
            _subnormals(one, tensor.dtype) for one, tensor in zip(each, stored, strict=True)
        ),
    }


def clip_facts(entries: Iterable[Entry], clip: Clip) -> Json:
    """What clipping does to a set of tensors; aliases add nothing."""
    stored = [entry.tensor.detach() for entry in entries if entry.alias_of is None]
    dtypes = [DTYPE_NAMES[tensor.dtype] for tensor in stored]
    before = [tensor.flatten().double().tolist() for tensor in stored]
    values = [value / clip.loss_scale for one in before for value in one]
    bad = sum(not math.isfinite(value) for value in values)
    if bad and clip.nonfinite == "error":
        return {"options": clip.options, "exit_code": 1}
    coef = min(1.0, MAX_NORM / (norm(filter(math.isfinite, values), 2.0) + EPS))
    after = [
        [_clipped(value, coef, dtype, clip.nonfinite) for value in one]
        for one, dtype in zip(before, dtypes, strict=True)
    ]
    written = [value / clip.loss_scale for one in after for value in one]
    return {
        "options": clip.options,
        "exit_code": 0,
        "clip_coef": coef,
        "norm_before": strict(norm(values, 2.0)),
        "norm_after": strict(norm(written, 2.0)),
        "finite_norm_before": norm(filter(math.isfinite, values), 2.0),
        "finite_norm_after": norm(filter(math.isfinite, written), 2.0),
        "tensors": len(stored),
        # NaN that is kept is the same object, which lists take for equal.
        "tensors_changed": sum(one != other for one, other in zip(before, after, strict=True)),
        "nonfinite_replaced": bad if clip.nonfinite == "zero" else 0,
    }


def _clipped(value: float, coef: float, dtype: str, nonfinite: str) -> float:
    """An element after clipping: scaled and rounded once, or not finite and kept or replaced."""
    if math.isfinite(value):
        return rounded(value * coef, dtype)
    return 0.0 if nonfinite == "zero" else value


def _counts(values: list[float]) -> Json:
    return {
        "nan": sum(math.isnan(value) for value in values),
        "posinf": values.count(math.inf),
        "neginf": values.count(-math.inf),
        "zeros": values.count(0.0),
    }


def _subnormals(values: list[float], dtype: torch.dtype) -> int:
    return sum(0.0 < abs(value) < torch.finfo(dtype).smallest_normal for value in values)


def _first_nonfinite(values: list[float], shape: list[int]) -> list[int] | None:
    for position, value in enumerate(values):
        if not math.isfinite(value):
            index: list[int] = []
            for size in reversed(shape):
                position, place = divmod(position, size)  # noqa: PLW2901
                index.insert(0, place)
            return index
    return None
