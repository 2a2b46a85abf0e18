"""Files of other programs, which gradtool names and does not read."""

from __future__ import annotations

from collections.abc import Sequence

from gradtool.core.locations import Source
from gradtool.formats.foreign.archives import archive_in
from gradtool.formats.foreign.protobuf import model_in
from gradtool.formats.foreign.texts import text_in
from gradtool.formats.foreign.unmarked import unmarked_in
from gradtool.storage.archives.zip import Entry


def foreign_content(source: Source, head: bytes, entries: Sequence[Entry]) -> str | None:
    """What a file that starts with `head` is, in words with what to do; None where it is unknown.

    `entries` are those of a zip archive.
    """
    return (
        archive_in(entries)
        or model_in(source, head)
        or text_in(source, head)
        or unmarked_in(source, head)
    )
