"""A zip archive written anew: same members, names, order, dates and attributes.

Compressed bytes change length with their content, so that the central directory has to be made
anew; the standard library's writer makes it.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from gradtool.core.locations import Location, Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.storage.archives.zip import Entry, read_directory
from gradtool.storage.archives.zip_central import ZIP64, extra_fields
from gradtool.storage.sink import Sink

_ZIP64_NBYTES = 28


def repack_archive(
    file: Location, sink: Sink, pieces: Callable[[Entry], Iterator[memoryview]]
) -> None:
    """Write to an empty file the members of `file`, each with the content that `pieces` gives.

    Stored members stay stored, and the directory keeps its order; names that are not ASCII become
    UTF-8. CorruptFileError where the standard library cannot read the archive.
    """
    with file.open() as source:
        entries = read_directory(source)
        try:
            with _stream(source) as stream, zipfile.ZipFile(stream) as old:
                listed, comment = old.infolist(), old.comment
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise CorruptFileError(file.path, f"Python cannot read it: {error}") from error
        members = {info.header_offset: _like(info, file.path) for info in listed}
        with sink.stream() as written, zipfile.ZipFile(written, "w") as new:
            new.comment = comment
            for entry in entries:
                member = members[entry.header_offset]
                attributes = member.external_attr
                # As NumPy does: a member's length is not known when its header is written.
                with new.open(member, "w", force_zip64=True) as packed:
                    for piece in pieces(entry):
                        packed.write(piece)
                member.external_attr = attributes  # `open` sets some where there are none
            new.filelist[:] = [members[info.header_offset] for info in listed]
        source.check_unchanged()


def _stream(source: Source) -> BinaryIO:
    """The source as a Python file, which has a position and is closed by itself."""
    return os.fdopen(os.dup(source.fileno()), "rb")


def _like(old: zipfile.ZipInfo, path: str) -> zipfile.ZipInfo:
    """A new member with the name, date and attributes of an old one; sizes are left out."""
    new = zipfile.ZipInfo(old.filename, old.date_time)
    new.compress_type = old.compress_type
    new.create_system = old.create_system
    new.external_attr = old.external_attr
    new.internal_attr = old.internal_attr
    new.comment = old.comment
    new.extra = _without_sizes(old.extra)
    if len(new.extra) + _ZIP64_NBYTES > 0xFFFF:
        problem = f"{len(new.extra)} bytes of extra fields leave no room for its sizes"
        raise UnsupportedFormatError(path, problem, tensor=old.filename)
    return new


def _without_sizes(extra: bytes) -> bytes:
    """The extra fields without the zip64 one, which the writer makes anew."""
    fields = extra_fields(extra) or ()
    return b"".join(
        struct.pack("<2H", kind, len(content)) + content
        for kind, content in fields
        if kind != ZIP64
    )
