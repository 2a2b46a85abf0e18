"""Where rows are kept by default, if nobody else can have put there what is read."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from typing import Final

from gradtool.storage.links import real_path

_NAME: Final = "rows.sqlite"
_FOLDER: Final = "gradtool"
_PRIVATE: Final = 0o700


class NoStoreError(Exception):
    """No store, and why; `is_damaged` says whether something is there that is none."""

    def __init__(self, problem: str, *, is_damaged: bool = False) -> None:
        super().__init__(problem)
        self.is_damaged = is_damaged


def default_place() -> str:
    """The path of the user's store, in a folder that is made for it.

    Raises NoStoreError where the folder cannot be made, belongs to somebody else, may be entered by
    others, or is reached through a link.
    """
    folder = os.path.join(_caches(), _FOLDER)
    try:
        os.makedirs(os.path.dirname(folder), mode=_PRIVATE, exist_ok=True)
        if not os.path.lexists(folder):
            os.mkdir(folder, mode=_PRIVATE)
        status = os.lstat(folder)
        if real_path(folder) != os.path.normpath(folder):
            raise NoStoreError(f"{folder} is reached through a link")
    except OSError as error:
        raise NoStoreError(f"{folder}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise NoStoreError(f"{folder} is no directory of this user's")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise NoStoreError(f"{folder} may be entered by others: its mode is not 0700")
    return os.path.join(folder, _NAME)


def set_aside(path: str) -> str:
    """Give a damaged store of our own another name, and its journal; the name."""
    aside = f"{path}.damaged"
    for end in ("", "-journal"):
        with suppress(FileNotFoundError):
            os.replace(path + end, aside + end)
    return aside


def _caches() -> str:
    """The directory for caches, as the XDG Base Directory Specification 0.8 and macOS have it."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return named
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise NoStoreError("the user has no home directory")
    return os.path.join(home, *(["Library", "Caches"] if sys.platform == "darwin" else [".cache"]))
