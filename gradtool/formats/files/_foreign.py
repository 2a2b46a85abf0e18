"""Content that gradtool recognises and does not read, so that errors can name it."""

from __future__ import annotations

from typing import Final

_MARKS: Final = (
    (
        0,
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    (257, b"ustar", "is a tar archive: unpack it, or save it again with a current torch"),
    (0, b"\x89HDF\r\n\x1a\n", "is an HDF5 file, which gradtool does not read"),
    (0, b"SQLite format 3\0", "is a SQLite file: `gradtool trend` reads a Recorder's, NAME.rows"),
    (0, b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first"),
    *(
        (
            0,
            bytes((0x78, level)),
            "is compressed with zlib, as joblib does it: load it, and save its arrays to a .npz",
        )
        for level in (0x01, 0x9C, 0xDA)
    ),
)


def foreign_format(head: bytes) -> str | None:
    """What a file that starts with `head` is, in words; None where it may be a checkpoint."""
    if not head:
        return "is empty: 0 bytes"
    for offset, mark, words in _MARKS:
        if head.startswith(mark, offset):
            return words
    if head[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is a web page: the download failed"
    return None
