"""Gradients in formats of other programs: GGUF as gguf-py writes it, Flax's msgpack."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from writers.nets import adam, net, train
from writers.oracles import Oracle, SectionOf, flat, flattened, gathered

_WIDE: Final = {0: torch.float32, 1: torch.float16, 2: torch.float64}


def _gradients() -> dict[str, Tensor]:
    """Those of the network, one block of which is bfloat16, some widened or narrowed."""
    module = net()
    train(module, adam(module), range(2))
    found = gathered({name: parameter.grad for name, parameter in module.named_parameters()})
    floats = {name: grad for name, grad in found.items() if grad.dtype != torch.bfloat16}
    return found | {name: grad.to(_WIDE[at % 3]) for at, (name, grad) in enumerate(floats.items())}


def _gguf(*, big_endian: bool) -> Callable[[], None]:
    def write() -> None:
        import gguf  # noqa: PLC0415

        grads = _gradients()
        order = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
        os.makedirs("checkpoint")
        path = "checkpoint/grads.gguf"
        writer = gguf.GGUFWriter(path, "net", endianess=order)
        writer.add_custom_alignment(64)
        for name, grad in grads.items():
            if grad.dtype != torch.bfloat16:
                writer.add_tensor(name, grad.numpy())
            elif not big_endian:  # whose bytes the writer would leave as they are
                raw = grad.view(torch.uint8).numpy()
                writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        writer.add_tensor("seen", np.int64([7]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        kept = {name: g for name, g in grads.items() if not big_endian or g.dtype in _WIDE.values()}
        oracle = Oracle(("gguf",))
        oracle.add(path, "gguf", kept, flat)
        oracle.write()

    return write


def _flax_state() -> None:
    """A state as Flax's examples train it: parameters, Adam's moments, a step."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import optax  # noqa: PLC0415
    from flax import linen, serialization  # noqa: PLC0415
    from flax.training.train_state import TrainState  # noqa: PLC0415

    class Layers(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.Dense(13)(x)
            x = linen.Dense(5, param_dtype=jnp.bfloat16)(linen.LayerNorm()(linen.relu(x)))
            return x.sum()

    module = Layers()
    x = jax.random.normal(jax.random.key(15), (6, 7))
    params = module.init(jax.random.key(16), x)["params"]
    state = TrainState.create(apply_fn=module.apply, params=params, tx=optax.adamw(1e-2))
    for _ in range(3):
        grads = jax.grad(lambda p: module.apply({"params": p}, x))(state.params)
        state = state.apply_gradients(grads=grads)
    live = serialization.to_state_dict(state)
    _write_flax("state.msgpack", serialization.to_bytes(state), live, _of_state)


def _flax_chunked() -> None:
    """Gradients of which one is cut, as Flax cuts what is larger than 1 GiB."""
    from flax import serialization  # noqa: PLC0415

    serialization.MAX_CHUNK_SIZE = 900
    grads = {
        name: grad.numpy() for name, grad in _gradients().items() if grad.dtype != torch.bfloat16
    }
    content = serialization.to_bytes(grads)
    assert content.count(b"__msgpack_chunked_array__") > 1
    _write_flax("grads.msgpack", content, grads, flat)


def _write_flax(name: str, content: bytes, live: Any, section_of: SectionOf) -> None:
    os.makedirs("checkpoint")
    path = f"checkpoint/{name}"
    with open(path, "wb") as file:
        file.write(content)
    oracle = Oracle(("flax", "jax", "msgpack"))
    oracle.add(path, "flax", flattened(_as_torch(live)), section_of)
    oracle.write()


def _as_torch(tree: Any) -> Any:
    """A tree of JAX's or NumPy's arrays as one of torch's tensors."""
    if isinstance(tree, dict):
        return {key: _as_torch(value) for key, value in tree.items()}
    array = np.asarray(tree)
    kind = getattr(torch, array.dtype.name)
    return torch.tensor(array.astype(np.float64).tolist(), dtype=torch.float64).to(kind)


def _of_state(name: str) -> str:
    """The section of a tensor of Optax's and Flax's states."""
    head, *rest = name.split(".")
    if head == "params":
        return "model"
    return f"optimizer.{rest[1]}" if rest[1:] and rest[1] in ("mu", "nu") else "other"


WRITERS: Final[dict[str, Callable[[], None]]] = {
    "gguf": _gguf(big_endian=False),
    "gguf_big_endian": _gguf(big_endian=True),
    "flax_state": _flax_state,
    "flax_chunked": _flax_chunked,
}
"""What writes each layout into the current directory."""
