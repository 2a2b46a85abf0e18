"""Gradients in formats of other programs: GGUF as gguf-py writes it, Flax's msgpack."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from writers.nets import adam, net, train
from writers.oracles import Oracle, flat, gathered

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


WRITERS: Final[dict[str, Callable[[], None]]] = {
    "gguf": _gguf(big_endian=False),
    "gguf_big_endian": _gguf(big_endian=True),
}
"""What writes each layout into the current directory."""
