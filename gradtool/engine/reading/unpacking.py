"""Opening what tensors are packed in: one by one where they are read, or all of a catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.locations import Location, Source
from gradtool.core.tensors import Chunk, TensorSpec, Unpacked
from gradtool.storage.archives.within import ReadAhead


def unpacked_spec(spec: TensorSpec, source: Source) -> TensorSpec:
    """The tensor with its extents, opened if it is packed; `source` is its open file."""
    if spec.packed is None:
        return spec
    return spec.packed.unpacked(spec, source, checksums=False).spec


def unpacked(checkpoint: Checkpoint) -> Checkpoint:
    """The same catalogue with all tensors opened that have elements: extents and checksums of each.

    For those who rewrite tensors, or verify all checksums. Raises InputError where a range does
    not hold what the catalogue says.
    """
    packed: dict[Location, list[tuple[int, int, TensorSpec]]] = {}
    for number, spec in enumerate(checkpoint.stored_anywhere):
        if spec.packed is not None and spec.numel:
            packed.setdefault(spec.packed.file, []).append((spec.packed.offset, number, spec))
    if not packed:
        return checkpoint
    found: dict[int, Unpacked] = {}
    for file, items in packed.items():
        with file.open() as source:
            ahead = ReadAhead(source)
            for _, number, spec in sorted(items, key=lambda item: item[:2]):
                if spec.packed is not None:
                    found[number] = spec.packed.unpacked(spec, ahead, checksums=True)
            source.check_unchanged()
    parts = iter(
        found[number].spec if number in found else spec
        for number, spec in enumerate(checkpoint.stored_anywhere)
    )
    return replace(
        checkpoint,
        tensors=tuple(_of_parts(spec, parts) for spec in checkpoint.tensors),
        replicas=tuple(
            replace(copy, stored=_of_parts(copy.stored, parts)) for copy in checkpoint.replicas
        ),
        checksums=checkpoint.checksums + tuple(c for one in found.values() for c in one.checksums),
        serialization_ids=checkpoint.serialization_ids
        + tuple(each for one in found.values() for each in one.serialization_ids),
    )


def _of_parts(spec: TensorSpec, parts: Iterator[TensorSpec]) -> TensorSpec:
    """A tensor made of the next of the parts: itself, or one for each chunk."""
    if not spec.chunks:
        return next(parts)
    return replace(spec, chunks=tuple(Chunk(chunk.box, next(parts)) for chunk in spec.chunks))


def opened(spec: TensorSpec) -> TensorSpec:
    """One tensor with what it is packed in opened. Raises InputError as `unpacked`."""
    if spec.chunks:
        chunks = tuple(Chunk(chunk.box, opened(chunk.stored)) for chunk in spec.chunks)
        return replace(spec, chunks=chunks)
    if spec.packed is None:
        return spec
    if not spec.numel:
        return replace(spec, packed=None)
    with spec.packed.file.open() as source:
        found = unpacked_spec(spec, source)
        source.check_unchanged()
    return found


def as_stored(spec: TensorSpec) -> TensorSpec:
    """The tensor in the type of the only part that there is of it: sums have a wider one."""
    parts = spec.parts
    return parts[0] if len(parts) == 1 and parts[0].dtype != spec.dtype else spec
