"""A plain pickle of NumPy arrays, taken apart into its graph, and changes to the arrays in that.

It is a torch file without records, so that whatever changes the object of one changes this too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from fuzz.files.pickles import Node, constant, emit, literal, nodes, parse, plain
from fuzz.files.poison import numbers, spoiled
from fuzz.files.torch_files import TorchFile
from fuzz.files.zips import Archive

Mutation = Callable[["PickleFile", random.Random], None]

_SHAPE, _TYPE, _FORTRAN, _DATA = 1, 2, 3, 4
"""Positions in an array's state, after its version."""


class PickleFile(TorchFile):
    """The file in its parts, of which there is no archive."""

    @classmethod
    def parse(cls, content: bytes) -> PickleFile:
        """The parts of what `pickle.dump` wrote, in protocol 2 or 3."""
        return cls(parse(content), Archive([]), b"")

    def build(self) -> bytes:
        """The file's bytes."""
        pickle = emit(self.root, self.style)
        for change in self.late:
            pickle = change(pickle)
        return pickle

    def states(self) -> list[Node]:
        """The tuples that are the states of arrays."""
        built = (node.parts[1] for node in nodes(self.root) if node.kind == "build")
        return [node for node in built if node.kind == "tuple" and len(node.parts) == _DATA + 1]


def change_shape(file: PickleFile, rng: random.Random) -> None:
    """Another shape of as many elements, or of more or fewer, negative or huge."""
    for state in _one(file, rng):
        shape = literal(state.parts[_SHAPE]) or ()
        others = ((*shape[::-1],), (1, *shape), (*shape, 2), (-1,), (1 << 62, 2), (), (0,), [2, 3])
        state.parts[_SHAPE] = plain(rng.choice(others))


def change_type(file: PickleFile, rng: random.Random) -> None:
    """The type of another array, another name for its own, or another byte order in its state."""
    for state in _one(file, rng):
        kind = state.parts[_TYPE]
        if rng.random() < 0.4:
            state.parts[_TYPE] = rng.choice(file.states()).parts[_TYPE]
        elif kind.kind == "build" and rng.random() < 0.5:
            order = rng.choice(("<", ">", "|", "="))
            kind.parts[1].parts[1:2] = [constant(order)]
        else:
            made = [one for one in nodes(kind) if one.kind == "call"]
            for call in made[:1]:
                code = rng.choice(("f4", "f8", "f2", "i4", "c8", "u1", "O8", "V4", "<f4", ">f4"))
                call.parts[1].parts[:1] = [constant(code)]


def change_order(file: PickleFile, rng: random.Random) -> None:
    """The other order of elements."""
    for state in _one(file, rng):
        state.parts[_FORTRAN] = constant(rng.choice((True, False, 1, 0, None)))


def change_data(file: PickleFile, rng: random.Random) -> None:
    """More or fewer bytes, those of another array, or what are no bytes."""
    for state in _one(file, rng):
        data = state.parts[_DATA]
        more = data.value + numbers(rng, 4) if isinstance(data.value, bytes) else data.value
        other = rng.choice(file.states()).parts[_DATA]
        if any(one is state for one in nodes(other)):  # an array would be part of itself
            other = plain(None)
        state.parts[_DATA] = rng.choice((constant(more), other, plain(None), plain([1.5])))


def spoil_bytes(file: PickleFile, rng: random.Random) -> None:
    """A NaN or infinity in the data of an array."""
    stored = [node for node in nodes(file.root) if isinstance(node.value, bytes)]
    if stored:
        node = rng.choice(stored)
        node.value = spoiled(rng, node.value)


def follow(file: PickleFile, rng: random.Random) -> None:
    """Something behind the pickle, or its end left out."""
    at, more = rng.random(), numbers(rng, 9)
    cuts: tuple[Callable[[bytes], bytes], ...] = (
        lambda pickle: pickle[: int(len(pickle) * at)],
        lambda pickle: pickle + more,
        lambda pickle: pickle + pickle,
    )
    file.late.append(rng.choice(cuts))


def _one(file: PickleFile, rng: random.Random) -> list[Node]:
    """The state of one array; none where there are no arrays."""
    states = file.states()
    return [rng.choice(states)] if states else []


PICKLE_MUTATIONS: Final[dict[Mutation, int]] = {
    change_shape: 4, change_type: 4, change_order: 1, change_data: 3, spoil_bytes: 4, follow: 1,
}  # fmt: skip
