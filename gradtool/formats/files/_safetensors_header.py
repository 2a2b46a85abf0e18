"""The header of a safetensors file: every entry checked, and what is kept of it made small.

There may be a million of them. Most have a type and a shape that others have as well, and all
together their data are the rest of the file, so that names in the order of data say where each is.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.dump_metadata import PREFIX
from gradtool.formats.files._dcp_sharding import SHARDING_INFO
from gradtool.storage.json import parse_object, read_members

METADATA: Final = "__metadata__"
MAX_DIMENSIONS: Final = 64

_WHAT: Final = "its header"
_SIZE_LIMIT: Final = 1 << 63
_MOST_KNOWN: Final = 1024
# As nearly all writers spell an entry.
_USUAL: Final = re.compile(
    r'\{("dtype":"\w+","shape":\[[\d,]*\]),"data_offsets":\[(0|[1-9]\d{0,17}),(0|[1-9]\d{0,17})\]\}',
    re.ASCII,
)


class TensorType(NamedTuple):
    """A tensor's type and shape, and how many bytes it takes."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        types: of all tensors, by name and in the order of their data.
        data_start: the file's byte at which the first one's begin; there are no gaps.
        noted: what gradtool wrote into the metadata, and torch's storage writers about boxes.
    """

    types: dict[str, TensorType]
    data_start: int
    noted: dict[str, str]


_Row = tuple[str, TensorType, int]
"""A tensor's name, type, and where its data begin."""


def read_header(source: Source) -> Header:
    """The header; CorruptFileError naming tensor and byte."""
    nbytes = int.from_bytes(source.read(0, 8), "little")
    if 8 + nbytes > source.file.size:
        problem = f"its header claims {nbytes} bytes, the file has {source.file.size}: truncated"
        raise CorruptFileError(source.path, problem, byte=0)
    types: dict[str, TensorType] = {}
    begins, ends = array("q"), array("q")
    noted: dict[str, str] | None = None
    entries = _Entries(source.path)
    members = read_members(
        source.read(8, nbytes),
        source.path,
        _WHAT,
        texts=METADATA,
        wanted=lambda key: key == SHARDING_INFO or key.startswith(PREFIX),
    )
    for name, value in members:
        if name in types or (name == METADATA and noted is not None):
            problem = f"its header is not valid JSON: duplicate key {name!r:.80}"
            raise CorruptFileError(source.path, problem)
        if name == METADATA:
            noted = value if isinstance(value, dict) else {}  # MLX has null where there are none
            continue
        types[name], begin = entries.read(name, value)
        begins.append(begin)
        ends.append(begin + types[name].nbytes)
    rows: Iterable[_Row] = zip(types, types.values(), begins, strict=True)
    if begins[1:] != ends[:-1]:
        # An empty tensor comes before its neighbour.
        rows = sorted(rows, key=lambda row: (row[2], row[1].nbytes))
        types = {name: type_ for name, type_, _ in rows}
    _check_tiling(source, rows, 8 + nbytes)
    return Header(types, 8 + nbytes, noted or {})


class _Entries:
    """Reads the entries of one header, each checked for itself."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, TensorType] = {}

    def read(self, name: str, text: object) -> tuple[TensorType, int]:
        """Type of a tensor, and where its data begin; most texts differ in the offsets alone."""
        usual = _USUAL.fullmatch(text) if isinstance(text, str) else None
        if usual is None:
            return self._checked(name, text)
        begin, end = int(usual[2]), int(usual[3])
        known = self._known.get(usual[1])
        if known is not None and known.nbytes == end - begin:
            return known, begin
        type_, begin = self._checked(name, text)
        if len(self._known) < _MOST_KNOWN:
            self._known[usual[1]] = type_
        return type_, begin

    def _checked(self, name: str, text: object) -> tuple[TensorType, int]:
        def broken(problem: str) -> CorruptFileError:
            return CorruptFileError(self._path, problem, tensor=name)

        fields = parse_object(text, self._path, _WHAT) if isinstance(text, str) else {}
        if fields.keys() != {"dtype", "shape", "data_offsets"}:
            raise broken("its header entry needs dtype, shape and data_offsets, and nothing else")
        dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
        if dtype is None:
            problem = f"unknown dtype {fields['dtype']!r:.80}"
            raise UnsupportedFormatError(self._path, problem, tensor=name)
        shape, offsets = fields["shape"], fields["data_offsets"]
        if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
            raise broken(f"shape is no list of at most {MAX_DIMENSIONS} sizes")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise broken("data_offsets are no pair of offsets")
        begin, end = offsets
        bits = math.prod(shape) * dtype.bits
        if bits != 8 * (end - begin):
            raise broken(
                f"its data_offsets span {end - begin} bytes, "
                f"{dtype.name} of its shape takes {bits} bits"
            )
        return TensorType(dtype, tuple(shape), end - begin), begin


def _are_sizes(found: Any) -> bool:
    # bool is an int to Python and a type error to JSON.
    return isinstance(found, list) and all(
        type(size) is int and 0 <= size < _SIZE_LIMIT for size in found
    )


def _check_tiling(source: Source, rows: Iterable[_Row], data_start: int) -> None:
    """Refuse data that leaves holes, overlaps, or ends elsewhere than the file does."""
    name, reached = None, 0
    for name, type_, begin in rows:
        end = begin + type_.nbytes
        if begin != reached:
            problem = "overlap another tensor's" if begin < reached else "follow a hole"
            raise CorruptFileError(
                source.path,
                f"its bytes {begin} to {end} {problem}: the data so far ends at {reached}",
                tensor=name,
                byte=data_start + begin,
            )
        reached = end
    missing = data_start + reached - source.file.size
    if missing:
        problem = (
            f"the tensors end {missing} bytes after the file: truncated"
            if missing > 0
            else f"{-missing} bytes after the last tensor belong to none"
        )
        raise CorruptFileError(source.path, problem, tensor=name, byte=source.file.size)
