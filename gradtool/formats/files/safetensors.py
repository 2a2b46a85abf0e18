"""safetensors: 8 bytes of header length, a JSON header, then the tensors without gaps.

The rules are those of the reference reader (safetensors/src/tensor.rs); where it accepts what
the specification forbids (duplicate keys, leading spaces, unknown fields) this one refuses. Types
that newer writers have, complex ones among them, are read though it may not know them yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted
from gradtool.core.locations import Extent, Source
from gradtool.core.names import NameFilter
from gradtool.core.scale_names import scales_among
from gradtool.core.sections import Sections, sections_of_flat_names
from gradtool.core.tensors import ABSENT, Placed, Skipped, TensorSpec, has_bits, skip_reason
from gradtool.errors import CorruptFileError
from gradtool.formats.dump_metadata import MODEL_ORDER, DumpMetadata, noted_part
from gradtool.formats.files._dcp_sharding import SHARDING_INFO, read_boxes
from gradtool.formats.files._safetensors_header import METADATA, Header, TensorType, read_header
from gradtool.formats.files._second_format import refuse_second_format

MAX_HEADER_BYTES: Final = 100_000_000
"""The reference reader's limit."""


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` (16 bytes or more) can be one."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def open_safetensors(source: Source, wanted: NameFilter) -> Checkpoint:
    """The catalogue of what is wanted of a safetensors file, all of which is checked.

    CorruptFileError names tensor and byte.
    """
    refuse_second_format(source)
    header = read_header(source)
    facts = _facts(source.path, header.noted)
    _refuse_lies(source.path, facts, header.types)
    fp8 = _fp8(header.types, facts)
    section_of = _sections(header, facts, fp8)
    tensors: list[TensorSpec] = []
    skipped: list[Skipped] = []
    left_out: list[str] = []
    skipped_left_out: list[str] = []
    for name, type_, begin in _named(header, facts):
        reason = skip_reason(type_.dtype)
        if not wanted(name):
            (left_out if reason is None else skipped_left_out).append(name)
        elif reason is not None:
            section = section_of(name)
            stored = _stored(source, name, type_, begin) if has_bits(type_.dtype) else None
            skipped.append(Skipped(name, type_.dtype.name, reason, section, stored=stored))
        else:
            tensors.append(_stored(source, name, type_, begin, section_of(name)))
    for name, dtype_name in facts.absent.items():
        if wanted(name):
            skipped.append(Skipped(name, dtype_name, ABSENT, section_of(name)))
        else:
            skipped_left_out.append(name)
    position = _positions(facts, header.types)
    placed = _placed(source.path, header, facts)
    if position:
        tensors.sort(key=lambda spec: position[spec.name])
        skipped.sort(key=lambda item: position[item.name])
    return Checkpoint(
        path=source.path,
        format="safetensors",
        files=(source.file,),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        section_kinds=section_of.kinds,
        is_dump=facts.dump is not None,
        loss_scale=float(facts.loss_scale),
        step=facts.step,
        writer=_writer(facts),
        ranks=_split_over(facts),
        placed=placed,
        part_notes=_part_notes(facts, placed),
        notes=_notes(facts),
        in_model_order=bool(position),
        left_out=tuple(left_out),
        skipped_left_out=tuple(skipped_left_out),
        fp8=fp8,
    )


def _fp8(types: Mapping[str, TensorType], facts: DumpMetadata) -> frozenset[str]:
    if facts.dump:  # of gradients, whatever the parts of a model are called
        return frozenset()
    return frozenset(name for name, type_ in types.items() if type_.dtype.is_fp8)


def _sections(header: Header, facts: DumpMetadata, fp8: frozenset[str]) -> Sections:
    """The sections of the file's names."""
    if facts.dump:
        return Sections()
    sections = sections_of_flat_names({**header.types, **facts.aliases, **facts.absent})
    return sections.with_others(scales_among(header.types, fp8))


def _stored(
    source: Source, name: str, type_: TensorType, begin: int, section: str = ""
) -> TensorSpec:
    """A tensor whose bytes begin at a byte of the file."""
    extents = (Extent(source.file, begin, type_.nbytes),) if type_.nbytes else ()
    return TensorSpec(name, type_.dtype, type_.shape, extents, section=section)


def _named(header: Header, facts: DumpMetadata) -> Iterator[tuple[str, TensorType, int]]:
    """Each name that a tensor has, the tensor's type, and the file's byte at which it begins."""
    aliases: dict[str, list[str]] = {}
    for alias, first in facts.aliases.items():
        aliases.setdefault(first, []).append(alias)
    begin = header.data_start
    for name, type_ in header.types.items():
        yield name, type_, begin
        for alias in aliases.get(name, ()):
            yield alias, type_, begin
        begin += type_.nbytes


def _refuse_lies(path: str, facts: DumpMetadata, types: Mapping[str, TensorType]) -> None:
    """Raise CorruptFileError for notes of names that contradict the header."""

    def lie(name: str, problem: str) -> CorruptFileError:
        return CorruptFileError(path, f"{problem}, which contradicts the header", tensor=name)

    for name in (*facts.shards, *facts.sparse):
        if name not in types and name not in facts.aliases:
            raise lie(name, "is noted to be a part of a tensor, or sparse")
    for alias, first in facts.aliases.items():
        is_measured = first in types and types[first].dtype.is_measured
        if not is_measured or alias in types:
            raise lie(alias, f"is noted to be {first!r}")
    for name in facts.absent:
        if name in types or name in facts.aliases:
            raise lie(name, "is noted to have no gradient")


def _positions(facts: DumpMetadata, types: Mapping[str, TensorType]) -> dict[str, int]:
    """The place of each name in the model's order, if it is noted and of just these names.

    Whoever writes other tensors may have kept the notes of the file that they come from.
    """
    listed = len(types) + len(facts.aliases) + len(facts.absent)
    if facts.order != MODEL_ORDER or len(facts.names) != listed:
        return {}
    position = {name: at for at, name in enumerate(facts.names)}
    is_whole = all(name in position for name in chain(types, facts.aliases, facts.absent))
    return position if is_whole else {}


def _facts(path: str, metadata: dict[str, str]) -> DumpMetadata:
    """What gradtool noted when it wrote the file, if it did."""
    try:
        return DumpMetadata.read(metadata)
    except ValueError as error:
        raise CorruptFileError(path, f"{error} in {METADATA} is not what gradtool writes") from None


def _placed(path: str, header: Header, facts: DumpMetadata) -> dict[str, Placed]:
    """Where in larger tensors those of the file belong, if torch or gradtool noted it."""
    text = header.noted.get(SHARDING_INFO)
    if text is not None:
        return read_boxes(text, path, {name: type_.shape for name, type_ in header.types.items()})
    parts = ((name, noted_part(shard)) for name, shard in facts.shards.items())
    return {name: placed for name, placed in parts if placed is not None}


def _writer(facts: DumpMetadata) -> tuple[int, int] | None:
    if facts.rank is None or facts.world_size is None:
        return None
    return facts.rank, facts.world_size


def _split_over(facts: DumpMetadata) -> frozenset[tuple[int, int]]:
    """The file's rank and their number, if gradients in it are parts of whole ones."""
    if not facts.shards or facts.rank is None or facts.world_size is None:
        return frozenset()
    return frozenset({(facts.rank, facts.world_size)})


def _part_notes(facts: DumpMetadata, placed: Mapping[str, Placed]) -> tuple[str, ...]:
    """What is said of tensors of which the file holds a part."""
    if facts.shards:
        where = f"rank {facts.rank} of {facts.world_size}"
        parts = counted(len(facts.shards), "tensor is", "tensors are")
        return (f"{parts} the part of {where}",)
    if placed:
        parts = counted(len(placed), "tensor is", "tensors are")
        return (f"{parts} measured by the part that this file holds",)
    return ()


def _notes(facts: DumpMetadata) -> tuple[str, ...]:
    notes = []
    if facts.sparse:
        sparse = counted(len(facts.sparse), "sparse tensor is", "sparse tensors are")
        notes.append(f"{sparse} measured by the stored values")
    if facts.loss_scale != 1.0:
        notes.append(f"the file says that gradients are multiplied by {facts.loss_scale:g}")
    return tuple(notes)
