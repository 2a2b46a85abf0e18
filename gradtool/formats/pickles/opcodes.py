"""What each allowed pickle opcode does to the machine.

Each takes the position after the opcode and returns that of the next one. Each checks its operands,
takes time in proportion to its own bytes, and pays for memory.
"""

from __future__ import annotations

from typing import Final

from gradtool.formats.pickles.calls import (
    call,
    call_with_keywords,
    global_of,
    make_object,
    named_by,
)
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
    Storage,
    Unordered,
    UnsupportedPickleError,
    describe,
)

_MAX_MARKS: Final = 1000


def proto(vm: Machine, position: int) -> int:
    """PROTO: check the protocol, which only the very beginning may give."""
    version = vm.data[position]
    if position != 1:
        raise MalformedPickleError("a second protocol inside the pickle")
    if not 2 <= version <= 5:
        raise UnsupportedPickleError(f"pickle protocol {version}; gradtool reads 2 to 5")
    return position + 1


def frame(vm: Machine, position: int) -> int:
    """FRAME: check how far to read ahead, which is a hint without other effect."""
    nbytes = u64(vm.data, position)[0]
    vm.end_of(position + 8, max(nbytes - sum(vm.holes.values()), 0))
    return position + 8


def stop(vm: Machine, position: int) -> int:
    """STOP: end the pickle; the one value on the stack is the result."""
    if vm.marks or len(vm.stack) != 1:
        raise MalformedPickleError("other than one value is left at the end")
    if position != len(vm.data):
        raise MalformedPickleError(f"{len(vm.data) - position} bytes follow the end of the pickle")
    return -1


def mark(vm: Machine, position: int) -> int:
    """MARK: begin a new stack, whose values a later opcode takes all at once."""
    if len(vm.marks) == _MAX_MARKS:
        raise UnsupportedPickleError(f"nests too deeply: more than {_MAX_MARKS} open marks")
    vm.marks.append(vm.stack)
    vm.stack = []
    return position


def binput(vm: Machine, position: int) -> int:
    """BINPUT: put the last value into the memo, under an index of one byte."""
    vm.memo.put(vm.data[position], vm.stack[-1])
    return position + 1


def long_binput(vm: Machine, position: int) -> int:
    """LONG_BINPUT: put the last value into the memo, under an index of four bytes."""
    index = u32(vm.data, position)[0]
    if index == len(vm.memo.counted) and not vm.memo.others:
        vm.spend(ITEM_COST)
        vm.memo.counted.append(vm.stack[-1])
    else:
        vm.spend(ENTRY_COST)
        vm.memo.put(index, vm.stack[-1])
    return position + 4


def memoize(vm: Machine, position: int) -> int:
    """MEMOIZE: put the last value into the memo, under the number of values there."""
    memo = vm.memo
    if memo.others:
        vm.spend(ENTRY_COST)
        memo.put(len(memo.counted) + len(memo.others), vm.stack[-1])
    else:
        vm.spend(ITEM_COST)
        memo.counted.append(vm.stack[-1])
    return position


def binget(vm: Machine, position: int) -> int:
    """BINGET: push the value in the memo under an index of one byte."""
    vm.stack.append(vm.memo.get(vm.data[position]))
    return position + 1


def long_binget(vm: Machine, position: int) -> int:
    """LONG_BINGET: push the value in the memo under an index of four bytes."""
    vm.stack.append(vm.memo.get(u32(vm.data, position)[0]))
    return position + 4


def close_tuple(vm: Machine, position: int) -> int:
    """TUPLE: make a tuple of all values above the mark."""
    items = vm.above_mark()
    vm.spend(TUPLE_COST + ITEM_COST * len(items))
    vm.stack.append(tuple(items))
    return position


def make_tuple1(vm: Machine, position: int) -> int:
    """TUPLE1: make a tuple of the last value."""
    vm.spend(TUPLE_COST)
    vm.stack[-1] = (vm.stack[-1],)
    return position


def make_tuple2(vm: Machine, position: int) -> int:
    """TUPLE2: make a tuple of the last two values."""
    vm.spend(TUPLE_COST)
    last = vm.stack.pop()
    vm.stack[-1] = (vm.stack[-1], last)
    return position


def make_tuple3(vm: Machine, position: int) -> int:
    """TUPLE3: make a tuple of the last three values."""
    vm.spend(TUPLE_COST)
    last = vm.stack.pop()
    middle = vm.stack.pop()
    vm.stack[-1] = (vm.stack[-1], middle, last)
    return position


def append(vm: Machine, position: int) -> int:
    """APPEND: add the last value to the list before it."""
    items_of(vm.stack[-2]).append(vm.stack.pop())
    return position


def appends(vm: Machine, position: int) -> int:
    """APPENDS: add all values above the mark to the list before it."""
    items = vm.above_mark()
    items_of(vm.stack[-1]).extend(items)
    return position


def additems(vm: Machine, position: int) -> int:
    """ADDITEMS: add all values above the mark to the set before it."""
    items = vm.above_mark()
    target = vm.stack[-1]
    if type(target) is not Unordered:
        raise MalformedPickleError(f"adds items to {describe(target)}")
    target.extend(items)
    return position


def close_frozenset(vm: Machine, position: int) -> int:
    """FROZENSET: make a set of all values above the mark."""
    items = vm.above_mark()
    vm.spend(CONTAINER_COST + ITEM_COST * len(items))
    vm.stack.append(Unordered(items))
    return position


def setitem(vm: Machine, position: int) -> int:
    """SETITEM: put a key and its value into the dict before them."""
    vm.spend(ENTRY_COST)
    value = vm.stack.pop()
    key = vm.stack.pop()
    set_items(vm.stack[-1], [key, value])
    return position


def setitems(vm: Machine, position: int) -> int:
    """SETITEMS: put all above the mark, keys and values in turn, into the dict before it."""
    items = vm.above_mark()
    vm.spend(ENTRY_COST * len(items) // 2)
    set_items(vm.stack[-1], items)
    return position


def push_global(vm: Machine, position: int) -> int:
    """GLOBAL: push the global named on the next two lines, which is not looked up."""
    middle = vm.data.find(b"\n", position)
    end = vm.data.find(b"\n", middle + 1)
    if middle < 0 or end < 0:
        raise MalformedPickleError("a name without an end")
    module, qualname = vm.data[position:middle], vm.data[middle + 1 : end]
    vm.spend(OBJECT_COST + TUPLE_COST)
    vm.stack.append(global_of(str(module, "utf-8"), str(qualname, "utf-8")))
    return end + 1


def push_stack_global(vm: Machine, position: int) -> int:
    """STACK_GLOBAL: push the global named by the last two values, which is not looked up."""
    vm.spend(OBJECT_COST + TUPLE_COST)
    qualname = vm.stack.pop()
    vm.stack[-1] = global_of(vm.stack[-1], qualname)
    return position


def reduce(vm: Machine, position: int) -> int:
    """REDUCE: make the stand-in for the result of a call, see `calls.call`."""
    vm.spend(OBJECT_COST)
    args = vm.stack.pop()
    vm.stack[-1] = vm.keep(call(vm.stack[-1], args, vm.spend))
    return position


def newobj(vm: Machine, position: int) -> int:
    """NEWOBJ: make the stand-in for `cls.__new__(cls, *args)`, see `calls.make_object`."""
    vm.spend(OBJECT_COST)
    args = vm.stack.pop()
    vm.stack[-1] = vm.keep(make_object(vm.stack[-1], args, vm.spend))
    return position


def newobj_ex(vm: Machine, position: int) -> int:
    """NEWOBJ_EX: make the stand-in for `cls.__new__(cls, *args, **keywords)`."""
    vm.spend(OBJECT_COST)
    keywords = vm.stack.pop()
    args = vm.stack.pop()
    vm.stack[-1] = vm.keep(call_with_keywords(vm.stack[-1], args, keywords, vm.spend))
    return position


def build(vm: Machine, position: int) -> int:
    """BUILD: give the value before the last its attributes, which the last value holds."""
    build_object(vm.stack[-2], vm.stack.pop())
    return position


def binpersid(vm: Machine, position: int) -> int:
    """BINPERSID: push what the last value names, see `calls.named_by`."""
    vm.spend(OBJECT_COST + ENTRY_COST)
    named = named_by(vm.stack[-1])
    vm.stack[-1] = vm.first_mention(named) if type(named) is Storage else named
    return position
