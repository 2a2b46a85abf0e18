"""Tasks that read bytes again, which come right after those that read them first.

The system caches the bytes until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.reading.digests import DigestTask, digest_tasks
from gradtool.engine.reading.pairs.plan import PairTask, StreamPairTask, pair_tasks
from gradtool.engine.reading.pairs.regions import Pair

Again = PairTask | StreamPairTask | DigestTask


@dataclass(frozen=True, slots=True)
class ChecksumTask:
    """A stored checksum to verify."""

    checksum: StoredChecksum
    nbytes: int

    @property
    def end(self) -> int:
        """The byte after those that it covers."""
        return self.checksum.covers.end


Waiting = TypeVar("Waiting", ChecksumTask, PairTask, DigestTask)


class _Queue(Generic[Waiting]):
    """Tasks in the order of a file, which wait until what they read has been read."""

    def __init__(self, tasks: Iterator[Waiting]) -> None:
        self._tasks: Iterator[Waiting] = tasks
        self._next: Waiting | None = next(tasks, None)

    def until(self, end: int | None) -> Iterator[Waiting]:
        """Take those that read nothing after byte `end`; all for None."""
        while (task := self._next) is not None and (end is None or task.end <= end):
            self._next = next(self._tasks, None)
            yield task


class Followers:
    """Tasks that read bytes which others read before them, by file."""

    def __init__(
        self,
        checksums: Iterable[StoredChecksum],
        pairs: Sequence[Pair],
        digested: Sequence[TensorSpec],
    ) -> None:
        found: dict[str, list[ChecksumTask]] = {}
        for checksum in checksums:
            task = ChecksumTask(checksum, checksum.covers.nbytes)
            found.setdefault(checksum.covers.file.path, []).append(task)
        compared, compared_streams = pair_tasks(pairs)
        hashed, hashed_streams = digest_tasks(digested)
        self._checksums = {path: _Queue(iter(tasks)) for path, tasks in found.items()}
        self._compared = {path: _Queue(tasks) for path, tasks in compared.items()}
        self._hashed = {path: _Queue(tasks) for path, tasks in hashed.items()}
        self._streams: list[Again] = [*compared_streams, *hashed_streams]

    def after(self, path: str, end: int) -> Iterator[ChecksumTask | Again]:
        """Those that need no bytes of a file after `end`, up to which it has been read."""
        yield from self._until(path, end)

    def rest(self) -> Iterator[ChecksumTask | Again]:
        """All others."""
        for path in (*self._compared, *self._hashed):
            yield from self._until(path, None)
        yield from self._streams
        for path in self._checksums:
            yield from self._until(path, None)

    def _until(self, path: str, end: int | None) -> Iterator[ChecksumTask | Again]:
        """Those over bytes of a file up to `end`, and over what is compared with these."""
        yield from self._verified(path, end)
        if path in self._hashed:
            yield from self._hashed[path].until(end)
        for task in self._compared[path].until(end) if path in self._compared else ():
            yield task
            for copy, read in task.copies_read.items():
                yield from self._verified(copy, read)

    def _verified(self, path: str, end: int | None) -> Iterator[ChecksumTask]:
        if path in self._checksums:
            yield from self._checksums[path].until(end)
