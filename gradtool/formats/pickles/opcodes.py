"""What each allowed pickle opcode does to the machine.

Each checks what it is given, costs time in proportion to its own bytes, and pays for memory.
"""

from __future__ import annotations

from typing import Final

from gradtool.formats.pickles.calls import call, call_with_keywords, make, named, storage
from gradtool.formats.pickles.contents import build_object, items_of, set_items
from gradtool.formats.pickles.machine import (
    CONTAINER_COST,
    ENTRY_COST,
    ITEM_COST,
    OBJECT_COST,
    TUPLE_COST,
    Machine,
)
from gradtool.formats.pickles.pushes import u32, u64
from gradtool.formats.pickles.stand_ins import (
    MalformedPickleError,
    Unordered,
    UnsupportedPickleError,
    describe,
)

_MAX_MARKS: Final = 1000


def proto(vm: Machine, at: int) -> int:
    """PROTO: the protocol, at the very beginning."""
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
    """STOP: what is left is the object."""
    if vm.marks or len(vm.stack) != 1:
        raise MalformedPickleError("other than one value is left at the end")
    if at != len(vm.data):
        raise MalformedPickleError(f"{len(vm.data) - at} bytes follow the end of the pickle")
    return -1


def mark(vm: Machine, at: int) -> int:
    """MARK: what follows is put aside, for an opcode that takes all of it."""
    if len(vm.marks) == _MAX_MARKS:
        raise UnsupportedPickleError(f"nests too deeply: more than {_MAX_MARKS} open marks")
    vm.marks.append(vm.stack)
    vm.stack = []
    return at


def binput(vm: Machine, at: int) -> int:
    """BINPUT: note the last value under a number of one byte."""
    vm.memo[vm.data[at]] = vm.stack[-1]
    return at + 1


def long_binput(vm: Machine, at: int) -> int:
    """LONG_BINPUT: note the last value under a number of four bytes."""
    index = u32(vm.data, at)[0]
    vm.spend(ITEM_COST if index == len(vm.memo) else ENTRY_COST)
    vm.memo[index] = vm.stack[-1]
    return at + 4


def memoize(vm: Machine, at: int) -> int:
    """MEMOIZE: note the last value under the next number."""
    vm.spend(ITEM_COST)
    vm.memo[len(vm.memo)] = vm.stack[-1]
    return at


def binget(vm: Machine, at: int) -> int:
    """BINGET: push what was noted under a number of one byte."""
    vm.stack.append(vm.memo[vm.data[at]])
    return at + 1


def long_binget(vm: Machine, at: int) -> int:
    """LONG_BINGET: push what was noted under a number of four bytes."""
    vm.stack.append(vm.memo[u32(vm.data, at)[0]])
    return at + 4


def close_tuple(vm: Machine, at: int) -> int:
    """TUPLE: a tuple of all above the mark."""
    items = vm.above_mark()
    vm.spend(TUPLE_COST + ITEM_COST * len(items))
    vm.stack.append(tuple(items))
    return at


def make_tuple1(vm: Machine, at: int) -> int:
    """TUPLE1: a tuple of the last value."""
    vm.spend(TUPLE_COST)
    vm.stack[-1] = (vm.stack[-1],)
    return at


def make_tuple2(vm: Machine, at: int) -> int:
    """TUPLE2: a tuple of the last two values."""
    vm.spend(TUPLE_COST)
    last = vm.stack.pop()
    vm.stack[-1] = (vm.stack[-1], last)
    return at


def make_tuple3(vm: Machine, at: int) -> int:
    """TUPLE3: a tuple of the last three values."""
    vm.spend(TUPLE_COST)
    last = vm.stack.pop()
    middle = vm.stack.pop()
    vm.stack[-1] = (vm.stack[-1], middle, last)
    return at


def append(vm: Machine, at: int) -> int:
    """APPEND: the last value goes to the list before it."""
    items_of(vm.stack[-2]).append(vm.stack.pop())
    return at


def appends(vm: Machine, at: int) -> int:
    """APPENDS: all above the mark go to the list before it."""
    items = vm.above_mark()
    items_of(vm.stack[-1]).extend(items)
    return at


def additems(vm: Machine, at: int) -> int:
    """ADDITEMS: all above the mark go to the set before it."""
    items = vm.above_mark()
    target = vm.stack[-1]
    if type(target) is not Unordered:
        raise MalformedPickleError(f"adds items to {describe(target)}")
    target.extend(items)
    return at


def close_frozenset(vm: Machine, at: int) -> int:
    """FROZENSET: a set of all above the mark."""
    items = vm.above_mark()
    vm.spend(CONTAINER_COST + ITEM_COST * len(items))
    vm.stack.append(Unordered(items))
    return at


def setitem(vm: Machine, at: int) -> int:
    """SETITEM: a key and its value go to the dict before them."""
    vm.spend(ENTRY_COST)
    value = vm.stack.pop()
    key = vm.stack.pop()
    set_items(vm.stack[-1], [key, value])
    return at


def setitems(vm: Machine, at: int) -> int:
    """SETITEMS: all above the mark go to the dict before it, keys and values by turns."""
    items = vm.above_mark()
    vm.spend(ENTRY_COST * len(items) // 2)
    set_items(vm.stack[-1], items)
    return at


def push_global(vm: Machine, at: int) -> int:
    """GLOBAL: a name on two lines, which is not looked up."""
    middle = vm.data.find(b"\n", at)
    end = vm.data.find(b"\n", middle + 1)
    if middle < 0 or end < 0:
        raise MalformedPickleError("a name without an end")
    module, qualname = vm.data[at:middle], vm.data[middle + 1 : end]
    vm.spend(OBJECT_COST + TUPLE_COST)
    vm.stack.append(named(str(module, "utf-8"), str(qualname, "utf-8")))
    return end + 1


def push_stack_global(vm: Machine, at: int) -> int:
    """STACK_GLOBAL: a name in the last two values, which is not looked up."""
    vm.spend(OBJECT_COST + TUPLE_COST)
    qualname = vm.stack.pop()
    vm.stack[-1] = named(vm.stack[-1], qualname)
    return at


def reduce(vm: Machine, at: int) -> int:
    """REDUCE: what would be a call makes a stand-in, see `calls.call`."""
    vm.spend(OBJECT_COST)
    args = vm.stack.pop()
    vm.stack[-1] = vm.keep(call(vm.stack[-1], args, vm.spend))
    return at


def newobj(vm: Machine, at: int) -> int:
    """NEWOBJ: `cls.__new__(cls, *args)`, see `calls.make`."""
    vm.spend(OBJECT_COST)
    args = vm.stack.pop()
    vm.stack[-1] = vm.keep(make(vm.stack[-1], args, vm.spend))
    return at


def newobj_ex(vm: Machine, at: int) -> int:
    """NEWOBJ_EX: `cls.__new__(cls, *args, **keywords)`."""
    vm.spend(OBJECT_COST)
    keywords = vm.stack.pop()
    args = vm.stack.pop()
    vm.stack[-1] = vm.keep(call_with_keywords(vm.stack[-1], args, keywords, vm.spend))
    return at


def build(vm: Machine, at: int) -> int:
    """BUILD: the last value holds the attributes of the one before it."""
    build_object(vm.stack[-2], vm.stack.pop())
    return at


def binpersid(vm: Machine, at: int) -> int:
    """BINPERSID: the storage that the last value names."""
    vm.spend(OBJECT_COST + ENTRY_COST)
    vm.stack[-1] = vm.first_mention(storage(vm.stack[-1]))
    return at
