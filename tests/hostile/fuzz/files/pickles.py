"""Pickles as graphs: taken apart into values, changed, and put together again.

Only what `torch.save` writes (protocol 2) is taken apart. What is put together may be anything
that torch's restricted unpickler can be told: each node is one of its operations, over nodes.
A node that is used twice is one object for whoever loads it.
"""

from __future__ import annotations

import pickletools
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

_CONSTANTS: Final = {None: b"N", True: b"\x88", False: b"\x89"}
_EMPTY: Final = {list: b"]", dict: b"}", tuple: b")", set: b"\x8f"}


@dataclass(eq=False)
class Node:
    """A value of a pickle.

    `kind` is what makes it: "constant" (of `value`), "empty" (a container of type `value`),
    "global" (`value` is its dotted name), "raw" (`value` are opcodes), or one of the operations
    "tuple", "extend", "items", "call", "new", "build" and "persistent" over `parts`.
    """

    kind: str
    value: Any = None
    parts: list[Node] = field(default_factory=list)


def constant(value: object) -> Node:
    """None, a bool, a number or text; an `int` beyond 32 bits is spelled as a long."""
    return Node("constant", value)


def name(dotted: str) -> Node:
    """The global of that name."""
    return Node("global", dotted)


def sequence(*parts: Node) -> Node:
    """A tuple."""
    return Node("tuple", parts=list(parts))


def listed(*parts: Node) -> Node:
    """A list."""
    return Node("extend", parts=[Node("empty", list), *parts])


def mapping(*pairs: tuple[Node, Node]) -> Node:
    """A dict."""
    return Node("items", parts=[Node("empty", dict), *(part for pair in pairs for part in pair)])


def call(dotted: str, *args: Node) -> Node:
    """What calling the global `dotted` gives."""
    return Node("call", parts=[name(dotted), sequence(*args)])


def plain(value: object) -> Node:
    """The node of a value made of Python's own types."""
    if isinstance(value, Node):
        return value
    if isinstance(value, tuple):
        return sequence(*map(plain, value))
    if isinstance(value, list):
        return listed(*map(plain, value))
    if isinstance(value, dict):
        return mapping(*((plain(key), plain(item)) for key, item in value.items()))
    return constant(value)


def nodes(root: Node) -> Iterator[Node]:
    """Every node once, a node before its parts."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += reversed(node.parts)


def literal(node: Node) -> Any:
    """The value of a tuple, list or constant; None for anything else."""
    if node.kind == "constant":
        return node.value
    if node.kind == "tuple":
        return tuple(map(literal, node.parts))
    return [*map(literal, node.parts[1:])] if node.kind == "extend" else None


def is_call(node: Node, *dotted: str) -> bool:
    """Whether the node calls one of the globals named, with a tuple spelled out."""
    return (
        node.kind == "call"
        and node.parts[0].kind == "global"
        and node.parts[0].value in dotted
        and node.parts[1].kind == "tuple"
    )


def parse(data: bytes) -> Node:
    """The graph of a pickle of protocol 2, or of protocol 3, which has bytes besides."""
    parser = _Parser()
    for opcode, arg, _ in pickletools.genops(data):
        parser.take(opcode.name, arg)
    return parser.stack[0]


class _Parser:
    """The stack of an unpickler, of nodes instead of values."""

    def __init__(self) -> None:
        self.stack: list[Node] = []
        self._marks: list[list[Node]] = []
        self._memo: dict[int, Node] = {}

    def take(self, opcode: str, arg: Any) -> None:
        """Do what an opcode says."""
        if opcode in _PUSHED:
            self.stack.append(_PUSHED[opcode]())
        elif opcode in _JOINED:
            kind, count = _JOINED[opcode]
            self.stack[-count:] = [Node(kind, parts=self.stack[-count:])]
        elif opcode in _CLOSED:
            items, self.stack = self.stack, self._marks.pop()
            target = [] if opcode == "TUPLE" else [self.stack.pop()]
            self.stack.append(Node(_CLOSED[opcode], parts=[*target, *items]))
        elif opcode == "MARK":
            self._marks.append(self.stack)
            self.stack = []
        elif opcode.endswith("BINPUT"):
            self._memo[arg] = self.stack[-1]
        elif opcode.endswith("BINGET"):
            self.stack.append(self._memo[arg])
        elif opcode == "GLOBAL":
            self.stack.append(name(arg.replace(" ", ".")))
        elif opcode not in ("PROTO", "STOP"):
            self.stack.append(constant(arg))


_PUSHED: Final[dict[str, Callable[[], Node]]] = {
    "EMPTY_LIST": lambda: Node("empty", list),
    "EMPTY_DICT": lambda: Node("empty", dict),
    "EMPTY_TUPLE": sequence,
    "NONE": lambda: constant(None),
    "NEWTRUE": lambda: constant(True),
    "NEWFALSE": lambda: constant(False),
}
_JOINED: Final = {
    "TUPLE1": ("tuple", 1), "TUPLE2": ("tuple", 2), "TUPLE3": ("tuple", 3), "APPEND": ("extend", 2),
    "SETITEM": ("items", 3), "REDUCE": ("call", 2), "NEWOBJ": ("new", 2), "BUILD": ("build", 2),
    "BINPERSID": ("persistent", 1),
}  # fmt: skip
_CLOSED: Final = {"TUPLE": "tuple", "APPENDS": "extend", "SETITEMS": "items"}


def emit(root: Node, style: random.Random | None = None) -> bytes:
    """The pickle of a graph; `style` chooses among the ways to spell the same."""
    return b"\x80\x02" + _Emitter(root, style).done() + b"."


class _Emitter:
    """Writes a graph depth first, by a stack of its own: graphs may be deep."""

    def __init__(self, root: Node, style: random.Random | None) -> None:
        self._uses = Counter(id(part) for node in nodes(root) for part in node.parts)
        self._style = style
        self._memo: dict[int, int] = {}
        self._waiting: list[Node | bytes | tuple[Node]] = [root]

    def done(self) -> bytes:
        written = bytearray()
        while self._waiting:
            item = self._waiting.pop()
            if isinstance(item, bytes):
                written += item
            elif isinstance(item, tuple):
                written += self._put(item[0])
            elif id(item) in self._memo:
                written += _indexed(b"hj", self._memo[id(item)])
            else:
                self._expand(item)
        return bytes(written)

    def _put(self, node: Node) -> bytes:
        self._memo[id(node)] = index = len(self._memo)
        return _indexed(b"qr", index)

    def _expand(self, node: Node) -> None:
        """Push what `node` is written as, in reverse."""
        is_shared = self._uses[id(node)] > 1 or self._chance(0.1)
        pieces = [*self._pieces(node), *([(node,)] if is_shared else [])]
        self._waiting += reversed(pieces)

    def _pieces(self, node: Node) -> list[Node | bytes | tuple[Node]]:
        """What a node is written as: bytes, and nodes whose own bytes stand there."""
        parts: list[Any] = list(node.parts)
        if node.kind in _LEAVES:
            return [_LEAVES[node.kind](node.value)]
        if node.kind == "constant":
            return [self._constant(node.value)]
        if node.kind == "tuple":
            return self._tuple(parts)
        if node.kind in _FILLED:
            return self._filled(parts, *_FILLED[node.kind])
        return [*parts, _LAST[node.kind]]

    def _tuple(self, parts: list[Any]) -> list[Any]:
        if 1 <= len(parts) <= 3 and not self._chance(0.2):
            return [*parts, bytes((0x84 + len(parts),))]
        return [b"(", *parts, b"t"] if parts or self._chance(0.2) else [b")"]

    def _filled(self, parts: list[Any], width: int, one: bytes, many: bytes) -> list[Any]:
        target, *items = parts
        if len(items) == width or self._chance(0.1):
            groups = [items[at : at + width] for at in range(0, len(items), width)]
            return [target, *(piece for group in groups for piece in (*group, one))]
        return [target, b"(", *items, many]

    def _constant(self, value: object) -> bytes:
        if value is None or isinstance(value, bool):
            return _CONSTANTS[value]
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, bytes):
            return b"B" + struct.pack("<I", len(value)) + value
        text = str(value).encode("utf-8", "surrogatepass")
        if len(text) < 256 and self._chance(0.1):
            return b"U" + bytes((len(text),)) + text
        return b"X" + struct.pack("<I", len(text)) + text

    def _integer(self, value: int) -> bytes:
        if 0 <= value < 256 and not self._chance(0.1):
            return b"K" + bytes((value,))
        if 0 <= value < 65536 and not self._chance(0.1):
            return b"M" + struct.pack("<H", value)
        if -(1 << 31) <= value < 1 << 31 and not self._chance(0.1):
            return b"J" + struct.pack("<i", value)
        nbytes = (value.bit_length() // 8) + 1
        return b"\x8a" + bytes((nbytes,)) + value.to_bytes(nbytes, "little", signed=True)

    def _chance(self, probability: float) -> bool:
        return self._style is not None and self._style.random() < probability


def _indexed(codes: bytes, index: int) -> bytes:
    if index < 256:
        return bytes((codes[0], index))
    return bytes((codes[1],)) + struct.pack("<I", index)


def _global(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode("utf-8", "surrogatepass")


_LEAVES: Final[dict[str, Callable[[Any], bytes]]] = {
    "empty": _EMPTY.__getitem__,
    "raw": bytes,
    "global": _global,
}
_FILLED: Final = {"extend": (1, b"a", b"e"), "items": (2, b"s", b"u")}
_LAST: Final = {"persistent": b"Q", "call": b"R", "new": b"\x81", "build": b"b"}
