"""Changes to the tensors of a torch file: their types, places, shapes and hooks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Final

from fuzz.files.pickles import call, literal, name, plain, sequence
from fuzz.files.torch_files import REBUILDS, SIZES, TorchFile
from fuzz.mutations.fragments import CLASSES, DTYPES, hooks

Mutation = Callable[[TorchFile, random.Random], None]


def change_hooks(file: TorchFile, rng: random.Random) -> None:
    if tensors := file.tensors():
        rng.choice(tensors).parts[1].parts[5] = hooks(file, rng)


def change_class(file: TorchFile, rng: random.Random) -> None:
    """Another class for one mention of a storage, or for all, most often with a fitting numel."""
    known = file.persistent_ids()
    if not known:
        return
    chosen = rng.choice(known)
    key, old, new = literal(chosen.parts[2]), chosen.parts[1].value, rng.choice(CLASSES)
    is_fitting, is_everywhere = rng.random() < 0.8, rng.random() < 0.5
    for one in known if is_everywhere else [chosen]:
        count = literal(one.parts[4])
        if literal(one.parts[2]) != key or type(count) is not int:
            continue
        one.parts[1] = name(new)
        if is_fitting:
            one.parts[4] = plain(count * SIZES.get(old, 1) // SIZES[new])


def change_rebuild(file: TorchFile, rng: random.Random) -> None:
    """Rebuild a tensor by another of torch's functions, of the same elements or others."""
    tensors = file.tensors()
    if not tensors:
        return
    node = rng.choice(tensors)
    args = node.parts[1].parts
    if node.parts[0].value == REBUILDS[1]:
        args[6:7] = [name(f"torch.{rng.choice(DTYPES)}")]
        return
    if rng.random() < 0.3:
        node.parts = [name("torch._utils._rebuild_tensor"), sequence(*args[:4])]
        return
    dtype = name(f"torch.{rng.choice(DTYPES)}")
    node.parts = [name(REBUILDS[1]), sequence(*args[:6], dtype, *args[6:7])]


def change_view(file: TorchFile, rng: random.Random) -> None:
    """Another offset, shape or strides, most often such as stay inside of the storage."""
    tensors = file.tensors()
    if not tensors:
        return
    args = rng.choice(tensors).parts[1].parts
    shape, strides, offset = literal(args[2]), literal(args[3]), literal(args[1])
    if not (_are_sizes(shape) and _are_sizes(strides) and 0 < len(shape) == len(strides)):
        args[2], args[3] = plain((1,)), plain((1,))
        return
    axis, kind = rng.randrange(len(shape)), rng.randrange(8)
    if kind == 0:
        args[2], args[3] = plain(shape[::-1]), plain(strides[::-1])
    elif kind == 1:
        args[2], args[3] = plain((math.prod(shape),)), plain((1,))
    elif kind == 2:
        args[1] = plain(offset + 1 if isinstance(offset, int) else 0)
        args[2] = plain(_with(shape, axis, max(shape[axis] - 1, 0)))
    elif kind == 3:
        args[3] = plain(_with(strides, axis, 0))
    elif kind == 4:
        args[2] = plain(_with(shape, axis, max(shape[axis] + rng.choice((-1, 1)), 0)))
    elif kind == 5:
        args[2], args[3] = plain((*shape, 1)), plain((*strides, rng.choice((0, 1, 7))))
    elif kind == 6:
        args[2], args[3] = (call("torch.Size", plain(shape)), plain([*strides]))
    else:
        args[rng.choice((1, 2, 3))] = plain(rng.choice((-1, 1 << 62, 0.0, True, "1", (2,), None)))


def _are_sizes(found: Any) -> bool:
    return isinstance(found, tuple) and all(type(one) is int for one in found)


def _with(numbers_of: Any, axis: int, value: int) -> tuple[Any, ...]:
    return (*numbers_of[:axis], value, *numbers_of[axis + 1 :])


def change_metadata(file: TorchFile, rng: random.Random) -> None:
    """Set the bits that a tensor is stored conjugated or negated, or others."""
    if tensors := file.tensors():
        node = rng.choice(tensors)
        at = 7 if node.parts[0].value == REBUILDS[1] else 6
        value = {rng.choice(("neg", "conj", "neg", "other")): rng.choice((True, False, 1, None))}
        node.parts[1].parts[at:] = [plain(rng.choice((value, value, {}, None, [1])))]


def change_persistent_id(file: TorchFile, rng: random.Random) -> None:
    """Another key, location or number of elements."""
    known = file.persistent_ids()
    if not known:
        return
    parts = rng.choice(known).parts
    key, numel = literal(parts[2]), literal(parts[4])
    other = literal(rng.choice(known).parts[2])
    keys = (other, 0, f"./{key}", f"{key}/", f"../data/{key}", str(key).upper(), 1.0, "")
    kind = rng.randrange(3)
    if kind == 0:
        parts[2] = plain(rng.choice(keys))
    elif kind == 1:
        locations = "meta", "cuda:0", "cpu:0", "", None, "mps", "CPU"
        parts[3] = rng.choice((*map(plain, locations), call("_codecs.encode", plain("cpu"))))
    elif type(numel) is int:
        parts[4] = plain(rng.choice((numel - 1, numel + 1, float(numel), -numel, True, 1 << 61, 0)))


TENSOR_MUTATIONS: Final[dict[Mutation, int]] = {
    change_class: 4, change_rebuild: 4, change_view: 8, change_metadata: 2, change_hooks: 1,
    change_persistent_id: 1,
}  # fmt: skip
