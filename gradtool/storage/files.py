"""What belongs to files beside their content: owners, permissions, attributes, and disk space."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from gradtool.errors import FileAccessError
from gradtool.storage.directories import status_in

_RESERVE_NBYTES: Final = 1 << 20
_RESERVE_SHARE: Final = 128
"""Space to leave free: a megabyte, and a share of the data for what file systems note about it."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a file or directory has beside its name and content.

    Attributes:
        owner: number of the user.
        group: number of the group.
        mode: permissions.
        attributes: extended attributes by name; None for one whose value may not be read.
    """

    owner: int
    group: int
    mode: int
    attributes: Mapping[str, bytes | None]

    def give(self, descriptor: int) -> None:
        """Give them to an open file or directory, as far as the system allows it."""
        mode = self.mode
        try:
            os.fchown(descriptor, self.owner, self.group)
        except OSError:
            # A program must not run with the rights of an owner or group that it no longer has.
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, self.group)
        for name in {**self.attributes, **_attributes(descriptor)}:
            # Some only the system may give, and some it gives to any new file.
            with contextlib.suppress(OSError):
                value = self.attributes.get(name)
                if value is not None:
                    os.setxattr(descriptor, name, value)
                elif name not in self.attributes:
                    os.removexattr(descriptor, name)
        os.fchmod(descriptor, mode)


def traits_of(descriptor: int) -> Traits:
    """The traits of an open file or directory."""
    return _traits(os.fstat(descriptor), _attributes(descriptor))


def traits_in(directory: int, name: str) -> Traits | None:
    """The traits of the regular file `name` in an open directory; None if there is none."""
    status = status_in(directory, name)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    # A file that may be written but not read has attributes too.
    for access in (os.O_RDONLY, os.O_WRONLY):
        with contextlib.suppress(PermissionError):
            descriptor = os.open(name, access | flags, dir_fd=directory)
            try:
                return traits_of(descriptor)
            finally:
                os.close(descriptor)
    return _traits(status, {})


def _traits(status: os.stat_result, attributes: Mapping[str, bytes | None]) -> Traits:
    return Traits(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), attributes)


def _attributes(descriptor: int) -> dict[str, bytes | None]:
    """The extended attributes of an open file or directory; Python has them on Linux only."""
    attributes: dict[str, bytes | None] = {}
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            for name in os.listxattr(descriptor):
                attributes[name] = None
                with contextlib.suppress(OSError):
                    attributes[name] = os.getxattr(descriptor, name)
    return attributes


def require_space(shown: str, directory: int, sizes: Collection[int]) -> None:
    """FileAccessError unless the disk of an open directory has space for files of these sizes.

    The files that they replace keep their space until then. Others may take the space meanwhile,
    which shows when it is allocated.
    """
    try:
        status = os.statvfs(directory)
    except OSError as error:
        raise FileAccessError(shown, f"cannot be written: {error.strerror}") from error
    if status.f_blocks == 0:
        return  # a file system that does not tell
    block = status.f_frsize
    needed = sum(-(-size // block) * block for size in sizes)
    reserve = _RESERVE_NBYTES + needed // _RESERVE_SHARE
    free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * block
    if needed + reserve > free:
        full = os.strerror(errno.ENOSPC)
        space = f"{needed:,} bytes and a reserve of {reserve:,} are needed, {free:,} are free"
        raise FileAccessError(shown, f"cannot be written: {full}: {space}")
