"""Values that hold numbers, in the ways that torch reads them: what is put into pickles."""

from __future__ import annotations

import random
from typing import Final

from fuzz.files.pickles import Node, call, constant, is_call, listed, literal, name, plain, sequence
from fuzz.files.poison import number, numbers
from fuzz.files.torch_files import (
    ITEMSIZES,
    REBUILDS,
    SIZES,
    TorchFile,
    no_hooks,
    stored,
    tensor_as,
    tensor_over,
)

CLASSES: Final = (*SIZES,)
DTYPES: Final = (*ITEMSIZES,)


def fragment(file: TorchFile, rng: random.Random) -> Node:
    """Something that holds numbers, in one of the ways that torch reads."""
    kind = rng.choice(_FRAGMENTS)
    return kind(file, rng)


def plain_tensor(file: TorchFile, rng: random.Random) -> Node:
    """A tensor over a record of its own."""
    class_name = rng.choice(CLASSES[:12])
    count = rng.choice((1, 2, 4, 6))
    key = file.add_storage(numbers(rng, count * SIZES[class_name]))
    shape = rng.choice(((count,), (1, count), (count, 1), () if count == 1 else (count,)))
    return tensor_over(stored(key, class_name, count), shape)


def typed_tensor(file: TorchFile, rng: random.Random) -> Node:
    """A tensor over bytes, of a type that its rebuilding says."""
    dtype = rng.choice(DTYPES)
    count = rng.choice((1, 2, 4))
    key = file.add_storage(numbers(rng, count * ITEMSIZES[dtype]))
    class_name = "torch.storage.UntypedStorage" if rng.random() < 0.8 else rng.choice(CLASSES)
    numel = count * ITEMSIZES[dtype] // SIZES[class_name]
    return tensor_as(stored(key, class_name, numel), dtype, (count,))


def second_view(file: TorchFile, rng: random.Random) -> Node:
    """A tensor over a storage that others name too, perhaps as another type."""
    known = file.persistent_ids()
    if not known:
        return plain_tensor(file, rng)
    _, cls, key, _, numel = rng.choice(known).parts
    count = literal(numel)
    if cls.value not in SIZES or type(count) is not int:
        return plain_tensor(file, rng)
    class_name = cls.value if rng.random() < 0.8 else rng.choice(CLASSES)
    count = count * SIZES[cls.value] // SIZES[class_name]
    storage = stored(literal(key), class_name, count)
    if rng.random() < 0.3:
        dtype = rng.choice(DTYPES)
        return tensor_as(storage, dtype, (max(count * SIZES[class_name] // ITEMSIZES[dtype], 0),))
    return tensor_over(storage, (max(count - rng.randrange(2), 0),))


def second_mention(file: TorchFile, rng: random.Random) -> Node:
    """A storage that others name too, perhaps as another type, and that no tensor wraps."""
    known = file.persistent_ids()
    if not known:
        return bare_storage(file, rng)
    _, cls, key, _, numel = rng.choice(known).parts
    count, class_name = literal(numel), rng.choice((cls.value, rng.choice(CLASSES)))
    if cls.value not in SIZES or class_name not in SIZES or type(count) is not int:
        return bare_storage(file, rng)
    return stored(literal(key), class_name, count * SIZES[cls.value] // SIZES[class_name])


def tensor_of_numbers(file: TorchFile, rng: random.Random) -> Node:
    """A tensor made of Python numbers, by calling a tensor class."""
    del file
    kind = rng.choice(("Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "BFloat16Tensor",
                       "LongTensor", "BoolTensor"))  # fmt: skip
    is_whole = kind in ("LongTensor", "BoolTensor")
    items = [plain(3 if is_whole else number(rng)) for _ in range(rng.choice((1, 2, 3)))]
    argument = rng.choice((listed, sequence))(*items)
    return Node(rng.choice(("call", "call", "call", "new")),
                parts=[name(f"torch.{kind}"), sequence(argument)])  # fmt: skip


def bare_storage(file: TorchFile, rng: random.Random) -> Node:
    """A storage that no tensor wraps."""
    class_name = rng.choice(CLASSES)
    count = rng.choice((1, 2, 4))
    return stored(file.add_storage(numbers(rng, count * SIZES[class_name])), class_name, count)


def wrapped(file: TorchFile, rng: random.Random) -> Node:
    """A tensor inside a parameter, an object of state, or a conversion."""
    return in_wrapper(plain_tensor(file, rng), file, rng)


_FRAGMENTS: Final = (
    plain_tensor, plain_tensor, plain_tensor, typed_tensor, typed_tensor, second_view, second_view,
    second_mention, tensor_of_numbers, bare_storage, wrapped,
)  # fmt: skip


def in_wrapper(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    """A tensor in one of the things that torch makes of tensors."""
    return rng.choice(_WRAPPERS)(tensor, file, rng)


def _parameter(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    needs = plain(rng.random() < 0.5)
    return call("torch._utils._rebuild_parameter", tensor, needs, hooks(file, rng))


def _called_parameter(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    del file
    arguments = [tensor, plain(rng.random() < 0.5)][: rng.choice((1, 2))]
    parts = [name("torch.nn.parameter.Parameter"), sequence(*arguments)]
    return Node(rng.choice(("call", "new")), parts=parts)


def _parameter_with_state(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    rebuild = "torch._utils._rebuild_parameter_with_state"
    return call(rebuild, tensor, plain(rng.random() < 0.5), no_hooks(), state(file, rng))


def _of_type(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    if not is_call(tensor, *REBUILDS):
        return _built(tensor, file, rng)
    function, args = tensor.parts
    kind = name(rng.choice(("torch.Tensor", "torch.nn.parameter.Parameter")))
    return call("torch._tensor._rebuild_from_type_v2", function, kind, args, state(file, rng))


def _cast(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    del file
    dtype, device = name(f"torch.{rng.choice(DTYPES)}"), call("torch.device", plain("cpu"))
    rebuild = "torch._utils._rebuild_device_tensor_from_cpu_tensor"
    return call(rebuild, tensor, dtype, device, plain(False))


def _copied(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    del file
    return call(f"torch.{rng.choice(('Tensor', 'FloatTensor', 'DoubleTensor'))}", tensor)


def _built(tensor: Node, file: TorchFile, rng: random.Random) -> Node:
    return Node("build", parts=[tensor, rng.choice((built_state, state))(file, rng)])


_WRAPPERS: Final = (
    _parameter, _called_parameter, _parameter_with_state, _of_type, _cast, _copied, _built,
)  # fmt: skip


def state(file: TorchFile, rng: random.Random) -> Node:
    """What the attributes of an object may be set from, with something in it that holds numbers."""
    key, value = plain(rng.choice(_ATTRIBUTES)), fragment(file, rng)
    if rng.random() < 0.1:
        value = rng.choice((name("torch.float16"), plain(2.5)))
    attributes = Node("items", parts=[Node("empty", dict), key, value])
    return rng.choice(
        (
            attributes,
            sequence(attributes, constant(None)),
            sequence(constant(None), attributes),
            listed(sequence(key, value)),
        )
    )


_ATTRIBUTES: Final = (
    "data", "grad", "extra", "_backward_hooks", "requires_grad", "real", "names", "dtype",
    "_untyped_storage", "mine",
)  # fmt: skip


def built_state(file: TorchFile, rng: random.Random) -> Node:
    """What BUILD does to a tensor: `set_`, or `__setstate__` of a parameter."""
    kind = rng.randrange(5)
    if kind == 0:
        return sequence(plain_tensor(file, rng))
    if kind == 1:
        key = file.add_storage(numbers(rng, 16))
        parts = stored(key, "torch.FloatStorage", 4), plain(0), plain((4,)), plain((1,))
        return sequence(*parts)
    if kind == 2:
        return sequence(plain(False), plain(True), hooks(file, rng))
    if kind == 3:
        tensor = plain_tensor(file, rng)
        return sequence(tensor, plain(None), no_hooks(), plain(False), plain(True))
    return state(file, rng)


def hooks(file: TorchFile, rng: random.Random) -> Node:
    """What stands where the hooks of a tensor belong."""
    kind = rng.randrange(6)
    if kind == 0:
        return fragment(file, rng)
    if kind == 1:
        return Node("items", parts=[no_hooks(), plain(1), fragment(file, rng)])
    if kind == 2:
        return second_view(file, rng).parts[1].parts[0]
    if kind == 3:
        return constant(None)
    return no_hooks()
