"""MLX's files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import torch

from writers.oracles import Oracle, flat


def _mlx(save: str, file: str, loader: str, dtypes: tuple[str, ...]) -> Callable[[], None]:
    """What saves gradients of a two-layer network by the function of mlx.core so named."""

    def write() -> None:
        import mlx.core as mx  # noqa: PLC0415
        from mlx import nn  # noqa: PLC0415
        from mlx.utils import tree_flatten  # noqa: PLC0415

        mx.random.seed(15)
        module = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3))
        x, wanted = mx.random.normal((5, 7)), mx.random.normal((5, 3))

        def loss(layers: Any) -> Any:
            return nn.losses.mse_loss(layers(x), wanted)

        _, grads = nn.value_and_grad(module, loss)(module)
        kinds = [getattr(mx, dtype) for dtype in dtypes]
        live = {
            name: value.astype(kinds[i % len(kinds)])
            for i, (name, value) in enumerate(tree_flatten(grads))
        }
        live["temperature"] = mx.array(0.75)
        mx.eval(live)
        os.makedirs("checkpoint")
        path = f"checkpoint/{file}"
        if save == "savez":
            mx.savez(path, **live)
        else:
            getattr(mx, save)(path, live)
        whole = {
            name: torch.tensor(value.astype(mx.float32).tolist()).to(getattr(torch, _name(value)))
            for name, value in live.items()
        }
        oracle = Oracle(("mlx",))
        oracle.add(path, loader, whole, flat)
        oracle.write()

    return write


def _name(value: Any) -> str:
    return str(value.dtype).rpartition(".")[2]


WRITERS: Final = {
    "mlx_safetensors": _mlx(
        "save_safetensors", "grads.safetensors", "safetensors", ("float32", "bfloat16", "float16")
    ),
    "mlx_gguf": _mlx("save_gguf", "grads.gguf", "gguf", ("float32", "float16")),
    "mlx_npz": _mlx("savez", "grads.npz", "npz", ("float32", "float16")),
}
"""What writes each layout into the current directory."""
