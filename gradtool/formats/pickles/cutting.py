"""Where a pickle ends, in a file of several: none of them says how long it is.

Opcodes and operands follow each other whatever is on the stack. The end is found without running
anything, and the interpreter gets one pickle and nothing else.

Widths: pickletools.py of CPython, of the opcodes that the interpreter knows.
"""

from __future__ import annotations

import re
from typing import Final

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError

MAX_PICKLE_NBYTES: Final = 256 << 20
"""About 2.7 million tensors: each takes some 97 bytes of pickle."""

_FIRST_NBYTES: Final = 1 << 16
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


def read_pickle(source: Source, offset: int) -> bytes:
    """The pickle that begins at byte `offset`, up to its STOP.

    Where an opcode that the interpreter does not know, or the end of the file, comes before it,
    the bytes up to there: whoever interprets them says what is wrong.

    Raises:
        CorruptFileError: an operand that ends after the file.
        UnsupportedFormatError: more than MAX_PICKLE_NBYTES bytes.
    """
    available = source.file.size - offset
    data, at = bytearray(), 0
    while True:
        if at < len(data):
            match = _FIXED.match(data, at)
            at = match.end() if match else at
            code = data[at] if at < len(data) else None
            width = _LENGTH_NBYTES.get(code or 0)
            if code == _STOP or not (code is None or width or code in _WITH_OPERAND):
                return bytes(data[: at + 1])
            if width and at + 1 + width <= len(data):
                operand = at + 1 + width
                at = operand + int.from_bytes(data[at + 1 : operand], "little")
                if at > available:
                    problem = f"a pickle promises {at - operand} bytes: truncated"
                    raise CorruptFileError(source.path, problem, byte=offset + operand)
                continue
        if len(data) == available:
            return bytes(data)
        if max(at, len(data)) >= MAX_PICKLE_NBYTES:
            problem = f"a pickle of more than {MAX_PICKLE_NBYTES} bytes, which gradtool reads"
            raise UnsupportedFormatError(source.path, problem, byte=offset)
        nbytes = min(max(2 * len(data), at, _FIRST_NBYTES), available, MAX_PICKLE_NBYTES)
        data += source.read(offset + len(data), nbytes - len(data))
