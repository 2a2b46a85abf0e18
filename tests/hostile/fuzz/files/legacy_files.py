"""A torch file of before 1.6, taken apart as those of today are: a graph, and records of storages.

Its storages are records of an archive that is never written, so that whatever changes a torch file
changes this one too. Persistent ids have the five parts that they have in archives; the sixth, a
view of a storage, is written where there are no more.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fuzz.files.pickles import Node, emit, literal, nodes, parse, plain
from fuzz.files.torch_files import SIZES, TorchFile
from fuzz.files.zips import Archive, Member

_FOLDER: Final = b"data/"
_ID_PARTS: Final = 5
"""Of a persistent id without a view."""
_PREAMBLE: Final = 3
"""Pickles before the object's: the magic number, the version, facts about the machine."""


@dataclass
class LegacyFile(TorchFile):
    """The file in its parts, besides those of any torch file.

    Attributes:
        preamble: the pickles before the object's, as they are.
        keys_of: makes the pickle's list of keys another thing.
        counts: what is written as the number of elements of a storage, where it is not the true.
        ends: changes to the whole file, in order.
    """

    preamble: list[bytes] = field(default_factory=list)
    keys_of: Callable[[list[str]], Node] = plain
    counts: dict[str, int] = field(default_factory=dict)
    ends: list[Callable[[bytes], bytes]] = field(default_factory=list)

    @classmethod
    def parse(cls, content: bytes) -> LegacyFile:
        """The parts of what `torch.save` wrote; storages get keys by their order in the object.

        Their own are addresses, of which every process has others.
        """
        stream = io.BytesIO(content)
        *preamble, pickled, keys = [_next_pickle(stream) for _ in range(_PREAMBLE + 2)]
        root = parse(pickled)
        ids = [node.parts[0].parts for node in nodes(root) if node.kind == "persistent"]
        sizes = {literal(parts[2]): SIZES[parts[1].value] for parts in ids}
        data = {key: _next_storage(stream, sizes[key]) for key in literal(parse(keys))}
        renamed = {key: str(at) for at, key in enumerate(sizes)}
        for parts in {id(parts): parts for parts in ids}.values():
            parts[2:] = [plain(renamed[literal(parts[2])]), *parts[3:5]]
        in_order = sorted((renamed[key], content) for key, content in data.items())
        members = [Member(_FOLDER + key.encode(), content) for key, content in in_order]
        return cls(root, Archive(members), b"", preamble=preamble)

    def build(self) -> bytes:
        """The file's bytes."""
        written = b"".join(self.preamble)
        every = (node.parts[0].parts for node in nodes(self.root) if node.kind == "persistent")
        ids = [parts for parts in every if len(parts) >= _ID_PARTS]
        named = ((parts[2].value, parts[1].value) for parts in reversed(ids))
        sizes = {key: SIZES.get(cls, 1) for key, cls in named if isinstance(cls, str)}
        for parts in ids:
            if len(parts) == _ID_PARTS:
                parts.append(plain(None))
        pickled = emit(self.root, self.style)
        for change in self.late:
            pickled = change(pickled)
        stored = {self._key(member): member.data for member in self.storages()}
        written += pickled + emit(self.keys_of([*stored]))
        for key, data in stored.items():
            count = self.counts.get(key, len(data) // (sizes.get(key) or 1))
            written += struct.pack("<q", count) + data
        for change in self.ends:
            written = change(written)
        return written

    def _key(self, member: Member) -> str:
        return member.name.removeprefix(_FOLDER).decode("utf-8", "surrogatepass")


def _next_pickle(stream: io.BytesIO) -> bytes:
    start = stream.tell()
    for _ in pickletools.genops(stream):
        pass
    return stream.getvalue()[start : stream.tell()]


def _next_storage(stream: io.BytesIO, itemsize: int) -> bytes:
    (count,) = struct.unpack("<q", stream.read(8))
    return stream.read(count * itemsize)
