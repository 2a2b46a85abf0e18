"""safetensors: 8 bytes of header length, a JSON header, then the tensors without gaps.

The rules are those of the reference reader (safetensors/src/tensor.rs); where it accepts what
the specification forbids (duplicate keys, leading spaces, unknown fields) this one refuses. Types
that newer writers have, complex ones among them, are read though it may not know them yet.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.figures import counted
from gradtool.core.json_text import is_unicode
from gradtool.core.locations import Extent, Source
from gradtool.core.sections import sections_of_flat_names
from gradtool.core.tensors import ABSENT, Checkpoint, Skipped, TensorSpec, skip_reason
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.dump_metadata import PREFIX, DumpMetadata
from gradtool.formats.files._second_format import refuse_second_format
from gradtool.storage.json import read_members

MAX_HEADER_BYTES: Final = 100_000_000
"""The reference reader's limit."""

MAX_DIMENSIONS: Final = 64

_SIZE_LIMIT: Final = 1 << 63

_METADATA: Final = "__metadata__"

_Entry = tuple[str, DType, tuple[int, ...], int, int]


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` (16 bytes or more) can be one."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def open_safetensors(source: Source) -> Checkpoint:
    """The catalogue of a safetensors file; CorruptFileError naming tensor and byte."""
    refuse_second_format(source)
    header_nbytes = int.from_bytes(source.read(0, 8), "little")
    if 8 + header_nbytes > source.file.size:
        raise CorruptFileError(
            source.path,
            f"its header claims {header_nbytes} bytes, the file has {source.file.size}: truncated",
            byte=0,
        )
    entries, metadata = _read_header(source, source.read(8, header_nbytes))
    entries.sort(key=lambda entry: entry[3:])  # by offsets: an empty tensor before its neighbour
    data_start = 8 + header_nbytes
    _check_tiling(source, entries, data_start)
    facts = _facts(source.path, metadata)
    # A dump holds gradients, whatever the parts of a model are called.
    names = {entry[0] for entry in entries}
    sections = {} if facts.dump else sections_of_flat_names(names)
    tensors: list[TensorSpec] = []
    skipped: list[Skipped] = []
    for name, dtype, shape, begin, end in entries:
        section = _section(name, sections)
        reason = skip_reason(dtype)
        if reason is not None:
            skipped.append(Skipped(name, dtype.name, reason, section))
            continue
        extents = (Extent(source.file, data_start + begin, end - begin),) if end > begin else ()
        tensors.append(TensorSpec(name, dtype, shape, extents, section=section))
    _add_noted(source.path, facts, names, tensors, skipped, sections)
    position = _positions(facts, [*tensors, *skipped])
    if position:
        tensors.sort(key=lambda spec: position[spec.name])
        skipped.sort(key=lambda item: position[item.name])
    return Checkpoint(
        path=source.path,
        format="safetensors",
        files=(source.file,),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        section_kinds=sections,
        loss_scale=float(facts.loss_scale),
        step=facts.step,
        ranks=_split_over(facts),
        notes=_notes(facts),
        in_model_order=bool(position),
    )


def _add_noted(
    path: str,
    facts: DumpMetadata,
    names: Container[str],
    tensors: list[TensorSpec],
    skipped: list[Skipped],
    sections: Mapping[str, object],
) -> None:
    """List the names that have no tensor of their own; CorruptFileError for notes that lie."""

    def lie(name: str, problem: str) -> CorruptFileError:
        return CorruptFileError(path, f"{problem}, which contradicts the header", tensor=name)

    stored = {spec.name: spec for spec in tensors}
    for name in (*facts.shards, *facts.sparse):
        if name not in names and name not in facts.aliases:
            raise lie(name, "is noted to be a part of a tensor, or sparse")
    for alias, first in facts.aliases.items():
        if first not in stored or alias in names:
            raise lie(alias, f"is noted to be {first!r}")
        tensors.append(replace(stored[first], name=alias, section=_section(alias, sections)))
    for name, dtype_name in facts.absent.items():
        if name in names or name in facts.aliases:
            raise lie(name, "is noted to have no gradient")
        skipped.append(Skipped(name, dtype_name, ABSENT, _section(name, sections)))


def _positions(facts: DumpMetadata, listed: Sequence[TensorSpec | Skipped]) -> dict[str, int]:
    """The place of each name in the model's order, if it is noted and of just these names.

    Whoever writes other tensors may have kept the notes of the file that they come from.
    """
    if not facts.order or len(facts.names) != len(listed):
        return {}
    position = {name: at for at, name in enumerate(facts.names)}
    return position if all(item.name in position for item in listed) else {}


def _section(name: str, sections: Mapping[str, object]) -> str:
    head = name.split(".", 1)[0] if sections else ""
    return head if head in sections else ""


def _facts(path: str, metadata: dict[str, str]) -> DumpMetadata:
    """What gradtool noted when it wrote the file, if it did."""
    try:
        return DumpMetadata.read(metadata)
    except ValueError as error:
        raise CorruptFileError(
            path, f"{error} in {_METADATA} is not what gradtool writes"
        ) from None


def _split_over(facts: DumpMetadata) -> frozenset[tuple[int, int]]:
    """The file's rank and their number, if gradients in it are parts of whole ones."""
    if not facts.shards or facts.rank is None or facts.world_size is None:
        return frozenset()
    return frozenset({(facts.rank, facts.world_size)})


def _notes(facts: DumpMetadata) -> tuple[str, ...]:
    notes = []
    if facts.shards:
        where = f"rank {facts.rank} of {facts.world_size}"
        notes.append(
            f"{counted(len(facts.shards), 'tensor is', 'tensors are')} the part of {where}"
        )
    if facts.sparse:
        sparse = counted(len(facts.sparse), "sparse tensor is", "sparse tensors are")
        notes.append(f"{sparse} measured by the stored values")
    if facts.loss_scale != 1.0:
        notes.append(f"the file says that gradients are multiplied by {facts.loss_scale:g}")
    return tuple(notes)


def _read_header(source: Source, header: bytes) -> tuple[list[_Entry], dict[str, str]]:
    """The tensors that a header lists, in its order, and what gradtool noted in it."""
    entries: dict[str, _Entry] = {}
    noted: dict[str, str] | None = None
    members = read_members(
        header,
        source.path,
        "its header",
        texts=_METADATA,
        wanted=lambda key: key.startswith(PREFIX),
    )
    for name, fields in members:
        if name in entries or (name == _METADATA and noted is not None):
            problem = f"its header is not valid JSON: duplicate key {name!r:.80}"
            raise CorruptFileError(source.path, problem)
        if name == _METADATA:
            noted = fields or {}  # null is how MLX writes that there are none
        else:
            entries[name] = _entry(source.path, name, fields)
    return list(entries.values()), noted or {}


def _entry(path: str, name: str, fields: Any) -> _Entry:
    """One header entry, checked for itself: (name, dtype, shape, begin, end)."""

    def broken(problem: str) -> CorruptFileError:
        return CorruptFileError(path, problem, tensor=name)

    if not is_unicode(name):
        raise broken("its name is no valid Unicode")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise broken("its header entry needs dtype, shape and data_offsets, and nothing else")
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise UnsupportedFormatError(path, f"unknown dtype {fields['dtype']!r:.80}", tensor=name)
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
    return name, dtype, tuple(shape), begin, end


def _are_sizes(found: Any) -> bool:
    # bool is an int to Python and a type error to JSON.
    return isinstance(found, list) and all(
        type(size) is int and 0 <= size < _SIZE_LIMIT for size in found
    )


def _check_tiling(source: Source, entries: list[_Entry], data_start: int) -> None:
    """Refuse data that leaves holes, overlaps, or ends elsewhere than the file does."""
    reached = 0
    for name, _, _, begin, end in entries:
        if begin != reached:
            problem = "overlap another tensor's" if begin < reached else "follow a hole"
            raise CorruptFileError(
                source.path,
                f"its bytes {begin} to {end} {problem}: the data so far ends at {reached}",
                tensor=name,
                byte=data_start + begin,
            )
        reached = end
    if data_start + reached != source.file.size:
        last = entries[-1][0] if entries else None
        missing = data_start + reached - source.file.size
        problem = (
            f"the tensors end {missing} bytes after the file: truncated"
            if missing > 0
            else f"{-missing} bytes after the last tensor belong to none"
        )
        raise CorruptFileError(source.path, problem, tensor=last, byte=source.file.size)
