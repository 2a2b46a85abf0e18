"""Content that gradtool recognises and does not read, so that errors can name it."""

from __future__ import annotations

import re
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
    *(
        (0, mark, f"is compressed with {program}: unpack it first")
        for mark, program in (
            (b"\x1f\x8b", "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"BZh", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x5d\0\0", "lzma"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        )
    ),
    *(
        (0, mark, f"is {what} of before GGUF: convert it by llama.cpp's convert_llama_ggml_to_gguf")
        for mark, what in (
            (b"lmgg", "a GGML model"),
            (b"fmgg", "a GGML model (ggmf)"),
            (b"tjgg", "a GGML model (ggjt)"),
            (b"algg", "a GGML adapter (ggla)"),
        )
    ),
    (4, b"TFL3", "is a TensorFlow Lite model, a graph: save the weights that it was made of"),
    *(
        (
            0,
            bytes((0x78, level)),
            "is compressed with zlib, as joblib does it: load it, and save its arrays to a .npz",
        )
        for level in (0x01, 0x5E, 0x9C, 0xDA)
    ),
)


_PADDLE: Final = re.compile(rb"\0{16}.{4}\x08[\x00-\x20]\x10", re.DOTALL)
"""Source: `SerializeToStream` of paddle/phi/core/framework/dense_tensor_serialize.cc: a version and
levels, all zero, then the length of a message with a type and dimensions.
"""


def foreign_format(head: bytes) -> str | None:
    """What a file that starts with `head` is, in words; None where it may be a checkpoint."""
    if not head:
        return "is empty: 0 bytes"
    if _PADDLE.match(head):
        return "is a parameter of PaddlePaddle's (`.pdiparams`): save them by numpy.savez"
    for offset, mark, words in _MARKS:
        if head.startswith(mark, offset):
            return words
    if head[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is a web page: the download failed"
    return None
