"""The pickle opcodes that push a value of their own, or one that follows them in the pickle."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Final

from gradtool.formats.pickles.machine import CONTAINER_COST, ITEM_COST, OBJECT_COST, Machine
from gradtool.formats.pickles.stand_ins import Bytes, UnsupportedPickleError

_MAX_LONG_NBYTES: Final = 1024
u16: Final = struct.Struct("<H").unpack_from
u32: Final = struct.Struct("<I").unpack_from
i32: Final = struct.Struct("<i").unpack_from
u64: Final = struct.Struct("<Q").unpack_from
f64: Final = struct.Struct(">d").unpack_from


def u8(data: bytes, position: int) -> tuple[int]:
    """One unsigned byte, in a tuple, as `struct` returns wider numbers."""
    return (data[position],)


# An operation is called with the position after its opcode, and returns that of the next opcode.
Operation = Callable[[Machine, int], int]
ReadLength = Callable[[bytes, int], tuple[int]]


def push(value: object) -> Operation:
    """An opcode that pushes a constant."""

    def operate(vm: Machine, position: int) -> int:
        vm.stack.append(value)
        return position

    return operate


def push_new(make: Callable[[], object]) -> Operation:
    """An opcode that pushes a new, empty container."""

    def operate(vm: Machine, position: int) -> int:
        vm.spend(CONTAINER_COST)
        vm.stack.append(make())
        return position

    return operate


def push_number(unpack: Callable[[bytes, int], tuple[object, ...]], width: int) -> Operation:
    """An opcode that pushes a number of `width` bytes."""

    def operate(vm: Machine, position: int) -> int:
        vm.stack.append(unpack(vm.data, position)[0])
        return position + width

    return operate


def push_text(length: ReadLength, width: int) -> Operation:
    """An opcode that pushes text, after a length of `width` bytes."""

    def operate(vm: Machine, position: int) -> int:
        position += width
        end = vm.end_of(position, length(vm.data, position - width)[0])
        text = str(vm.data[position:end], "utf-8", "surrogatepass")
        vm.spend(sys.getsizeof(text) + 2 * ITEM_COST)  # and what allocation rounds up
        vm.stack.append(text)
        return end

    return operate


def push_bytes(length: ReadLength, width: int) -> Operation:
    """An opcode that pushes bytes, after a length of `width` bytes; they are not copied."""

    def operate(vm: Machine, position: int) -> int:
        position += width
        nbytes = length(vm.data, position - width)[0]
        vm.spend(OBJECT_COST)
        if position in vm.holes:
            vm.stack.append(Bytes(position + vm.skipped, nbytes))
            vm.skipped += nbytes
            return position
        end = vm.end_of(position, nbytes)
        vm.stack.append(Bytes(position + vm.skipped, nbytes))
        return end

    return operate


def push_long(length: ReadLength, width: int) -> Operation:
    """An opcode that pushes a long integer, after a length of `width` bytes."""

    def operate(vm: Machine, position: int) -> int:
        position += width
        end = vm.end_of(position, length(vm.data, position - width)[0])
        if end - position > _MAX_LONG_NBYTES:
            raise UnsupportedPickleError(f"an integer of {end - position} bytes")
        vm.stack.append(int.from_bytes(vm.data[position:end], "little", signed=True))
        return end

    return operate
