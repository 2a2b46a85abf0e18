"""An inert interpreter of the few pickle opcodes that checkpoints use.

It is no restricted `pickle.Unpickler`: that allocates what a file asks for before it checks, and
sets attributes of any object. Here nothing is imported, called or copied; unknown objects become
stand-ins, every opcode takes time in proportion to its own bytes, and memory is paid for out of a
budget, so that only a walk over the result can be expensive.

Opcodes: pickletools.py of CPython, protocols 2 to 5, without those that only protocols 0 and 1
write (INST, PERSID, text numbers), extension registries and out-of-band buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.pickles import opcodes as op
from gradtool.formats.pickles import pushes as put
from gradtool.formats.pickles.machine import ElementHolder, Machine
from gradtool.formats.pickles.stand_ins import (
    MalformedPickleError,
    Storage,
    Unordered,
    UnsupportedPickleError,
)


class Unpickled(NamedTuple):
    """The result of interpreting a pickle.

    Attributes:
        root: the pickled object, in plain containers, scalars and stand-ins.
        made: everything with elements that the pickle makes, in the root or not.
        storages: the storages that the pickle names, by key.
        nbytes: the size of the pickle, without what was left out of it.
    """

    root: object
    made: Sequence[ElementHolder]
    storages: Mapping[str, Storage]
    nbytes: int


def unpickle(
    data: bytes,
    path: str,
    *,
    record: str | None = None,
    offset: int = 0,
    holes: Mapping[int, int] = MappingProxyType({}),
) -> Unpickled:
    """Interpret the pickle `data`, from which bytes objects may be left out; see `cutting.Cut`.

    `path`, `record` and `offset` (of the pickle's first byte in the file) are for errors.

    Raises:
        CorruptFileError: truncated, contradicting itself or the pickle language.
        UnsupportedFormatError: an opcode, protocol or key that no checkpoint needs.
    """
    machine = Machine(data, holes)
    position = 0
    try:
        if data[:1] != b"\x80":
            raise MalformedPickleError("does not begin with a pickle protocol")
        while position >= 0:
            position = _DISPATCH[data[position]](machine, position + 1)
    except MalformedPickleError as error:
        problem = f"pickle opcode {_opcode_name(data, position)}: {error}"
        byte = offset + position + machine.skipped
        raise CorruptFileError(path, problem, tensor=record, byte=byte) from error
    except UnsupportedPickleError as error:
        problem = f"pickle opcode {_opcode_name(data, position)}: {error}"
        byte = offset + position + machine.skipped
        raise UnsupportedFormatError(path, problem, tensor=record, byte=byte) from error
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        is_cut = position >= len(data)
        why = "missing: the pickle is truncated" if is_cut else _WHY_FAILED[type(error)]
        problem = f"pickle opcode {_opcode_name(data, position)}: {why}"
        byte = offset + position + machine.skipped
        raise CorruptFileError(path, problem, tensor=record, byte=byte) from error
    return Unpickled(machine.stack[0], machine.made, machine.storages, len(data))


_WHY_FAILED: Final[dict[type, str]] = {
    IndexError: "takes a value or an operand that is not there",
    struct.error: "is cut off by the end of the pickle",
    UnicodeDecodeError: "holds text that is not UTF-8",
}


def _refuse(vm: Machine, position: int) -> NoReturn:
    if vm.data[position - 1] in _FOREIGN:
        raise UnsupportedPickleError("not allowed: no checkpoint needs it")
    raise MalformedPickleError("no such opcode")


_OPERATIONS: Final[dict[int, tuple[str, put.Operation]]] = {
    0x80: ("PROTO", op.proto),
    0x95: ("FRAME", op.frame),
    ord("."): ("STOP", op.stop),
    ord("N"): ("NONE", put.push(None)),
    0x88: ("NEWTRUE", put.push(True)),
    0x89: ("NEWFALSE", put.push(False)),
    ord("K"): ("BININT1", put.push_number(put.u8, 1)),
    ord("M"): ("BININT2", put.push_number(put.u16, 2)),
    ord("J"): ("BININT", put.push_number(put.i32, 4)),
    ord("G"): ("BINFLOAT", put.push_number(put.f64, 8)),
    0x8A: ("LONG1", put.push_long(put.u8, 1)),
    0x8B: ("LONG4", put.push_long(put.u32, 4)),
    ord("U"): ("SHORT_BINSTRING", put.push_text(put.u8, 1)),
    0x8C: ("SHORT_BINUNICODE", put.push_text(put.u8, 1)),
    ord("X"): ("BINUNICODE", put.push_text(put.u32, 4)),
    0x8D: ("BINUNICODE8", put.push_text(put.u64, 8)),
    ord("C"): ("SHORT_BINBYTES", put.push_bytes(put.u8, 1)),
    ord("B"): ("BINBYTES", put.push_bytes(put.u32, 4)),
    0x8E: ("BINBYTES8", put.push_bytes(put.u64, 8)),
    0x96: ("BYTEARRAY8", put.push_bytes(put.u64, 8)),
    ord("]"): ("EMPTY_LIST", put.push_new(list)),
    ord("}"): ("EMPTY_DICT", put.push_new(dict)),
    0x8F: ("EMPTY_SET", put.push_new(Unordered)),
    ord(")"): ("EMPTY_TUPLE", put.push(())),
    ord("("): ("MARK", op.mark),
    ord("t"): ("TUPLE", op.close_tuple),
    0x85: ("TUPLE1", op.make_tuple1),
    0x86: ("TUPLE2", op.make_tuple2),
    0x87: ("TUPLE3", op.make_tuple3),
    ord("a"): ("APPEND", op.append),
    ord("e"): ("APPENDS", op.appends),
    ord("s"): ("SETITEM", op.setitem),
    ord("u"): ("SETITEMS", op.setitems),
    0x90: ("ADDITEMS", op.additems),
    0x91: ("FROZENSET", op.close_frozenset),
    ord("q"): ("BINPUT", op.binput),
    ord("r"): ("LONG_BINPUT", op.long_binput),
    0x94: ("MEMOIZE", op.memoize),
    ord("h"): ("BINGET", op.binget),
    ord("j"): ("LONG_BINGET", op.long_binget),
    ord("c"): ("GLOBAL", op.push_global),
    0x93: ("STACK_GLOBAL", op.push_stack_global),
    ord("R"): ("REDUCE", op.reduce),
    0x81: ("NEWOBJ", op.newobj),
    0x92: ("NEWOBJ_EX", op.newobj_ex),
    ord("b"): ("BUILD", op.build),
    ord("Q"): ("BINPERSID", op.binpersid),
}
_FOREIGN: Final[dict[int, str]] = {
    ord("0"): "POP",
    ord("1"): "POP_MARK",
    ord("2"): "DUP",
    ord("F"): "FLOAT",
    ord("I"): "INT",
    ord("L"): "LONG",
    ord("P"): "PERSID",
    ord("S"): "STRING",
    ord("T"): "BINSTRING",
    ord("V"): "UNICODE",
    ord("d"): "DICT",
    ord("g"): "GET",
    ord("i"): "INST",
    ord("l"): "LIST",
    ord("o"): "OBJ",
    ord("p"): "PUT",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}
_DISPATCH: Final = [_OPERATIONS[code][1] if code in _OPERATIONS else _refuse for code in range(256)]


def _opcode_name(data: bytes, position: int) -> str:
    if position >= len(data):
        return "STOP"
    code = data[position]
    return _OPERATIONS[code][0] if code in _OPERATIONS else _FOREIGN.get(code, f"0x{code:02x}")
