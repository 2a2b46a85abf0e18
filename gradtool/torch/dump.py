"""Live gradients written to disk, so that `gradtool inspect` can tell everything about them."""

from __future__ import annotations

import ctypes
import json
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from gradtool.arguments import number
from gradtool.arrays.memory import holds_its_elements, torch_dtype_name
from gradtool.arrays.parameters import NamedArray, named_arrays, refuse_repeated
from gradtool.core.element_types import listed_name
from gradtool.engine.schedule import in_order
from gradtool.errors import EmptyDumpError, FileAccessError, UsageError
from gradtool.formats.dump_metadata import DUMP_VERSION, MODEL_ORDER, DumpMetadata
from gradtool.storage.links import target_path
from gradtool.storage.sink import Sink, create_sink
from gradtool.storage.workspace import Workspace, warn, writing
from gradtool.torch._mesh import is_dtensor, waited

_WRITERS: Final = 2
_PIECE_NBYTES: Final = 8 << 20
_ALIGNMENT: Final = 8
_BUILT: Final = "dump"

BETWEEN: Final = "call it after backward() and before zero_grad()"
"""What to do where there is no gradient."""

_STORED: Final = frozenset(
    {
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
    }
)
"""Dtypes of gradients that safetensors has."""


@dataclass(slots=True)
class _Dump:
    """What is to be written: tensors by name, and what is known about them."""

    tensors: dict[str, Tensor]
    metadata: DumpMetadata


@torch.no_grad()
def dump_gradients(
    model_or_named_parameters: torch.nn.Module | Iterable[tuple[str, Tensor]],
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    loss_scale: float | None = None,
) -> str:
    """Write the gradients of a model to a safetensors file, whole or not at all.

        dump_gradients(model, f"grads/step{step:06d}.safetensors", step=step)

    The file is on disk, and in the place of an older one, when this returns; whoever is killed on
    the way leaves the older one as it was. `gradtool inspect` then says of it what
    `gradtool.measure(model)` says now.

    Args:
        model_or_named_parameters: a module, or pairs of name and parameter. Where Megatron keeps
            a `main_grad` it is taken. A gradient that parameters share whole is stored once, and
            the other names are noted, as is each parameter that was to have a gradient and has
            none, and the order of all of them. Of a DTensor the part of this rank is written, with
            its placement; of a sparse tensor the values, and their indices as `NAME.indices`. A
            tensor that neither has nor wants a gradient is taken for one.
        path: the file; `{rank}` in it becomes the number of this process.
        step: of the training, to be noted.
        loss_scale: what the gradients are multiplied by (`scaler.get_scale()`), to be noted:
            gradtool divides by it.

    Returns:
        The path written.

    Raises:
        EmptyDumpError: there is no gradient at all.
        UsageError: a `loss_scale` or `step` that cannot be, a dtype that safetensors has not, the
            flat pieces of FSDP1, or gradients in parts and a path that is the same for all ranks.
        FileAccessError: the file cannot be written.
    """
    shown, rank, world_size = os.fsdecode(path), *place_in_world()
    metadata = DumpMetadata(
        DUMP_VERSION, _step(step), _scale(loss_scale), rank, world_size, order=MODEL_ORDER
    )
    dump = _collected(named_gradients(model_or_named_parameters), metadata)
    if dump.metadata.shards and (world_size or 1) > 1 and "{rank}" not in shown:
        raise UsageError(
            f"{shown}: gradients are split over {world_size} ranks, each of which writes a file",
            hint="put {rank} into the path",
        )
    shown = shown.replace("{rank}", str(rank or 0))
    if not dump.tensors:
        problem = "not written: no parameter has a gradient"
        raise EmptyDumpError(shown, problem, hint=BETWEEN)
    _write(shown, dump)
    return shown


def named_gradients(source: Any) -> list[NamedArray]:
    """The gradients of a module or of pairs of name and parameter; UsageError for anything else."""
    named = named_arrays(source)
    if named is None:
        kind = type(source).__name__
        if isinstance(source, list | tuple):
            kind += f" of {type(source[0]).__name__}"
        raise UsageError(
            f"expected a module or pairs of name and parameter, not {kind}",
            hint="give model.named_parameters(), or the items() of a dict",
        )
    return named


def place_in_world() -> tuple[int | None, int | None]:
    """The number of this process and of all of them; None where there is no process group."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None, None
    return distributed.get_rank(), distributed.get_world_size()


def _step(step: int | None) -> int | None:
    if step is None:
        return None
    if isinstance(step, bool) or not hasattr(step, "__index__") or step < 0:
        raise UsageError(f"`step` must be a whole number, at least 0, not {step!r}")
    return operator.index(step)


def _scale(loss_scale: float | None) -> float:
    scale = 1.0 if loss_scale is None else number("loss_scale", loss_scale)
    if not 0.0 < scale < float("inf"):
        raise UsageError(f"`loss_scale` must be positive and finite, not {loss_scale}")
    return scale


def _collected(named: Iterable[NamedArray], metadata: DumpMetadata) -> _Dump:
    dump = _Dump({}, metadata)
    stored: dict[object, str] = {}
    indices: dict[str, Tensor] = {}
    for name, grad, dtype in named:
        _refuse_name(name)
        metadata.names.append(name)
        if grad is None:
            metadata.absent[name] = listed_name(dtype)
            continue
        _refuse_foreign(name, grad)
        local = grad
        if is_dtensor(grad):
            metadata.shards[name] = _placement(grad)
            local = grad.to_local()
        local = waited(local)
        elements = (id(local) if local.is_sparse else _elements(local), local.dtype, local.device)
        first = stored.setdefault(elements, name) if local.numel() else name
        if first != name:
            metadata.aliases[name] = first
        elif local.is_sparse:
            values = local.coalesce()
            metadata.sparse[name] = list(local.shape)
            dump.tensors[name] = values._values()
            indices[f"{name}.indices"] = values._indices()
            metadata.names.append(f"{name}.indices")
        else:
            dump.tensors[name] = local
    refuse_repeated(metadata.names)
    dump.tensors.update(indices)
    return dump


def _elements(tensor: Tensor) -> object:
    """A key that is equal for tensors of the very same elements."""
    values = tensor.is_conj(), tensor.is_neg()
    return tensor.data_ptr(), tensor.shape, tensor.stride(), values


def _refuse_name(name: str) -> None:
    if name == "__metadata__" or name.encode(errors="replace").decode() != name:
        raise UsageError(f"safetensors has no tensor called {name!r}")


def _refuse_foreign(name: str, grad: Any) -> None:
    if not isinstance(grad, Tensor):
        raise UsageError(f"{name!r} is no tensor of torch: {type(grad).__name__}")
    if grad.dtype not in _STORED:
        raise UsageError(f"{name!r}: safetensors has no gradients of {grad.dtype}")
    if grad.is_meta or grad.layout not in (torch.strided, torch.sparse_coo):
        what = "without elements" if grad.is_meta else f"of the layout {grad.layout}"
        raise UsageError(f"{name!r}: safetensors has no tensors {what}")
    local: Any = grad
    local = waited(local.to_local() if is_dtensor(grad) else local)
    if not local.is_sparse and not holds_its_elements(local):
        raise UsageError(f"{name!r}: its memory was freed")


def _placement(grad: Any) -> dict[str, Any]:
    mesh = grad.device_mesh
    return {
        "shape": list(grad.shape),
        "placements": [str(placement) for placement in grad.placements],
        "mesh": list(mesh.shape),
        "mesh_dim_names": mesh.mesh_dim_names,
        "coordinate": mesh.get_coordinate(),
    }


def _write(shown: str, dump: _Dump) -> None:
    # Larger elements first, so that all are aligned; the metadata note the model's order.
    order = sorted(dump.tensors.items(), key=lambda item: -item[1].itemsize)
    header, offsets = _header(order, dump.metadata)
    target = _target(shown)
    with Workspace(target, shown) as workspace, writing(shown):
        workspace.require_space(offsets[-1:])
        with create_sink(_BUILT, dir_fd=workspace.directory) as sink:
            sink.allocate(offsets[-1])
            sink.write(0, memoryview(header))
            pieces = _pieces([tensor for _, tensor in order], offsets)
            with ThreadPoolExecutor(_WRITERS) as executor:
                for _ in in_order(pieces, partial(_write_piece, sink), executor, 2 * _WRITERS):
                    pass
            workspace.finish(sink)
        warn(workspace.commit(_BUILT, overwrite=True))


def _target(shown: str) -> str:
    """The real path, which a device, a pipe or a directory has to itself."""
    target = target_path(shown)
    if shown.endswith(os.sep) or (os.path.lexists(target) and not os.path.isfile(target)):
        kind = "is a directory" if os.path.isdir(target) else "is no regular file"
        raise FileAccessError(shown, f"cannot be written: {kind}")
    return target


def _header(
    tensors: Sequence[tuple[str, Tensor]], metadata: DumpMetadata
) -> tuple[bytes, list[int]]:
    """The file's first bytes, and where in it each tensor begins, and the last one ends."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata.strings()}}
    ends = [0]
    for name, tensor in tensors:
        ends.append(ends[-1] + tensor.nbytes)
        entries[name] = {
            "dtype": listed_name(torch_dtype_name(tensor.dtype)),
            "shape": list(tensor.shape),
            "data_offsets": ends[-2:],
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, [start + end for end in ends]


class _Piece(NamedTuple):
    """Bytes in memory, kept there by `owner`, and where in the file they go."""

    owner: Tensor
    address: int
    nbytes: int
    offset: int


def _pieces(tensors: Iterable[Tensor], offsets: Iterable[int]) -> Iterator[_Piece]:
    for tensor, offset in zip(tensors, offsets, strict=False):
        local = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu()
        for start in range(0, local.nbytes, _PIECE_NBYTES):
            nbytes = min(_PIECE_NBYTES, local.nbytes - start)
            yield _Piece(local, local.data_ptr() + start, nbytes, offset + start)


def _write_piece(sink: Sink, piece: _Piece) -> None:
    data = (ctypes.c_char * piece.nbytes).from_address(piece.address)
    sink.write_vector(piece.offset, [memoryview(data).cast("B")])
