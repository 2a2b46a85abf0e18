"""GGUF: what llama.cpp reads, and MLX saves on demand: metadata, descriptions of tensors, data.

What is quantised is listed and not measured. Of an imatrix file, sums over activations, nothing is
a gradient or a weight.
"""

from __future__ import annotations

from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted
from gradtool.core.locations import Extent, Source
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.core.sections import MODEL, OTHER, Sections, sections_of_flat_names
from gradtool.core.tensors import SectionKind, Skipped, TensorSpec, has_bits, skip_reason
from gradtool.formats.gguf.header import MAGIC, TYPE, Entry, Header, read_header

_QUANTISED: Final = "quantized"
_UNSURE_ORDER: Final = "big-endian, and writers disagree on its bytes"
"""Of BF16: gguf-py's writer leaves bytes as they are, its gguf_convert_endian.py swaps them."""

_SECTIONS: Final = {"model": MODEL, "adapter": MODEL, "mmproj": MODEL, "imatrix": OTHER}
"""By `general.type`: what converters note, and no writer by itself."""

_GGML_DIMENSIONS: Final = 4
_GGML_NAME_NBYTES: Final = 63


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is one."""
    return head.startswith(MAGIC)


def open_gguf(source: Source) -> Checkpoint:
    """The catalogue of a GGUF file; errors as of `read_header`."""
    header = read_header(source)
    names = [entry.name for entry in header.tensors]
    section_of, kinds = _sections(header, names)
    tensors: list[TensorSpec] = []
    skipped: list[Skipped] = []
    for entry in header.tensors:
        found = _catalogued(source, entry, header.big_endian, section_of(entry.name))
        if isinstance(found, TensorSpec):
            tensors.append(found)
        else:
            skipped.append(found)
    return Checkpoint(
        path=source.path,
        format="gguf",
        files=(source.file,),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        section_kinds=kinds,
        notes=_notes(header),
        in_model_order=header.is_ordered and may_be_the_model_s(tensors),
    )


def _sections(header: Header, names: list[str]) -> tuple[Sections, dict[str, SectionKind]]:
    """The sections of tensors, and their kinds; a model that is to be run needs no section."""
    noted = _SECTIONS.get(header.texts.get(TYPE, MODEL if header.has_vocabulary else ""))
    if noted == OTHER:
        return Sections(dict.fromkeys(names, OTHER)), {}
    found = sections_of_flat_names(names)
    if noted == MODEL and not found.kinds:
        return found, {"": "weights"}
    return found, found.kinds


def _catalogued(
    source: Source, entry: Entry, big_endian: bool, section: str
) -> TensorSpec | Skipped:
    """The catalogue's line for one tensor."""
    dtype = entry.type.dtype
    if dtype is None:
        return Skipped(entry.name, entry.type.name, _QUANTISED, section)
    if big_endian and dtype.name == "BF16":
        return Skipped(entry.name, dtype.name, _UNSURE_ORDER, section)
    spec = TensorSpec(
        entry.name,
        dtype,
        entry.shape,
        (Extent(source.file, entry.offset, entry.nbytes),) if entry.nbytes else (),
        big_endian=big_endian,
        section=section,
    )
    reason = skip_reason(dtype)
    if reason is None:
        return spec
    return Skipped(
        entry.name, dtype.name, reason, section, stored=spec if has_bits(dtype) else None
    )


def _notes(header: Header) -> tuple[str, ...]:
    """What MLX writes and ggml does not read."""
    beyond = sum(
        len(entry.shape) > _GGML_DIMENSIONS or len(entry.name.encode()) > _GGML_NAME_NBYTES
        for entry in header.tensors
    )
    if not beyond:
        return ()
    tensors = counted(beyond, "tensor has", "tensors have")
    return (f"{tensors} more dimensions or a longer name than llama.cpp reads",)
