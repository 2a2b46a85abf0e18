"""The state of an inert pickle interpreter: a stack with marks, a memo, and a budget.

A pickle of a few megabytes can ask for a hundred times its size in empty lists alone. Opcodes
therefore pay for what they make, in about the bytes that Python takes for it, out of a budget that
grows with the pickle. Checkpoints need up to 15 times the bytes of their pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, get_args

from gradtool.core.element_types import storage_type
from gradtool.core.figures import byte_size
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    CoordinatesRef,
    MalformedPickleError,
    MetaRef,
    SparseRef,
    Storage,
    TensorRef,
    Unmeasured,
    UnsupportedPickleError,
)

OBJECT_COST: Final = 112
"""Bytes of a stand-in, with the names in it."""
CONTAINER_COST: Final = 80
"""Bytes of a list, dict or set without items."""
TUPLE_COST: Final = 64
"""Bytes of a tuple of a few items."""
ITEM_COST: Final = 9
"""Bytes of an item's place in a list or tuple, with its share of the places kept free."""
ENTRY_COST: Final = 64
"""Bytes of an entry in a dict."""

_BUDGET_PER_BYTE: Final = 20
_FREE_BUDGET: Final = 24 << 20

ElementHolder = TensorRef | CoordinatesRef | SparseRef | Unmeasured | MetaRef | ArrayRef | Storage
"""A stand-in for an object that holds elements, or describes some, as a meta tensor does."""
_ELEMENT_HOLDERS: Final = get_args(ElementHolder)  # a third of the time of isinstance with a union


class Memo:
    """Values that the pickle refers back to, under indices that it chooses.

    Picklers count from 0: a list takes a tenth of the memory of a dict, and opcodes append to it
    without a call, as half of all opcodes do. Other indices go to a dict.

    Attributes:
        counted: the values under indices 0, 1, 2 ...
        others: the values under indices that left some out, none of which `counted` holds.
    """

    __slots__ = ("counted", "others")

    def __init__(self) -> None:
        self.counted: list[object] = []
        self.others: dict[int, object] = {}

    def put(self, index: int, value: object) -> None:
        """Keep `value` under `index`."""
        counted = self.counted
        if index < len(counted):
            counted[index] = value
        elif index == len(counted):
            counted.append(value)
            self.others.pop(index, None)
        else:
            self.others[index] = value

    def get(self, index: int) -> object:
        """The value under `index`; MalformedPickleError if there is none."""
        if index < len(self.counted):
            return self.counted[index]
        if index in self.others:
            return self.others[index]
        raise MalformedPickleError("refers to a memo entry that was never made")


class Machine:
    """The state of the interpreter for one pickle.

    Attributes:
        data: the pickle, but for bytes objects that were left out.
        holes: how many bytes those have, by the position in `data` at which they belong.
        skipped: how many bytes were left out before the current position.
        stack: the values above the last MARK.
        marks: the stacks below that MARK and the earlier ones.
        memo: the values that the pickle refers back to.
        made: everything with elements that was made, wherever the pickle then puts it.
    """

    __slots__ = (
        "_budget",
        "_limit",
        "_spellings",
        "_storages",
        "data",
        "holes",
        "made",
        "marks",
        "memo",
        "skipped",
        "stack",
    )

    def __init__(self, data: bytes, holes: Mapping[int, int] = MappingProxyType({})) -> None:
        self.data = data
        self.holes = holes
        self.skipped = 0
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo = Memo()
        self.made: list[ElementHolder] = []
        self._storages: dict[str, Storage] = {}
        self._spellings: dict[bytes, str] = {}
        self._limit = self._budget = _BUDGET_PER_BYTE * len(data) + _FREE_BUDGET

    @property
    def storages(self) -> Mapping[str, Storage]:
        """The storages that persistent ids name, by key."""
        return MappingProxyType(self._storages)

    def above_mark(self) -> list[object]:
        """Take the last MARK and all values above it off the stack; those values."""
        if not self.marks:
            raise MalformedPickleError("finds no MARK")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def end_of(self, start: int, nbytes: int) -> int:
        """The end of an operand of `nbytes` bytes from `start` on, which the pickle must hold."""
        remaining = len(self.data) - start
        if nbytes > remaining:
            raise MalformedPickleError(f"promises {nbytes} bytes, {remaining} are left")
        return start + nbytes

    def spend(self, cost: int) -> None:
        """Take about `cost` bytes from the budget; UnsupportedPickleError if it is exceeded."""
        self._budget -= cost
        if self._budget < 0:
            allowed = f"{byte_size(self._limit)} of memory"
            raise UnsupportedPickleError(
                f"the pickle expands far beyond its size: {byte_size(len(self.data))} of it may "
                f"take {allowed}"
            )

    def keep(self, value: object) -> object:
        """`value`, which is noted in `made` if it holds elements."""
        if isinstance(value, _ELEMENT_HOLDERS):
            self.made.append(value)
        return value

    def first_mention(self, storage: Storage) -> Storage:
        """The storage of the same key that was mentioned first, which is the one that torch reads.

        Raises MalformedPickleError where that one has another type or size: torch would read the
        elements of the one as those of the other.
        """
        first = self._storages.setdefault(storage.key, storage)
        if first is storage:
            record = storage.key.encode("utf-8", "surrogatepass").lower()
            spelled = self._spellings.setdefault(record, storage.key)
            if spelled != storage.key:
                raise MalformedPickleError(
                    f"storages {spelled!r:.80} and {storage.key!r:.80} are one record to torch, "
                    "which tells no case apart"
                )
            self.made.append(storage)
        elif _claims(first) != _claims(storage):
            raise MalformedPickleError(
                f"storage {storage.key!r:.80} is a {storage.class_name:.80} of {storage.numel} "
                f"elements here, and was a {first.class_name:.80} of {first.numel} before"
            )
        return first


def _claims(storage: Storage) -> tuple[str, int]:
    """The type and the number of elements that a storage claims to have."""
    element = storage_type(storage.class_name)
    return element.name if element else storage.class_name, storage.numel
