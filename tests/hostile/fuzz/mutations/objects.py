"""Changes to the objects that a torch file's pickle describes."""

from __future__ import annotations

import random
from functools import cache
from typing import Final

from torch._weights_only_unpickler import _get_allowed_globals

from fuzz.files.pickles import Node, call, constant, listed, name, nodes, plain, sequence
from fuzz.files.torch_files import TorchFile, no_hooks, replace
from fuzz.mutations.fragments import fragment, in_wrapper, plain_tensor, state, wrapped
from fuzz.mutations.tensors import Mutation


@cache
def allowed_globals() -> tuple[str, ...]:
    """The names that torch's restricted unpickler allows."""
    return tuple(sorted(_get_allowed_globals()))


def add_entry(file: TorchFile, rng: random.Random) -> None:
    """Something that holds numbers, in a dict, a list or a tuple."""
    containers = file.containers()
    if not containers:
        file.root = Node("items", parts=[Node("empty", dict), plain("root"), file.root])
        containers = [file.root]
    container = rng.choice(containers)
    item = fragment(file, rng)
    if container.kind == "extend":
        container.parts.append(item)
        return
    at = rng.randrange(1, len(container.parts) + 1) | 1
    container.parts[at:at] = [_key(file, rng), item]


def _key(file: TorchFile, rng: random.Random) -> Node:
    kind = rng.randrange(12)
    if kind == 0:
        return plain_tensor(file, rng)
    if kind == 1:
        return sequence(plain_tensor(file, rng), plain(1))
    if kind == 2:
        return name(rng.choice(("torch.float16", "torch.FloatStorage", "collections.OrderedDict")))
    if kind == 3:
        return call("torch.Size", plain((2, rng.randrange(5))))
    if kind == 4:
        keys = 7, 2.5, True, None, ("a", 1), "\udc80", "a.b", "w", 1 << 70, float("nan")
        return plain(rng.choice(keys))
    return plain(f"new{rng.randrange(1000)}")


def replace_value(file: TorchFile, rng: random.Random) -> None:
    """Any value by something that holds numbers, or by another value of the pickle."""
    every = [*nodes(file.root)]
    other = fragment(file, rng) if rng.random() < 0.6 else rng.choice(every)
    replace(rng.choice(every), other)


def replace_item(file: TorchFile, rng: random.Random) -> None:
    """The value of an entry, by something that holds numbers."""
    if fillings := [one for one in file.containers() if len(one.parts) > 2]:
        container = rng.choice(fillings)
        places = range(2 if container.kind == "items" else 1, len(container.parts),
                       2 if container.kind == "items" else 1)  # fmt: skip
        container.parts[rng.choice(places)] = fragment(file, rng)


def wrap_value(file: TorchFile, rng: random.Random) -> None:
    """A value inside a container, or a tensor inside what torch calls on tensors."""
    every = [*nodes(file.root)]
    node = rng.choice(file.tensors() or every) if rng.random() < 0.7 else rng.choice(every)
    inner = Node(node.kind, node.value, node.parts)
    outer = (
        sequence(inner, plain(1)) if rng.random() < 0.1
        else listed(inner) if rng.random() < 0.1
        else call("builtins.set", listed(inner)) if rng.random() < 0.1
        else in_wrapper(inner, file, rng)
    )  # fmt: skip
    node.kind, node.value, node.parts = outer.kind, outer.value, outer.parts


def set_attributes(file: TorchFile, rng: random.Random) -> None:
    """BUILD on a dict, which gives an OrderedDict attributes, or on anything else."""
    kinds = ("items", "call", "new", "global", "persistent")
    every = [one for one in nodes(file.root) if one.kind in kinds]
    if every:
        node = rng.choice(every)
        inner = Node(node.kind, node.value, node.parts)
        if node.kind == "items" and inner.parts[0].kind == "empty":
            inner.parts = [no_hooks(), *inner.parts[1:]]
        node.kind, node.parts = "build", [inner, state(file, rng)]


def change_global(file: TorchFile, rng: random.Random) -> None:
    """A global by another that torch allows."""
    if every := [one for one in nodes(file.root) if one.kind == "global"]:
        rng.choice(every).value = rng.choice(allowed_globals())


def call_global(file: TorchFile, rng: random.Random) -> None:
    """A call of any global that torch allows, over a tensor, numbers or nothing."""
    arguments = (
        [], [plain_tensor(file, rng)], [plain([1.5, float("nan")])], [plain(2), plain(3)],
        [plain_tensor(file, rng), plain(True)], [plain("a"), plain("latin1")],
        [plain({"a": 1}), plain(None)], [listed(plain_tensor(file, rng))],
    )  # fmt: skip
    made = call(rng.choice(allowed_globals()), *rng.choice(arguments))
    container = rng.choice(file.containers() or [file.root])
    if container.kind == "items":
        container.parts += [plain(f"call{rng.randrange(99)}"), made]
    elif container.kind == "extend":
        container.parts.append(made)


def drop_entry(file: TorchFile, rng: random.Random) -> None:
    if fillings := [one for one in file.containers() if len(one.parts) > 2]:
        container = rng.choice(fillings)
        width = 2 if container.kind == "items" else 1
        at = 1 + rng.randrange((len(container.parts) - 1) // width) * width
        del container.parts[at : at + width]


def copy_entry(file: TorchFile, rng: random.Random) -> None:
    """An entry under another key, or the same; a value that two names share."""
    if fillings := [one for one in file.containers() if len(one.parts) > 2]:
        source, target = rng.choice(fillings), rng.choice(fillings)
        value = rng.choice(source.parts[1:])
        if any(one is target for one in nodes(value)):
            return
        key = target.parts[1] if rng.random() < 0.2 else plain(f"copy{rng.randrange(99)}")
        target.parts += [value] if target.kind == "extend" else [key, value]


def change_constant(file: TorchFile, rng: random.Random) -> None:
    """A number, text or truth value by another."""
    if every := [one for one in nodes(file.root) if one.kind == "constant"]:
        node = rng.choice(every)
        kin = [one.value for one in every if type(one.value) is type(node.value)]
        node.value = rng.choice((*kin, 0, 1, "", None, True, 2.0))


def respell(file: TorchFile, rng: random.Random) -> None:
    """The same pickle, spelled otherwise."""
    file.style = random.Random(rng.random())


def add_sibling_of_root(file: TorchFile, rng: random.Random) -> None:
    """A root that is a tuple or list of what it was and something else."""
    parts = [file.root, fragment(file, rng), constant(None)]
    rng.shuffle(parts)
    file.root = rng.choice((sequence, listed))(*parts)


def wrap_root(file: TorchFile, rng: random.Random) -> None:
    """A tensor alone, or one in a wrapper."""
    file.root = rng.choice((wrapped, fragment))(file, rng)


OBJECT_MUTATIONS: Final[dict[Mutation, int]] = {
    add_entry: 6, replace_value: 2, replace_item: 3, wrap_value: 4, set_attributes: 2,
    change_global: 1, call_global: 2, drop_entry: 1, copy_entry: 2, change_constant: 2, respell: 3,
    add_sibling_of_root: 1, wrap_root: 1,
}  # fmt: skip
