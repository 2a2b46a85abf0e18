"""Baselines as files made for git: sorted, one tensor a line, the same text for the same dumps.

{"schema": "gradtool.baseline/1", "norm_type": 2.0, ..., "tensors": {
 "embed.weight": {"dtype": "F32", "shape": [96, 32], "norm": [0.31, 0.36], "zeros": 0.0},
...}}
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, Final

from gradtool.core.dtypes import DTYPES
from gradtool.core.figures import json_number
from gradtool.core.judging.baseline import SCHEMA, Baseline, BaselineTensor, NormRange
from gradtool.errors import (
    CorruptFileError,
    FileAccessError,
    UnsupportedFormatError,
)
from gradtool.storage.json import parse_object

_MAX_NBYTES: Final = 1 << 28
"""A larger file is no baseline: the lines of a million tensors take half of it."""

_FIELDS: Final = {"schema", "norm_type", "dumps", "total", "tensors"}
_TENSOR_FIELDS: Final = {"dtype", "shape", "norm", "zeros"}


def write_baseline(baseline: Baseline) -> str:
    """The text of a baseline's file."""
    head = {
        "schema": SCHEMA,
        "norm_type": json_number(baseline.norm_type),
        "dumps": list(baseline.dumps),
        "total": _range(baseline.total),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    tensors = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(_tensor(tensor))}"
        for name, tensor in baseline.tensors.items()
    )
    return "{\n" + "".join(lines) + f' "tensors": {{\n{tensors}\n }}\n}}\n'


def _tensor(tensor: BaselineTensor) -> dict[str, object]:
    return {
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "norm": _range(tensor.norm),
        "zeros": tensor.zeros,
    }


def _range(norm: NormRange) -> list[float]:
    return [norm.low, norm.high]


def read_baseline(path: str) -> Baseline:
    """The baseline in a file; InputError if it is missing, cut, or of another version."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_NBYTES + 1)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(path, f"cannot be read: {reason}") from error
    if len(data) > _MAX_NBYTES:
        raise CorruptFileError(path, "is too large for a baseline")
    fields = parse_object(data, path, "the baseline")
    schema = fields.get("schema")
    if schema != SCHEMA:
        raise UnsupportedFormatError(
            path,
            f"its schema is {schema!r}, and not {SCHEMA!r}",
            hint="is it a baseline? save it anew with `gradtool baseline save`",
        )
    if fields.keys() != _FIELDS:
        odd = min(fields.keys() ^ _FIELDS)
        raise _broken(path, f"{odd!r} is missing, or not known")
    dumps, tensors = fields["dumps"], fields["tensors"]
    if not isinstance(dumps, list) or not dumps or not all(isinstance(dump, str) for dump in dumps):
        raise _broken(path, "'dumps' is no list of paths")
    if not isinstance(tensors, dict) or not tensors:
        raise _broken(path, "'tensors' is no table of tensors")
    return Baseline(
        path=path,
        norm_type=_norm_type(path, fields["norm_type"]),
        dumps=tuple(dumps),
        total=_read_range(path, None, fields["total"]),
        tensors={name: _read_tensor(path, name, entry) for name, entry in tensors.items()},
    )


def _read_tensor(path: str, name: str, entry: Mapping[str, Any]) -> BaselineTensor:
    if not isinstance(entry, dict) or entry.keys() != _TENSOR_FIELDS:
        wanted = ", ".join(sorted(_TENSOR_FIELDS))
        raise _broken(path, f"its entry needs {wanted}, and nothing else", name)
    dtype, shape, zeros = entry["dtype"], entry["shape"], entry["zeros"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken(path, f"there is no dtype {dtype!r}", name)
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _broken(path, "its shape is no list of sizes", name)
    if not _is_norm(zeros) or zeros > 1.0:
        raise _broken(path, "its zeros are no share", name)
    norm = _read_range(path, name, entry["norm"])
    return BaselineTensor(dtype, tuple(shape), norm, float(zeros))


def _read_range(path: str, name: str | None, value: object) -> NormRange:
    """The range of the norm of tensor `name`, or of the total norm if that is None."""
    field = "'total'" if name is None else "its norm"
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_norm, value)):
        raise _broken(path, f"{field} is no pair of finite numbers of at least 0", name)
    if value[0] > value[1]:
        raise _broken(path, f"{field} begins with the larger number", name)
    return NormRange(float(value[0]), float(value[1]))


def _is_norm(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max  # type: ignore[operator]


def _norm_type(path: str, value: object) -> float:
    infinite = {"Infinity": math.inf, "-Infinity": -math.inf}
    if isinstance(value, str) and value in infinite:
        return infinite[value]
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise _broken(path, "'norm_type' is no number")
    return float(value)  # type: ignore[arg-type]


def _broken(path: str, problem: str, tensor: str | None = None) -> CorruptFileError:
    return CorruptFileError(path, problem, tensor=tensor)
