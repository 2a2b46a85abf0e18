"""Rewriting files with some of their tensors transformed; all other bytes stay what they were."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.clip.plan import ClipPlan, transform_conflict
from gradtool.core.clipping import Transform
from gradtool.core.locations import Location
from gradtool.core.tensors import SerializationId, StoredChecksum, TensorSpec
from gradtool.engine.overlaps.sharing import Overlaps, summed_up
from gradtool.engine.reading.tasks import verify
from gradtool.engine.schedule import Runner
from gradtool.engine.writing.patch import ChecksumPart, run_patch
from gradtool.engine.writing.patch_plan import (
    Region,
    changed_regions,
    patch_tasks,
    renewed_checksums,
)
from gradtool.engine.writing.repack import repack
from gradtool.errors import UnsupportedFormatError
from gradtool.storage.archives.crc import combine_crc32, serialization_digits
from gradtool.storage.archives.inflate import Inflated
from gradtool.storage.elements.summed import SummedValues
from gradtool.storage.sink import Sink


@dataclass(frozen=True, slots=True)
class Rewrite:
    """How the files of a checkpoint are to be rewritten.

    Attributes:
        checkpoint: the whole catalogue.
        transforms: those of the tensors that change, by name.
        regions: the byte ranges that change, by file.
        repacked: the archives in which tensors that change are deflated.
        checksums: all checksums of each file.
        serialization_ids: all serialization ids of each file.
    """

    checkpoint: Checkpoint
    transforms: Mapping[str, Transform]
    regions: Mapping[Location, Sequence[Region]]
    repacked: frozenset[Location]
    checksums: Mapping[Location, Sequence[StoredChecksum]]
    serialization_ids: Mapping[Location, Sequence[SerializationId]]

    @property
    def changed(self) -> tuple[Location, ...]:
        """The files that change."""
        files = self.checkpoint.files
        return tuple(file for file in files if file in self.regions or file in self.repacked)


def plan_rewrite(checkpoint: Checkpoint, plan: ClipPlan, overlaps: Overlaps) -> Rewrite:
    """How to rewrite the files so that their tensors change as in `plan`; nothing is written yet.

    Raises:
        UsageError: two tensors with different transforms name the same element.
        UnsupportedFormatError: a tensor that changes is no byte range, and no member to repack.
    """
    repacked: set[Location] = set()
    for spec in checkpoint.stored_anywhere:
        if spec.stream is None or spec.name not in plan.changed:
            continue
        if not isinstance(spec.stream, Inflated):
            raise _unwritable(checkpoint.path, spec)
        repacked.add(spec.stream.file)
    _refuse_skipped(checkpoint, plan.transforms, overlaps)
    checksums: dict[Location, list[StoredChecksum]] = {}
    for checksum in checkpoint.checksums:
        checksums.setdefault(checksum.covers.file, []).append(checksum)
    ids: dict[Location, list[SerializationId]] = {}
    for one in checkpoint.serialization_ids:
        ids.setdefault(one.digits.file, []).append(one)
    return Rewrite(
        checkpoint=checkpoint,
        transforms=plan.transforms,
        regions=changed_regions(checkpoint.stored_anywhere, plan.transforms, overlaps),
        repacked=frozenset(repacked),
        checksums=checksums,
        serialization_ids=ids,
    )


def _unwritable(path: str, spec: TensorSpec) -> UnsupportedFormatError:
    if isinstance(spec.stream, SummedValues):
        problem = "is sparse and not coalesced, which gradtool measures and does not write"
        hint = "save its coalesce(), or leave it out with `exclude`"
    else:
        problem = "is stored as text inside the pickle, where gradtool reads and does not write"
        hint = "save it as a tensor, or with pickle protocol 3 or later"
    return UnsupportedFormatError(path, problem, tensor=spec.name, hint=hint)


def _refuse_skipped(
    checkpoint: Checkpoint, transforms: Mapping[str, Transform], overlaps: Overlaps
) -> None:
    """Raise UsageError if a skipped tensor shares bytes with one that changes."""
    skipped = [item for item in checkpoint.skipped if item.extents]
    skipped += (item for item in summed_up(checkpoint) if item.name not in transforms)
    changed = [spec for spec in checkpoint.stored_anywhere if skipped and spec.name in transforms]
    for linked in overlaps.among([*skipped, *changed]):
        if linked[0] < len(skipped) <= linked[-1]:
            names = (skipped[linked[0]].name, changed[linked[-1] - len(skipped)].name)
            raise transform_conflict(checkpoint.path, names)


def rewrite_file(rewrite: Rewrite, file: Location, sink: Sink, runner: Runner) -> None:
    """Write the new version of `file` to `sink`; a file that does not change is copied.

    Raises:
        CorruptFileError: a checksum over bytes that change does not fit the bytes in the file.
        FileChangedError: the file is not the one that was catalogued.
    """
    if file in rewrite.repacked:
        stored = (spec for spec in rewrite.checkpoint.stored_anywhere if spec.nbytes)
        specs = [spec for spec in stored if spec.name in rewrite.transforms]
        repack(file, sink, specs, rewrite.transforms, runner)
        return
    sink.allocate(file.size)
    regions = rewrite.regions.get(file, ())
    all_checksums = rewrite.checksums.get(file, ())
    checksums = renewed_checksums(all_checksums, regions)
    renewal = _Renewal(checksums)
    run = partial(run_patch, sink=sink, backend=runner.backend)
    # Closed before the sink is, to which tasks write.
    with closing(runner.results(patch_tasks(file, regions, checksums), run)) as patched:
        for parts in patched:
            renewal.add(parts)
    if not checksums:
        return
    renewal.write(sink)
    over_ids = {checksum.covers.end: checksum for checksum in all_checksums}
    for serialization_id in rewrite.serialization_ids.get(file, ()):
        over_id = over_ids.get(serialization_id.digits.end)
        _renew_id(serialization_id, renewal.crc32_of, over_id, sink)


class _Renewal:
    """The new checksums of a file, put together from those of parts in ascending order."""

    def __init__(self, checksums: Sequence[StoredChecksum]) -> None:
        self._checksums = checksums
        self._last = ChecksumPart(-1, 0, 0, 0)
        self._places: list[tuple[int, int]] = []
        self.crc32_of: dict[str, int] = {}

    def add(self, parts: Iterable[ChecksumPart]) -> None:
        """Add the next parts; CorruptFileError where an old checksum was wrong."""
        for part in parts:
            whole, last = part, self._last
            if part.checksum == last.checksum:
                whole = ChecksumPart(
                    part.checksum,
                    last.nbytes + part.nbytes,
                    combine_crc32(last.old, part.old, part.nbytes),
                    combine_crc32(last.new, part.new, part.nbytes),
                )
            self._last = whole
            checksum = self._checksums[part.checksum]
            if whole.nbytes == checksum.covers.nbytes:
                self._note(checksum, whole)

    def _note(self, checksum: StoredChecksum, whole: ChecksumPart) -> None:
        """Verify the old checksum, and note the new one unless the file has none to renew."""
        verify(checksum, whole.old)
        if whole.old != checksum.crc32:
            return
        self.crc32_of[checksum.record] = whole.new
        self._places.extend((place, whole.new) for place in checksum.places)

    def write(self, sink: Sink) -> None:
        """Write the new checksums over the old ones."""
        for place, crc32 in self._places:
            _write_crc32(sink, place, crc32)


def _renew_id(
    serialization_id: SerializationId,
    crc32_of: Mapping[str, int],
    record: StoredChecksum | None,
    sink: Sink,
) -> None:
    """Write the id of the new checksums, unless none changed or the old id was not of the old ones.

    `record` is the checksum over the id's record, of which the digits are the end.
    """
    digits, old_crc32_of = serialization_id.digits, serialization_id.crc32_of
    if crc32_of.keys().isdisjoint(old_crc32_of):
        return
    covers = record.covers if record else digits
    with digits.file.open() as source:
        old = source.read(covers.offset, covers.nbytes)
    if record is not None:
        verify(record, zlib.crc32(old))
    if not old.endswith(serialization_digits(old_crc32_of.values())):
        return
    renewed = serialization_digits(
        crc32_of.get(name, crc32) for name, crc32 in old_crc32_of.items()
    )
    sink.write(digits.offset, memoryview(renewed))
    for place in record.places if record and record.crc32 else ():
        _write_crc32(sink, place, zlib.crc32(old[: -digits.nbytes] + renewed))


def _write_crc32(sink: Sink, place: int, crc32: int) -> None:
    sink.write(place, memoryview(crc32.to_bytes(4, "little")))
