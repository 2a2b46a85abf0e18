"""Copying all that a directory holds beside the files that are written anew."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from gradtool.core.locations import Location
from gradtool.errors import FileAccessError, FileChangedError, UsageError
from gradtool.storage.directories import opened
from gradtool.storage.files import traits_of
from gradtool.storage.leftovers import is_workspace
from gradtool.storage.links import CopySource, is_special, link_target, real_path
from gradtool.storage.sink import PIECE_NBYTES, create_sink

_DEEPEST: Final = 64
"""Levels of directories; two descriptors are open for each."""

_READ_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Companions:
    """All that a directory holds beside the files that are written anew, to be copied along.

    The directory may be another user's, who put links in it that lead out of it, and who changes it
    at any moment while somebody with more rights copies it. So:

    - The files of the checkpoint, tensors and index, may be links to anywhere: they were asked for,
      and are read in any case. Other links to them are followed too.
    - A link becomes a file if its target is a regular file in the directory, or in the `blobs` of
      the Hugging Face cache of which the directory is a snapshot.
    - A link to a regular file elsewhere is refused; with `follow_links` it becomes a file.
    - A link to a directory, to anything in /proc or /sys, to a device, pipe or socket is refused.
    - A link to nothing stays a link if its target would lie in the directory: editors leave such
      links, and the copied one stays within the copy. Any other is refused: it would lead out of
      the copy once somebody creates its target.

    Every entry is opened in its own directory, and never through a link. The entry that is opened
    must be the one that was looked at.
    """

    def __init__(
        self,
        directory: str,
        checkpoint: Collection[Location],
        *,
        base: str,
        chosen: Collection[str] | None = None,
        follow_links: bool = False,
    ) -> None:
        """`base` is what the directory is called in the paths of the files of the checkpoint.

        Of its entries, and of what is below them, only those are copied that are `chosen`, or lead
        to such; None for all.
        """
        with reading(directory):
            self.path = real_path(directory)
            self._status = os.stat(self.path)
        self.name = os.path.basename(self.path)
        self._base = base
        self._chosen = None if chosen is None else frozenset(chosen)
        self._leading = {above for one in chosen or () for above in _above(one)}
        self.checkpoint = {self.name_of(file): file for file in checkpoint}
        self.follow_links = follow_links

    def includes(self, path: str) -> bool:
        """Whether what is at a path in the directory is copied, or leads to what is."""
        if self._chosen is None or path in self._leading or path in self._chosen:
            return True
        return not self._chosen.isdisjoint(_above(path))

    def name_of(self, file: Location) -> str:
        """The path of a file of the checkpoint within the directory."""
        return os.path.relpath(file.path, self._base)

    def sizes(self, written: Collection[Location]) -> list[int]:
        """The size of each file to copy, while the files `written` are written anew.

        Raises:
            UsageError: a link is refused.
            FileAccessError: an entry cannot be read, or is neither file, directory nor link.
        """
        with self._opened() as root:
            walk = _Walk(self, root, written, None)
            walk.copy("", root, None)
        return walk.sizes

    def copy(self, new: int, written: Mapping[str, Location]) -> None:
        """Copy to the open directory `new`, which has the files `written`; raises as `sizes`.

        Files keep owner, permissions, times and extended attributes. Other names of a file that is
        written anew become names of the new file.
        """
        with self._opened() as root:
            _Walk(self, root, written.values(), new).copy("", root, new)

    def finish(self, new: int) -> None:
        """Give `new` owner, permissions and attributes of the directory, and sync it to disk.

        A part of a directory is another one: who may write in /tmp may not in that.
        """
        with self._opened() as root:
            if self._chosen is None:
                traits_of(root).give(new)
        os.fsync(new)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with ExitStack() as stack:
            with reading(self.path):
                root = stack.enter_context(opened(self.path))
            if not os.path.samestat(os.fstat(root), self._status):
                problem = "cannot be copied along: it was replaced meanwhile"
                raise FileChangedError(self.path, problem, hint="run again")
            yield root


class _Walk:
    """A walk over the tree that checks all entries and, unless `new` is None, copies them."""

    def __init__(
        self, companions: Companions, root: int, written: Collection[Location], new: int | None
    ) -> None:
        self._companions = companions
        self._root = root
        self._new = new
        self._checkpoint = {file.identity for file in companions.checkpoint.values()}
        self._written = {file.identity: companions.name_of(file) for file in written}
        self._names = frozenset(map(companions.name_of, written))  # a file may have several
        self.sizes: list[int] = []

    def copy(self, path: str, old: int, new: int | None) -> None:
        """Copy to `new` all entries of the open directory `old`, which is at `path` in the tree."""
        if path.count(os.sep) >= _DEEPEST:
            problem = f"cannot be copied along: nests more than {_DEEPEST} directories deep"
            raise FileAccessError(self._shown(path), problem)
        with reading(self._shown(path)):
            names = sorted(os.listdir(old))
        for name in names:
            inner = os.path.join(path, name)
            is_own = inner in self._names or (not path and is_workspace(name))
            if not is_own and self._companions.includes(inner):
                self._copy_entry(inner, name, old, new)

    def _copy_entry(self, path: str, name: str, old: int, new: int | None) -> None:
        with reading(self._shown(path)):
            status = os.stat(name, dir_fd=old, follow_symlinks=False)
        if path in self._companions.checkpoint:
            self._copy_unchanged(path, self._companions.checkpoint[path], new)
        elif stat.S_ISLNK(status.st_mode):
            self._copy_link(path, name, old, new)
        elif stat.S_ISDIR(status.st_mode):
            self._copy_directory(path, name, old, status, new)
        else:
            self._copy_file(path, CopySource(old, name, status, is_inside=True), status, new)

    def _copy_directory(
        self, path: str, name: str, old: int, status: os.stat_result, new: int | None
    ) -> None:
        with ExitStack() as stack:
            with reading(self._shown(path)):
                inner = stack.enter_context(opened(name, dir_fd=old))
            self._refuse_replaced(path, inner, status)
            if new is None:
                self.copy(path, inner, None)
                return
            with suppress(FileExistsError):  # files in it were written anew
                os.mkdir(name, 0o700, dir_fd=new)
            made = stack.enter_context(opened(name, dir_fd=new))
            self.copy(path, inner, made)
            traits_of(inner).give(made)
            os.fsync(made)

    def _copy_link(self, path: str, name: str, old: int, new: int | None) -> None:
        shown = self._shown(path)
        with ExitStack() as stack:
            with reading(shown):
                text, real = os.readlink(name, dir_fd=old), real_path(shown)
                target = link_target(real, self._companions.path, self._root, stack)
            if target.status is not None:
                self._refuse_link(path, text, real, target, target.status)
                self._copy_file(path, target, target.status, new)
            elif not target.is_inside:
                raise UsageError(f"{shown}: a link to {real}, where nothing is", hint="remove it")
            elif new is not None:
                os.symlink(os.path.relpath(real, os.path.dirname(shown)), name, dir_fd=new)

    def _refuse_link(
        self, path: str, text: str, real: str, target: CopySource, status: os.stat_result
    ) -> None:
        """Raise UsageError for a link that is not followed."""
        shown, hint = self._shown(path), "remove it"
        if (status.st_dev, status.st_ino) in self._checkpoint:
            return
        if stat.S_ISDIR(status.st_mode):
            kind = "a directory"
        elif not stat.S_ISREG(status.st_mode):
            kind = "which is no regular file"
        elif is_special(os.path.join(os.path.dirname(shown), text), real, status.st_dev):
            kind = "which is no file on a disk"
        elif target.is_inside or self._companions.follow_links:
            return
        else:
            kind = f"outside of {self._companions.path}"
            hint = "`follow_links=True` copies it as a file"
        raise UsageError(f"{shown}: a link to {real}, {kind}", hint=hint)

    def _copy_file(
        self, path: str, source: CopySource, status: os.stat_result, new: int | None
    ) -> None:
        """Copy a file to `path`; if it is written anew, give the new file this name as well."""
        key = status.st_dev, status.st_ino
        if key in self._written:
            if new is not None:
                written, name = self._written[key], os.path.basename(path)
                os.link(written, name, src_dir_fd=self._new, dst_dir_fd=new, follow_symlinks=False)
        elif stat.S_ISREG(status.st_mode):
            self.sizes.append(status.st_size)
            with reading(self._shown(path)):
                descriptor = os.open(source.name, _READ_FLAGS, dir_fd=source.directory)
            try:
                self._refuse_replaced(path, descriptor, status)
                self._copy_content(path, descriptor, status.st_size, new)
            finally:
                os.close(descriptor)
        else:
            raise FileAccessError(self._shown(path), "cannot be copied along: no regular file")

    def _copy_unchanged(self, path: str, file: Location, new: int | None) -> None:
        """Copy a file of the checkpoint that does not change; it may be a link to anywhere."""
        self.sizes.append(file.size)
        with file.open() as source:
            self._copy_content(path, source.fileno(), file.size, new)
            source.check_unchanged()

    def _copy_content(self, path: str, old: int, nbytes: int, new: int | None) -> None:
        """Copy `nbytes` bytes, the size when the file was looked at: logs may grow without end."""
        if new is None:
            return
        with create_sink(os.path.basename(path), dir_fd=new) as sink:
            done = 0
            for piece in self._pieces(path, old, nbytes):
                sink.write(done, piece)
                done += len(piece)
            status = os.fstat(old)
            os.utime(sink.descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
            traits_of(old).give(sink.descriptor)
            sink.sync()

    def _pieces(self, path: str, old: int, nbytes: int) -> Iterator[memoryview]:
        """At most `nbytes` bytes of an open file, in pieces; fewer if it ends before."""
        buffer = memoryview(bytearray(PIECE_NBYTES))
        while nbytes:
            with reading(self._shown(path)):
                count = os.readv(old, [buffer[:nbytes]])
            if count == 0:
                return
            yield buffer[:count]
            nbytes -= count

    def _refuse_replaced(self, path: str, descriptor: int, status: os.stat_result) -> None:
        """Raise FileChangedError unless what was opened has the `status` that was looked at."""
        if not os.path.samestat(os.fstat(descriptor), status):
            problem = "cannot be copied along: it was replaced meanwhile"
            raise FileChangedError(self._shown(path), problem, hint="run again")

    def _shown(self, path: str) -> str:
        return os.path.join(self._companions.path, path)


def _above(path: str) -> Iterator[str]:
    """The directories that lead to a path, the nearest first."""
    while path := os.path.dirname(path):
        yield path


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an OSError that is raised inside into a FileAccessError about `path`."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be copied along: {error.strerror or error}"
        raise FileAccessError(path, problem) from error
