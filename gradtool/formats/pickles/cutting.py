"""Where a pickle ends, in a file of several: none of them says how long it is.

Opcodes and operands follow each other whatever is on the stack. The end is found without running
anything, and the interpreter gets one pickle and nothing else. The arrays in it may be of any size,
and need not be read for that.

Widths: pickletools.py of CPython, of the opcodes that the interpreter knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError

MAX_PICKLE_NBYTES: Final = 256 << 20
"""About 2.7 million tensors: each takes some 97 bytes of pickle."""

_FIRST_NBYTES: Final = 1 << 16
_NEXT_NBYTES: Final = 1 << 9
"""What is read first of what follows a bytes object that was left out: often another one does."""

_LONGEST_READ: Final = 1 << 16
"""Bytes objects of so many bytes picklers write outside of frames, and are left out."""

_BYTES: Final = frozenset(b"B\x8e\x96")
_STOP: Final = ord(".")
_WITH_OPERAND: Final = frozenset(b"\x80KqhMJrjG\x95c")
_FIXED: Final = re.compile(
    rb"(?:[\]})(N\x88\x89\x8ft\x85-\x87aesu\x90\x91\x94\x93R\x81\x92bQ]"
    rb"|[\x80Kqh].|M..|[Jrj].{4}|[G\x95].{8}|c[^\n]*+\n[^\n]*+\n)*+",
    re.DOTALL,
)
"""Any number of opcodes whose operands have a width of their own, or are two lines."""
_LENGTH_NBYTES: Final = {
    **dict.fromkeys(b"U\x8a\x8cC", 1),
    **dict.fromkeys(b"X\x8bB", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
"""Of the opcodes that say how long their operand is."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A pickle, cut out of a file, without the longest of its bytes objects.

    Attributes:
        data: its bytes; those of a bytes object that was left out are not there.
        holes: how many bytes were left out, by the position in `data` at which they belong.
    """

    data: bytes
    holes: Mapping[int, int]

    @property
    def nbytes(self) -> int:
        """The size of the pickle in the file."""
        return len(self.data) + sum(self.holes.values())


def read_pickle(source: Source, offset: int) -> bytes:
    """The pickle that begins at byte `offset`, up to its STOP; see `cut_pickle`."""
    return cut_pickle(source, offset, longest=MAX_PICKLE_NBYTES).data


def cut_pickle(source: Source, offset: int, longest: int = _LONGEST_READ) -> Cut:
    """The pickle that begins at byte `offset`, without bytes objects of `longest` bytes or more.

    Where an opcode that the interpreter does not know, or the end of the file, comes before its
    STOP, the bytes up to there: whoever interprets them says what is wrong.

    Raises:
        CorruptFileError: an operand that ends after the file.
        UnsupportedFormatError: more than MAX_PICKLE_NBYTES bytes.
    """
    data, at = bytearray(), 0
    holes: dict[int, int] = {}
    end, step = source.file.size - offset, _FIRST_NBYTES  # `end` is where `data` would end
    while True:
        if at < len(data):
            match = _FIXED.match(data, at)
            at = match.end() if match else at
            code = data[at] if at < len(data) else None
            width = _LENGTH_NBYTES.get(code or 0)
            if code == _STOP or not (code is None or width or code in _WITH_OPERAND):
                return Cut(bytes(data[: at + 1]), holes)
            if width and at + 1 + width <= len(data):
                operand = at + 1 + width
                nbytes = int.from_bytes(data[at + 1 : operand], "little")
                at = operand + nbytes
                if at > end:
                    byte = source.file.size - end + operand
                    problem = f"a pickle promises {nbytes} bytes: truncated"
                    raise CorruptFileError(source.path, problem, byte=byte)
                if code in _BYTES and nbytes >= longest:
                    holes[operand] = nbytes
                    del data[operand:]
                    at, end, step = operand, end - nbytes, _NEXT_NBYTES
                continue
        if len(data) == end:
            return Cut(bytes(data), holes)
        if max(at, len(data)) >= MAX_PICKLE_NBYTES:
            problem = f"a pickle of more than {MAX_PICKLE_NBYTES} bytes, which gradtool reads"
            raise UnsupportedFormatError(source.path, problem, byte=offset)
        nbytes = min(max(len(data) + step, at), end, MAX_PICKLE_NBYTES) - len(data)
        data += source.read(source.file.size - end + len(data), nbytes)
        step = min(2 * step, max(len(data), _FIRST_NBYTES))
