"""Pickles as torch.save writes them, put together by hand from their opcodes."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

PROTO = b"\x80\x02"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, qualname: str) -> bytes:
    return f"c{module}\n{qualname}\n".encode()


def collected(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def storage(
    numel: bytes, class_name: str = "FloatStorage", key: str = "0", module: str = "torch"
) -> bytes:
    parts = (text("storage"), name(module, class_name), text(key), text("cpu"), numel)
    return collected(*parts) + b"Q"


def tensor(
    *,
    stored: bytes | None = None,
    offset: bytes = integer(0),
    shape: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
) -> bytes:
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + collected(
            storage(integer(4)) if stored is None else stored,
            offset,
            collected(*map(integer, shape)),
            collected(*map(integer, strides)),
            b"\x89",
            b"N",
        )
        + b"R"
    )


def entry(key: bytes, value: bytes) -> bytes:
    return PROTO + b"}" + key + value + b"s."


def named(value: bytes) -> bytes:
    return entry(text("w"), value)


def archive(path: Path, pickle: bytes, records: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("r/data.pkl", pickle)
        for key, data in records.items():
            target.writestr(f"r/data/{key}", data)
    return path


def number(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def mapped(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def called(function: str, *args: bytes, by: bytes = b"R") -> bytes:
    """`function(*args)`; by NEWOBJ, if that is what `by` is."""
    module, _, qualname = function.rpartition(".")
    return name(module, qualname) + collected(*args) + by
