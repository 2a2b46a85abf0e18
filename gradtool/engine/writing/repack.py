"""Rewriting an archive of deflated arrays member by member: compressed bytes change length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gradtool.core.clipping import Transform
from gradtool.core.locations import Location
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import BLOCK_ELEMENTS, Backend
from gradtool.engine.overlaps.views import Layout
from gradtool.engine.schedule import Runner
from gradtool.engine.writing.units import coefs_in_order
from gradtool.storage.archives.inflate import Inflated, inflate, inflate_start
from gradtool.storage.archives.repack import repack_archive
from gradtool.storage.archives.zip import Entry
from gradtool.storage.sink import Sink

_COPIED_NBYTES = 1 << 20


def repack(
    file: Location,
    sink: Sink,
    specs: Sequence[TensorSpec],
    transforms: Mapping[str, Transform],
    runner: Runner,
) -> None:
    """Write to a new file the archive `file` with `specs` transformed.

    Each spec has elements, which are the end of its member; specs of other files are left out.
    """
    changed = {_member_end(spec): spec for spec in specs if _file_of(spec) == file}

    def pieces(entry: Entry) -> Iterator[memoryview]:
        spec = changed.get(entry.offset + entry.compressed_nbytes)
        content = (
            inflate(file, entry, 0, max_bytes=_COPIED_NBYTES)
            if spec is None
            else _transformed(file, entry, spec, transforms[spec.name], runner.backend)
        )
        done = 0
        for piece in content:
            yield piece
            before, done = done, done + len(piece)
            share = entry.compressed_nbytes / entry.nbytes
            runner.progress.advance(int(done * share) - int(before * share))

    repack_archive(file, sink, pieces)


def _file_of(spec: TensorSpec) -> object:
    return spec.stream.file if isinstance(spec.stream, Inflated) else spec.extents[0].file


def _member_end(spec: TensorSpec) -> int:
    """The byte after the tensor's member, by which the member is recognised."""
    if not isinstance(spec.stream, Inflated):
        return spec.extents[0].end
    entry = spec.stream.entry
    return entry.offset + entry.compressed_nbytes


def _transformed(
    file: Location, entry: Entry, spec: TensorSpec, transform: Transform, backend: Backend
) -> Iterator[memoryview]:
    """The uncompressed bytes of a member: its header as it was, its elements transformed."""
    header = entry.nbytes - spec.nbytes
    with file.open() as source:
        yield memoryview(inflate_start(source, entry, header))
    layout = None if spec.strides is None else Layout(spec.shape, spec.strides)
    first, units = 0, transform.units
    for piece in inflate(file, entry, header, max_bytes=BLOCK_ELEMENTS * spec.dtype.itemsize):
        raw = np.frombuffer(piece, np.uint8)
        count = len(raw) // spec.dtype.itemsize
        coefs = None if units is None else coefs_in_order(units, layout, first, count)
        backend.apply(raw, spec.dtype, transform, big_endian=spec.big_endian, coefs=coefs)
        first += count
        yield piece
