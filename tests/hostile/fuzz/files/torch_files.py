"""A file of `torch.save`, taken apart into its pickle's graph, its records and its archive."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fuzz.files.pickles import (
    Node,
    call,
    constant,
    emit,
    is_call,
    name,
    nodes,
    parse,
    plain,
    sequence,
)
from fuzz.files.zips import Archive, Member, build
from fuzz.files.zips import parse as parse_zip

REBUILDS: Final = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")

SIZES: Final = {
    "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.DoubleStorage": 8, "torch.ComplexFloatStorage": 8, "torch.ComplexDoubleStorage": 16,
    "torch.IntStorage": 4, "torch.LongStorage": 8, "torch.ShortStorage": 2, "torch.ByteStorage": 1,
    "torch.CharStorage": 1, "torch.BoolStorage": 1, "torch.storage.UntypedStorage": 1,
    "torch.QInt8Storage": 1, "torch.QUInt8Storage": 1, "torch.QInt32Storage": 4,
    "torch.QUInt4x2Storage": 1, "torch.QUInt2x4Storage": 1,
}  # fmt: skip
"""Bytes of an element, by storage class."""

ITEMSIZES: Final = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "complex64": 8, "complex128": 16,
    "complex32": 4, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1, "int8": 1, "uint8": 1,
    "int16": 2, "int32": 4, "int64": 8, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
    "bits8": 1, "bits16": 2, "qint8": 1, "quint8": 1, "qint32": 4,
}  # fmt: skip
"""Bytes of an element, by torch's name of its type."""


@dataclass
class TorchFile:
    """A torch file in its parts.

    Attributes:
        root: the pickle's graph.
        archive: its records, of which `data.pkl` is written anew.
        folder: the name of the archive's one directory, with its slash.
        style: chooses among spellings of the pickle; None for the usual one.
        late: changes to the pickle's bytes, in order.
    """

    root: Node
    archive: Archive
    folder: bytes
    style: random.Random | None = None
    late: list[Callable[[bytes], bytes]] = field(default_factory=list)

    @classmethod
    def parse(cls, content: bytes) -> TorchFile:
        """The parts of what `torch.save` wrote."""
        archive = parse_zip(content)
        (pickle,) = (one for one in archive.members if one.name.endswith(b"/data.pkl"))
        return cls(parse(pickle.data), archive, pickle.name.removesuffix(b"data.pkl"))

    def build(self) -> bytes:
        """The file's bytes."""
        pickle = emit(self.root, self.style)
        for change in self.late:
            pickle = change(pickle)
        member = self.record("data.pkl")
        if member is not None:
            member.data = pickle
        return build(self.archive)

    def record(self, record: str) -> Member | None:
        """The record of that name."""
        wanted = self.folder + record.encode("utf-8", "surrogatepass")
        return next((one for one in self.archive.members if one.name == wanted), None)

    def storages(self) -> list[Member]:
        """The records of storages."""
        return [one for one in self.archive.members if one.name.startswith(self.folder + b"data/")]

    def add_storage(self, data: bytes, key: str | None = None) -> str:
        """A new record among those of the storages, under a key that none has unless given."""
        key = str(100 + len(self.archive.members)) if key is None else key
        like = next(iter(self.storages()), Member(b"", b"", flags=0x808, descriptor=16))
        member = Member(
            f"{self.folder.decode()}data/{key}".encode("utf-8", "surrogatepass"),
            data, flags=0x808 if data else 0x800, align=like.align,
            descriptor=16 if data else 0, versions=like.versions, stamp=like.stamp,
        )  # fmt: skip
        last = max((self.archive.members.index(one) for one in self.storages()), default=-1)
        self.archive.members.insert(last + 1, member)
        self.archive.order = None
        return key

    def tensors(self) -> list[Node]:
        """The nodes that rebuild a plain tensor, whose arguments are as torch writes them."""
        return [
            node
            for node in nodes(self.root)
            if is_call(node, *REBUILDS)
            and len(node.parts[1].parts) >= 6
            and node.parts[1].parts[0].kind == "persistent"
        ]

    def persistent_ids(self) -> list[Node]:
        """The tuples that name storages: ("storage", class, key, location, numel)."""
        found = (node.parts[0] for node in nodes(self.root) if node.kind == "persistent")
        return [node for node in found if node.kind == "tuple" and len(node.parts) == 5]

    def containers(self) -> list[Node]:
        """The nodes that fill a dict or a list."""
        return [node for node in nodes(self.root) if node.kind in ("items", "extend")]


def stored(key: str, class_name: str, numel: int) -> Node:
    """A storage, by its persistent id."""
    parts = plain("storage"), name(class_name), plain(key), plain("cpu"), plain(numel)
    return Node("persistent", parts=[sequence(*parts)])


def tensor_over(storage: Node, shape: tuple[int, ...], hooks: Node | None = None) -> Node:
    """A tensor in C order over the start of a typed storage."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    args = plain(0), plain(shape), plain(tuple(strides)), plain(False)
    return call(REBUILDS[0], storage, *args, no_hooks() if hooks is None else hooks)


def tensor_as(storage: Node, dtype: str, shape: tuple[int, ...]) -> Node:
    """A tensor of a type of its own over an untyped storage; of one dimension or none."""
    strides = (1,) * len(shape)
    args = plain(0), plain(shape), plain(strides), plain(False), no_hooks(), name(f"torch.{dtype}")
    return call(REBUILDS[1], storage, *args)


def no_hooks() -> Node:
    """What torch writes where a tensor has no hooks."""
    return call("collections.OrderedDict")


def replace(node: Node, other: Node) -> None:
    """Make `node` be `other`, wherever it is used, unless that would make it part of itself."""
    if not any(one is node for one in nodes(other)):
        node.kind, node.value, node.parts = other.kind, other.value, list(other.parts)


__all__ = [
    "ITEMSIZES", "REBUILDS", "SIZES", "Node", "TorchFile", "call", "constant", "no_hooks",
    "replace", "stored", "tensor_as", "tensor_over",
]  # fmt: skip
