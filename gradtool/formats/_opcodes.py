"""What each allowed pickle opcode does, on a machine of one stack, its marks and a memo.

Each checks what it is given, and costs time and memory in proportion to its own bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from gradtool.formats._globals import call, call_with_keywords, named, storage
from gradtool.formats._stand_ins import (
    Bytes,
    MalformedPickleError,
    Unordered,
    UnsupportedPickleError,
    describe,
    items_of,
    set_items,
    set_state,
)

_MAX_MARKS: Final = 1000
_MAX_LONG_NBYTES: Final = 1024
u16: Final = struct.Struct("<H").unpack_from
u32: Final = struct.Struct("<I").unpack_from
i32: Final = struct.Struct("<i").unpack_from
u64: Final = struct.Struct("<Q").unpack_from
f64: Final = struct.Struct(">d").unpack_from


def u8(data: bytes, at: int) -> tuple[int]:
    """One unsigned byte, in the form that `struct` gives the wider numbers in."""
    return (data[at],)


class Memo(dict[int, object]):
    """The values to refer back to; a list would be as long as the highest index claimed."""

    def __missing__(self, index: int) -> object:
        raise MalformedPickleError("refers to a memo entry that was never made")


class Machine:
    """The state of one run: `stack` is what lies above the last MARK, `marks` what is below."""

    __slots__ = ("data", "marks", "memo", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo = Memo()

    def above_mark(self) -> list[object]:
        """Everything above the last MARK, which is taken away with it."""
        if not self.marks:
            raise MalformedPickleError("finds no MARK")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def end_of(self, start: int, nbytes: int) -> int:
        """The byte after an operand of `nbytes` bytes, which the pickle must hold."""
        left = len(self.data) - start
        if nbytes > left:
            raise MalformedPickleError(f"promises {nbytes} bytes, {left} are left")
        return start + nbytes


# An operation is called with the position after its opcode; it returns the next opcode's.
Operation = Callable[[Machine, int], int]
ReadLength = Callable[[bytes, int], tuple[int]]


def push(value: object) -> Operation:
    """An opcode that pushes a constant."""

    def operate(vm: Machine, at: int) -> int:
        vm.stack.append(value)
        return at

    return operate


def push_new(make: Callable[[], object]) -> Operation:
    """An opcode that pushes an empty container of its own."""

    def operate(vm: Machine, at: int) -> int:
        vm.stack.append(make())
        return at

    return operate


def push_number(unpack: Callable[[bytes, int], tuple[object, ...]], width: int) -> Operation:
    """An opcode that pushes a number of `width` bytes."""

    def operate(vm: Machine, at: int) -> int:
        vm.stack.append(unpack(vm.data, at)[0])
        return at + width

    return operate


def push_text(length: ReadLength, width: int) -> Operation:
    """An opcode that pushes text, after a length of `width` bytes."""

    def operate(vm: Machine, at: int) -> int:
        at += width
        end = vm.end_of(at, length(vm.data, at - width)[0])
        vm.stack.append(str(vm.data[at:end], "utf-8", "surrogatepass"))
        return end

    return operate


def push_bytes(length: ReadLength, width: int) -> Operation:
    """An opcode that pushes bytes, after a length of `width` bytes; they stay where they are."""

    def operate(vm: Machine, at: int) -> int:
        at += width
        end = vm.end_of(at, length(vm.data, at - width)[0])
        vm.stack.append(Bytes(at, end - at))
        return end

    return operate


def push_long(length: ReadLength, width: int) -> Operation:
    """An opcode that pushes a long integer, after a length of `width` bytes."""

    def operate(vm: Machine, at: int) -> int:
        at += width
        end = vm.end_of(at, length(vm.data, at - width)[0])
        if end - at > _MAX_LONG_NBYTES:
            raise UnsupportedPickleError(f"an integer of {end - at} bytes")
        vm.stack.append(int.from_bytes(vm.data[at:end], "little", signed=True))
        return end

    return operate


def proto(vm: Machine, at: int) -> int:
    version = vm.data[at]
    if at != 1:
        raise MalformedPickleError("a second protocol inside the pickle")
    if not 2 <= version <= 5:
        raise UnsupportedPickleError(f"pickle protocol {version}; gradtool reads 2 to 5")
    return at + 1


def frame(vm: Machine, at: int) -> int:
    """FRAME: a hint on how far to read ahead, which is checked and has no other effect."""
    vm.end_of(at + 8, u64(vm.data, at)[0])
    return at + 8


def stop(vm: Machine, at: int) -> int:
    if vm.marks or len(vm.stack) != 1:
        raise MalformedPickleError("other than one value is left at the end")
    if at != len(vm.data):
        raise MalformedPickleError(f"{len(vm.data) - at} bytes follow the end of the pickle")
    return -1


def mark(vm: Machine, at: int) -> int:
    if len(vm.marks) == _MAX_MARKS:
        raise UnsupportedPickleError(f"nests too deeply: more than {_MAX_MARKS} open marks")
    vm.marks.append(vm.stack)
    vm.stack = []
    return at


def binput(vm: Machine, at: int) -> int:
    vm.memo[vm.data[at]] = vm.stack[-1]
    return at + 1


def long_binput(vm: Machine, at: int) -> int:
    vm.memo[u32(vm.data, at)[0]] = vm.stack[-1]
    return at + 4


def memoize(vm: Machine, at: int) -> int:
    vm.memo[len(vm.memo)] = vm.stack[-1]
    return at


def binget(vm: Machine, at: int) -> int:
    vm.stack.append(vm.memo[vm.data[at]])
    return at + 1


def long_binget(vm: Machine, at: int) -> int:
    vm.stack.append(vm.memo[u32(vm.data, at)[0]])
    return at + 4


def close_tuple(vm: Machine, at: int) -> int:
    items = vm.above_mark()
    vm.stack.append(tuple(items))
    return at


def make_tuple1(vm: Machine, at: int) -> int:
    vm.stack[-1] = (vm.stack[-1],)
    return at


def make_tuple2(vm: Machine, at: int) -> int:
    last = vm.stack.pop()
    vm.stack[-1] = (vm.stack[-1], last)
    return at


def make_tuple3(vm: Machine, at: int) -> int:
    last = vm.stack.pop()
    middle = vm.stack.pop()
    vm.stack[-1] = (vm.stack[-1], middle, last)
    return at


def append(vm: Machine, at: int) -> int:
    items_of(vm.stack[-2]).append(vm.stack.pop())
    return at


def appends(vm: Machine, at: int) -> int:
    items = vm.above_mark()
    items_of(vm.stack[-1]).extend(items)
    return at


def additems(vm: Machine, at: int) -> int:
    items = vm.above_mark()
    target = vm.stack[-1]
    if type(target) is not Unordered:
        raise MalformedPickleError(f"adds items to {describe(target)}")
    target.extend(items)
    return at


def close_frozenset(vm: Machine, at: int) -> int:
    items = vm.above_mark()
    vm.stack.append(Unordered(items))
    return at


def setitem(vm: Machine, at: int) -> int:
    value = vm.stack.pop()
    key = vm.stack.pop()
    set_items(vm.stack[-1], [key, value])
    return at


def setitems(vm: Machine, at: int) -> int:
    items = vm.above_mark()
    set_items(vm.stack[-1], items)
    return at


def push_global(vm: Machine, at: int) -> int:
    middle = vm.data.find(b"\n", at)
    end = vm.data.find(b"\n", middle + 1)
    if middle < 0 or end < 0:
        raise MalformedPickleError("a name without an end")
    module, qualname = vm.data[at:middle], vm.data[middle + 1 : end]
    vm.stack.append(named(str(module, "utf-8"), str(qualname, "utf-8")))
    return end + 1


def push_stack_global(vm: Machine, at: int) -> int:
    qualname = vm.stack.pop()
    vm.stack[-1] = named(vm.stack[-1], qualname)
    return at


def reduce(vm: Machine, at: int) -> int:
    """REDUCE and NEWOBJ: what would be a call makes a stand-in, see `_globals.call`."""
    args = vm.stack.pop()
    vm.stack[-1] = call(vm.stack[-1], args)
    return at


def newobj_ex(vm: Machine, at: int) -> int:
    keywords = vm.stack.pop()
    args = vm.stack.pop()
    vm.stack[-1] = call_with_keywords(vm.stack[-1], args, keywords)
    return at


def build(vm: Machine, at: int) -> int:
    set_state(vm.stack[-2], vm.stack.pop())
    return at


def binpersid(vm: Machine, at: int) -> int:
    vm.stack[-1] = storage(vm.stack[-1])
    return at
