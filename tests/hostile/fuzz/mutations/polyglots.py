"""Files of two formats at once: whose tensors are they?"""

from __future__ import annotations

import random
import struct
from typing import Final

from fuzz.files.pickles import emit, mapping, plain
from fuzz.files.poison import numbers
from fuzz.files.safetensors_files import Pairs, SafetensorsFile
from fuzz.files.torch_files import stored, tensor_over

_MAGIC: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickle that torch's files began with before 1.6."""

_LONGEST: Final = 2048
"""Of the headers that are made 256 times as long."""

_TEXT: Final = 0x58
_SHORT_TEXT: Final = 0x55
"""The opcodes BINUNICODE and SHORT_BINSTRING: a length of four bytes, or one, and a text follow."""


def legacy_torch(rng: random.Random) -> bytes:
    """A file of a tensor, as torch wrote it before 1.6."""
    storage = stored("0", "torch.FloatStorage", 4)
    storage.parts[0].parts.append(plain(None))
    root = emit(mapping((plain("w"), tensor_over(storage, (4,)))))
    pickles = emit(plain(1001)), emit(plain({})), root, emit(plain(["0"]))
    return _MAGIC + b"".join(pickles) + struct.pack("<q", 4) + numbers(rng, 16)


def also_legacy_torch(file: SafetensorsFile, rng: random.Random) -> None:
    """Put a file of old torch's into a tensor, and make the header a pickle of texts before it.

    The eight bytes of the header's length begin with the opcode of a text, whose length the
    next ones are; texts of up to 126 characters go on until the header ends. What is left at
    the end of a pickle does not matter to torch, nor do texts below a number.
    """
    legacy = legacy_torch(rng)
    pad = {"dtype": "U8", "shape": [len(legacy)], "data_offsets": [0, len(legacy)]}
    for at, fields in file.tensors():
        begin, end = fields["data_offsets"]
        file.change(at, data_offsets=[begin + len(legacy), end + len(legacy)])
    file.header = Pairs(pair for pair in file.header if pair[0] != "__metadata__")
    file.header.append(("pad", Pairs(pad.items())))
    file.data = legacy + file.data
    file.late.append(_as_texts)


def opcodes_in_header(file: SafetensorsFile, rng: random.Random) -> None:
    """A sound file whose first bytes may be taken for a pickle: by its length, and in a name."""
    name = "".join(rng.choices("XUcGJKMNR()]}abehjqrstu.Q", k=80))
    if file.header and file.header[0][0] != "__metadata__":
        file.header[0] = (name, file.header[0][1])
    else:
        file.header.insert(0, ("__metadata__", Pairs([(name, name)])))
    code, blocks = rng.choice(b"XXUU(h\x80\x88cGJKM"), rng.choice((0, 1, 4, 16, 40))

    def lengthened(text: bytes) -> bytes:
        return text + b" " * ((code - len(text)) % 256 + 256 * blocks)

    file.late.append(lengthened)


def _as_texts(header: bytes) -> bytes:
    """The header with metadata behind its entries, so long that it is a pickle's texts."""
    if len(header) > _LONGEST:
        return header
    opening = header.rstrip(b" ")[:-1] + b',"__metadata__":{"a":"'
    first = opening + b"xxxxxxxx"
    is_short = 6 + len(first) < 256
    nbytes = _SHORT_TEXT + 256 * (6 + len(first)) if is_short else _TEXT + 256 * (3 + len(first))
    left = nbytes - len(first)
    count = -(-left // 128)
    lengths = [left // count + (at < left % count) - 2 for at in range(count)]
    text = b"y" * (sum(lengths) - 3) + b'"}}'
    runs, at = bytearray(), 0
    for length in lengths:
        runs += b"U" + bytes((length,)) + text[at : at + length]
        at += length
    return first + bytes(runs)
