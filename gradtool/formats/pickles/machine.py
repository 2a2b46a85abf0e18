"""The state of an inert pickle interpreter: a stack with marks, a memo, and a budget.

A pickle of a few megabytes can ask for a hundred times its size in empty lists alone. What each
opcode makes is therefore paid for, in about the bytes that Python takes for it, out of a budget
that grows with the pickle. Checkpoints need up to 15 times their pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gradtool.core.element_types import storage_type
from gradtool.core.figures import byte_size
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    MalformedPickleError,
    MetaRef,
    SparseRef,
    Storage,
    TensorRef,
    Unmeasured,
    UnsupportedPickleError,
)

OBJECT_COST: Final = 112
"""Of a stand-in, with the names in it."""
CONTAINER_COST: Final = 80
"""Of a list, dict or set without items."""
TUPLE_COST: Final = 64
"""Of a tuple of a few items."""
ITEM_COST: Final = 9
"""Of a place in a list or tuple, some of which are kept free."""
ENTRY_COST: Final = 64
"""Of an entry in a dict."""

_BUDGET_PER_BYTE: Final = 20
_FREE_BUDGET: Final = 24 << 20

Elements = TensorRef | SparseRef | Unmeasured | MetaRef | ArrayRef | Storage
"""What holds elements, or would."""


class Memo:
    """The values to refer back to, under numbers of the pickle's choice.

    Picklers count from 0, which a list holds in a tenth of the memory of a dict.
    """

    __slots__ = ("_counted", "_others")

    def __init__(self) -> None:
        self._counted: list[object] = []
        self._others: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self._counted) + len(self._others)

    def __setitem__(self, index: int, value: object) -> None:
        counted = self._counted
        if index == len(counted) and index not in self._others:
            counted.append(value)
        elif index < len(counted):
            counted[index] = value
        else:
            self._others[index] = value

    def __getitem__(self, index: int) -> object:
        if index < len(self._counted):
            return self._counted[index]
        if index in self._others:
            return self._others[index]
        raise MalformedPickleError("refers to a memo entry that was never made")


class Machine:
    """The state of one run.

    Attributes:
        data: the pickle.
        stack: what lies above the last MARK.
        marks: the stacks below it.
        made: everything with elements that was made, wherever the pickle then puts it.
        storages: those that were named, by key.
    """

    __slots__ = (
        "_budget",
        "_limit",
        "_spellings",
        "_storages",
        "data",
        "made",
        "marks",
        "memo",
        "stack",
    )

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo = Memo()
        self.made: list[Elements] = []
        self._storages: dict[str, Storage] = {}
        self._spellings: dict[bytes, str] = {}
        self._limit = self._budget = _BUDGET_PER_BYTE * len(data) + _FREE_BUDGET

    @property
    def storages(self) -> Mapping[str, Storage]:
        """The storages that persistent ids name, by key."""
        return MappingProxyType(self._storages)

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

    def spend(self, cost: int) -> None:
        """Pay for what takes about `cost` bytes; UnsupportedPickleError where all is spent."""
        self._budget -= cost
        if self._budget < 0:
            allowed = f"{byte_size(self._limit)} of memory"
            raise UnsupportedPickleError(
                f"the pickle expands far beyond its size: {byte_size(len(self.data))} of it may "
                f"take {allowed}"
            )

    def keep(self, value: object) -> object:
        """`value`, noted if it holds elements."""
        if isinstance(value, Elements):
            self.made.append(value)
        return value

    def first_mention(self, named: Storage) -> Storage:
        """The storage with that key as it was named first, which is how torch reads it.

        Raises MalformedPickleError where it was of another type or size: torch would read the
        elements of the one as those of the other.
        """
        first = self._storages.setdefault(named.key, named)
        if first is named:
            record = named.key.encode("utf-8", "surrogatepass").lower()
            spelled = self._spellings.setdefault(record, named.key)
            if spelled != named.key:
                raise MalformedPickleError(
                    f"storages {spelled!r:.80} and {named.key!r:.80} are one record to torch, "
                    "which tells no case apart"
                )
            self.made.append(named)
        elif _claims(first) != _claims(named):
            raise MalformedPickleError(
                f"storage {named.key!r:.80} is a {named.class_name:.80} of {named.numel} elements "
                f"here, and was a {first.class_name:.80} of {first.numel} before"
            )
        return first


def _claims(storage: Storage) -> tuple[str, int]:
    element = storage_type(storage.class_name)
    return element.name if element else storage.class_name, storage.numel
