"""Safetensors files that torch reads too, and as something else.

They begin with a number of the writer's choice, the header's length, and torch.load looks at the
first bytes only: four of them make a file a zip archive to it, and whatever is neither that nor
called `.safetensors` it reads as its format from before 1.6, of which the first pickle is a
number. That pickle may begin with the length and end anywhere.

Source: `load` and `_legacy_load` of torch/serialization.py, and torch/_weights_only_unpickler.py.
"""

from __future__ import annotations

from typing import Final

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError

_ZIP: Final = b"PK\3\4"
_LEGACY_NUMBER: Final = bytes.fromhex("6cfc9c46f9206aa85019")
"""torch's magic number, in the only way in which a pickle can write one of its size."""

_STOP: Final = ord(".")
_GLOBAL: Final = ord("c")
_OPERAND_NBYTES: Final = {
    **dict.fromkeys(b"Rbaes()tN]}uQ\x81\x85\x86\x87\x88\x89\x8f", 0),
    **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jjr", 4),
    **dict.fromkeys(b"G", 8),
}
_LENGTH_NBYTES: Final = {ord("X"): 4, ord("U"): 1, 0x8A: 1}
"""Of the opcodes that say how long their operand is."""

_MOST_OPCODES: Final = 10_000
_LONGEST_NAME: Final = 2048


def refuse_second_format(source: Source) -> None:
    """Raise CorruptFileError if torch.load would read the file as other than safetensors."""
    if source.read(0, 4) == _ZIP:
        raise CorruptFileError(source.path, "a zip archive by its first bytes: two formats at once")
    if _begins_as_legacy(source):
        problem = (
            "a pickle of torch's format from before 1.6 by its first bytes: two formats at once"
        )
        raise CorruptFileError(source.path, problem)


def _begins_as_legacy(source: Source) -> bool:
    """Whether opcodes from the first byte on lead to the end of a pickle, past the number.

    They are not run: what makes no sense on a stack is refused as well. In files of other writers
    one of the first bytes is no opcode.
    """
    at, has_number = 0, False
    for _ in range(_MOST_OPCODES):
        if at >= source.file.size:
            return False
        head = source.read(at, min(_LONGEST_NAME, source.file.size - at))
        code, start = head[0], 1
        if code == _STOP:
            return has_number
        if code in _LENGTH_NBYTES:
            start += _LENGTH_NBYTES[code]
            nbytes = int.from_bytes(head[1:start], "little")
            has_number |= _LEGACY_NUMBER in head[start : start + nbytes]
        elif code == _GLOBAL:
            nbytes = head.find(b"\n", head.find(b"\n") + 1)
            if nbytes < 0:
                return False
        elif code in _OPERAND_NBYTES:
            nbytes = _OPERAND_NBYTES[code]
        else:
            return False
        at += start + nbytes
    return True
