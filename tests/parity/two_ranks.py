"""Two or four processes that clip DTensors together, and what each of them saw.

As a script it is one of the ranks; `run` starts them all and ends them, whatever they do. What a
rank saw of a case lies in a file of its own, so that a case that hangs or fails takes with it
only those that come after.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

import gradtool.torch as gt

ORDERS = (0.0, 0.5, 1.0, 2.0, 3.0, math.inf, -math.inf, -1.0)
MAX_NORM = 1.0

MAGNITUDES = {torch.float32: 1e30, torch.bfloat16: 1e30, torch.float64: 1e200}
"""Squares of these are beyond the types they are for."""


class Layout(NamedTuple):
    """A gradient: without placements a plain tensor, with one on the last dimension of a mesh."""

    shape: tuple[int, ...]
    placements: tuple[Placement, ...] = ()
    zeros: int = 0


ROWS, COLUMNS, EACH, SUM = Shard(0), Shard(1), Replicate(), Partial()
PLAIN = Layout((5, 3))

LAYOUTS: dict[int, dict[str, list[Layout]]] = {
    2: {
        "even rows": [Layout((6, 5), (ROWS,))],
        "uneven rows": [Layout((7, 3), (ROWS,))],
        "a rank without rows": [Layout((1, 4), (ROWS,))],
        "a rank of zeros": [Layout((6, 2), (ROWS,), zeros=6)],
        "columns": [Layout((4, 5), (COLUMNS,))],
        "replicas": [Layout((3, 4), (EACH,))],
        "pending sums": [Layout((3, 4), (SUM,))],
        "several blocks": [Layout((70_001,), (ROWS,)), Layout((40_000,), (EACH,))],
        "DTensors, then a plain tensor": [Layout((7, 3), (ROWS,)), Layout((2, 3), (EACH,)), PLAIN],
        "a plain tensor, then DTensors": [PLAIN, Layout((3, 4), (SUM,)), Layout((1, 4), (ROWS,))],
    },
    4: {
        "replicas of rows": [Layout((5, 3), (EACH, ROWS))],
        "rows of replicas": [Layout((5, 3), (ROWS, EACH))],
        "rows of rows": [Layout((7, 3), (ROWS, ROWS))],
        "two ranks without rows": [Layout((2, 3), (ROWS, ROWS))],
        "rows and columns": [Layout((5, 3), (ROWS, COLUMNS))],
        "rows of pending sums": [Layout((5, 3), (ROWS, SUM))],
        "pending sums of replicas": [Layout((5, 3), (SUM, EACH))],
        "meshes of one and two dimensions, and none": [
            Layout((5, 3), (ROWS,)),
            Layout((4, 5), (ROWS, COLUMNS)),
            PLAIN,
            Layout((4, 2), (EACH,)),
        ],
    },
}


def full_tensors(layouts: Sequence[Layout], dtype: torch.dtype) -> list[torch.Tensor]:
    """The gradients as one process would have them."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for layout in layouts:
        noise = torch.randn(layout.shape, generator=generator, dtype=torch.float64)
        noise.view(-1)[: layout.zeros] = 0.0
        made.append((noise * MAGNITUDES[dtype]).to(dtype))
    return made


NONFINITE = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


def one_bad_element(value: float) -> dict[str, torch.Tensor]:
    """Gradients by name; of rows, the last rank alone has the one that is not finite."""
    first, second, third = torch.arange(1.0, 31.0).reshape(3, 5, 2)
    second[4, 1] = value
    return {"first": first, "second": second, "third": third}


def distributed(full: torch.Tensor, layout: Layout, mesh: DeviceMesh) -> torch.Tensor:
    """The gradient as this rank has it."""
    placements = layout.placements
    if not placements:
        return full.clone()
    if len(placements) < mesh.ndim:
        mesh = mesh["inner"]
    known = [EACH if at.is_partial() else at for at in placements]
    tensor = distribute_tensor(full, mesh, known)
    if SUM not in placements:
        return tensor
    # Of the two summands one is minus the gradient, the other twice the gradient.
    mine = mesh.get_local_rank(placements.index(SUM))
    return with_local(tensor, tensor.to_local() * (2 if mine else -1), placements)


def with_local(
    like: DTensor, part: torch.Tensor, placements: Sequence[Placement] = ()
) -> torch.Tensor:
    """A DTensor with another part on this rank."""
    return DTensor.from_local(
        part,
        like.device_mesh,
        placements or like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of this rank's part: torch's clone does the sums that are pending."""
    part = local(tensor).clone()
    return with_local(tensor, part) if isinstance(tensor, DTensor) else part


def parameters(grads: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A parameter for a copy of each gradient."""
    made = [copied(grad) for grad in grads]
    for parameter, grad in zip(made, grads, strict=True):
        parameter.grad = copied(grad)
    return made


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradients_of(made: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [local(parameter.grad).clone() for parameter in made]


def number(norm: torch.Tensor) -> dict[str, Any]:
    """A norm as it came back."""
    full = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return {
        "value": full.item(),
        "dtype": full.dtype,
        "as float": float(norm),
        "mesh": norm.device_mesh.shape if isinstance(norm, DTensor) else None,
        "replicated": isinstance(norm, DTensor) and all(p.is_replicate() for p in norm.placements),
    }


def message(call: Callable[[], object]) -> str:
    """What the call raises."""
    try:
        call()
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def clipped(layouts: Sequence[Layout], dtype: torch.dtype, mesh: DeviceMesh) -> dict[str, Any]:
    """What all four functions make of the gradients."""
    pairs = zip(full_tensors(layouts, dtype), layouts, strict=True)
    grads = [distributed(full, layout, mesh) for full, layout in pairs]
    seen: dict[str, Any] = {"before": [local(grad).clone() for grad in grads]}
    for p in ORDERS:
        whole, halves = parameters(grads), parameters(grads)
        measured = gt.get_total_norm(grads, p, dtype=torch.float64)
        returned = gt.clip_grad_norm_(whole, MAX_NORM, p, dtype=torch.float64)
        gt.clip_grads_with_norm_(halves, MAX_NORM, measured)
        seen[str(p)] = {
            "measured": number(measured),
            "returned": number(returned),
            "rounded": number(gt.get_total_norm(grads, p)),
            "after": gradients_of(whole),
            "after halves": gradients_of(halves),
        }
    bounded = parameters(grads)
    seen["error of values"] = message(
        lambda: gt.clip_grad_value_(bounded, MAGNITUDES[dtype])  # type: ignore[arg-type]
    )
    seen["after values"] = gradients_of(bounded)
    return seen


def nonfinite(value: float, mesh: DeviceMesh) -> dict[str, Any]:
    """What a rank sees of an element that is not finite and that it may not have."""
    fulls = one_bad_element(value)
    layouts = [Layout((5, 2), (ROWS,)), Layout((5, 2), (ROWS,)), PLAIN]
    pairs = zip(fulls.values(), layouts, strict=True)
    grads = [distributed(full, layout, mesh) for full, layout in pairs]
    made = parameters(grads)
    named = [*zip(fulls, made, strict=True)]
    return {
        "has it": any(not bool(local(grad).isfinite().all()) for grad in grads),
        "norms": {
            str(p): number(gt.get_total_norm(grads, p, dtype=torch.float64))["value"]
            for p in ORDERS
        },
        "named": message(lambda: gt.clip_grad_norm_(named, 1.0, error_if_nonfinite=True)),
        "unnamed": message(lambda: gt.clip_grad_norm_(made, 1.0, error_if_nonfinite=True)),
        "measured": message(
            lambda: gt.get_total_norm([*zip(fulls, grads, strict=True)], error_if_nonfinite=True)
        ),
        "kept": all(
            torch.equal(after.nan_to_num(7.0), local(grad).nan_to_num(7.0))
            for after, grad in zip(gradients_of(made), grads, strict=True)
        ),
    }


def cases(world: int) -> dict[str, Callable[[], object]]:
    """All that a rank does, in the order in which every rank does it."""
    from sharded_models import arriving, published_1d, published_2d, trained  # noqa: PLC0415 - of a rank alone

    shape, names = ((2,), ("inner",)) if world == 2 else ((2, 2), ("outer", "inner"))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    found: dict[str, Callable[[], object]] = {}
    for name, layouts in LAYOUTS[world].items():
        for dtype in MAGNITUDES:
            found[f"{name} {dtype}"] = lambda a=layouts, b=dtype: clipped(a, b, mesh)
    if world == 2:
        for name, value in NONFINITE.items():
            found[name] = lambda a=value: nonfinite(a, mesh)
        found["training"] = lambda: {
            "ours": trained(gt.clip_grad_norm_, mesh),
            "theirs": trained(torch.nn.utils.clip_grad_norm_, mesh),
            "ours narrow": trained(
                partial(gt.clip_grad_norm_, dtype=torch.float64), mesh, torch.float32
            ),
        }
        found["arriving"] = lambda: arriving(mesh)
        found["published 1d"] = lambda: published_1d(mesh)
    else:
        found["published 2d"] = lambda: published_2d(mesh)
    return found


def main(rank: int, world: int, folder: Path) -> None:
    """Be a rank."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=20),
    )
    for name, case in cases(world).items():
        torch.save(case(), folder / f"{name}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


def run(world: int, folder: Path, seconds: float) -> str:
    """Have so many ranks write what they see into `folder`; what they print besides.

    None of them lives longer than `seconds`.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": loopback,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    log = folder / "log"
    deadline = time.monotonic() + seconds
    with log.open("wb") as printed:
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(world), str(folder)],
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            for rank in range(world)
        ]
        try:
            for rank in ranks:
                rank.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            printed.write(f"\nended after {seconds} s".encode())
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    codes = [rank.returncode for rank in ranks]
    return f"exit codes {codes}\n{log.read_text(errors='replace')}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
