"""Each of gradtool's readers alone, over any bytes: only a `GradtoolError` may come of them.

What a reader accepts is measured too. Nothing here needs torch, nor what guides a fuzzer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final, Literal

from fuzz.files.zips import DEFLATED, UTF8, Archive, Member, build
from fuzz.judging.at_once import alone
from gradtool.engine.reading.measure import measure
from gradtool.errors import GradtoolError
from gradtool.formats import open_checkpoint
from gradtool.formats.pickles.unpickle import unpickle
from gradtool.storage.archives.zip import read_directory
from gradtool.storage.reader import open_source

_IN_MEMORY: Final = "/dev/shm"  # noqa: S108 - for a directory of a name of its own
_BEFORE: Final = b"\x82\xa1a\xc7\x0f\x01\x93\x91\x01\xa7float32\xc4\x04\0\0\x80\x3f\xa1b"
_SHARD: Final = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '


@cache
def _folder() -> str:
    """A directory of this process, with a shard for an index to name."""
    kept = tempfile.TemporaryDirectory(dir=_IN_MEMORY if os.path.isdir(_IN_MEMORY) else None)
    _KEPT.append(kept)
    with open(os.path.join(kept.name, "a.safetensors"), "wb") as file:
        file.write(len(_SHARD).to_bytes(8, "little") + _SHARD + bytes(4))
    return kept.name


_KEPT: Final[list[tempfile.TemporaryDirectory[str]]] = []


def _written(content: bytes, name: str = "file") -> str:
    path = os.path.join(_folder(), name)
    with open(path, "wb") as file:
        file.write(content)
    return path


def _measured(content: bytes, name: str = "file") -> None:
    with suppress(GradtoolError):
        measure(open_checkpoint(_written(content, name)), alone())


def read_safetensors(data: bytes) -> None:
    """A header, whose length is put before it, and as much data as an even count of bytes."""
    header, _, content = data.partition(b"\0\0\0\0")
    _measured(len(header).to_bytes(8, "little") + header + content)


def read_npy(data: bytes) -> None:
    """An array behind its magic."""
    _measured(b"\x93NUMPY" + data)


def read_npz(data: bytes) -> None:
    """An archive of the arrays in between separators, of which the second one is deflated."""
    members = [
        Member(b"%d.npy" % at, b"\x93NUMPY" + part, method=DEFLATED if at == 1 else 0)
        for at, part in enumerate(data.split(b"\xff\xff\xff\xff")[:4])
    ]
    _measured(build(Archive(members)))


def read_torch(data: bytes) -> None:
    """An archive of a pickle and two storages of 16 bytes, in the byte order of its first bit."""
    order = b"big" if data[:1] > b"\x7f" else b"little"
    storage = bytes(range(16))
    records = {
        b"data.pkl": b"\x80\x02" + data[1:], b"byteorder": order, b"data/0": storage,
        b"data/1": storage, b"version": b"3\n",
    }  # fmt: skip
    members = [Member(b"archive/" + name, content, flags=UTF8) for name, content in records.items()]
    _measured(build(Archive(members)))


def read_torch_legacy(data: bytes) -> None:
    """A file of before 1.6 from its third pickle on, behind the magic number and the version."""
    _measured(bytes.fromhex("80028a0a6cfc9c46f9206aa850192e 80024de9032e") + data)


def read_torchscript(data: bytes) -> None:
    """An archive of two pickles, apart by a separator, and a storage for each."""
    module, _, constants = data.partition(b"\xff\xff\xff\xff")
    storage = bytes(range(16))
    records = {
        b"data.pkl": b"\x80\x02" + module, b"constants.pkl": b"\x80\x02" + constants,
        b"data/0": storage, b"constants/0": storage, b"code/a.py": b"?", b"version": b"3\n",
    }  # fmt: skip
    members = [Member(b"archive/" + name, content, flags=UTF8) for name, content in records.items()]
    _measured(build(Archive(members)))


def read_gguf(data: bytes) -> None:
    """A file behind its magic, of version 3 in the byte order of its first bit."""
    order: Literal["big", "little"] = "big" if data[:1] > b"\x7f" else "little"
    _measured(b"GGUF" + (3).to_bytes(4, order) + data[1:])


def read_flax_msgpack(data: bytes) -> None:
    """A document, and the same behind an array, so that it is one of Flax's whatever it holds."""
    _measured(data)
    _measured(_BEFORE + data)


def read_pickle(data: bytes) -> None:
    """A pickle of any protocol, interpreted, and as a file of its own."""
    with suppress(GradtoolError):
        unpickle(b"\x80" + data, "file")
    _measured(b"\x80" + data)


def read_zip(data: bytes) -> None:
    """A whole archive: its directory and what it is recognised as."""
    content = b"PK" + data
    with suppress(GradtoolError), open_source(_written(content)) as source:
        read_directory(source)
    _measured(content)


def read_index(data: bytes) -> None:
    """An index of shards, of which `a.safetensors` is there."""
    _measured(data, "model.safetensors.index.json")


READERS: Final[dict[str, Callable[[bytes], None]]] = {
    "safetensors": read_safetensors,
    "npy": read_npy,
    "npz": read_npz,
    "torch": read_torch,
    "torch-legacy": read_torch_legacy,
    "torchscript": read_torchscript,
    "gguf": read_gguf,
    "flax-msgpack": read_flax_msgpack,
    "pickle": read_pickle,
    "zip": read_zip,
    "index": read_index,
}
