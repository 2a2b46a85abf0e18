"""Bytes that are no plain range of a file, by the name of what opens them.

An opener is called with a stream's arguments and `max_bytes`; it yields the bytes in order, in
pieces of `max_bytes`, only the last one shorter. A piece is valid until the next is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gradtool.core.tensors import Stream
from gradtool.storage.archives.inflate import inflate


def in_memory(data: bytes, *, max_bytes: int) -> Iterator[memoryview]:
    """The pieces of what was decoded along with a header."""
    view = memoryview(data)
    for start in range(0, len(view), max_bytes):
        yield view[start : start + max_bytes]


OPENERS: Final[dict[str, Callable[..., Iterator[memoryview]]]] = {
    "in_memory": in_memory,
    "inflate": inflate,
}


def open_stream(stream: Stream, max_bytes: int) -> Iterator[memoryview]:
    """The bytes of `stream`, in pieces of `max_bytes`."""
    return OPENERS[stream.opener](*stream.args, max_bytes=max_bytes)
