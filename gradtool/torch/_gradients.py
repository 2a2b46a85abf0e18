"""Gathering the distinct elements of gradients, each to be measured once and scaled once.

Gradients may be sparse, sharded, conjugated, have gaps, come twice, or share memory. `gather` makes
contiguous tensors of them, no two of which share memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

from gradtool.core.shapes.strides import is_dense, span
from gradtool.torch._blocks import Block, blocks
from gradtool.torch._mesh import is_dtensor, is_partial, reduced, shard_of, waited
from gradtool.torch._overlaps import WriteBacks, distinct

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PLAIN = (Tensor, torch.nn.Parameter)
_NO_RANKS: tuple[ProcessGroup, ...] = ()


class Group(NamedTuple):
    """What tensors have in common whose elements are measured in one pass.

    `ranks` are the groups of processes over which each of them is split.
    """

    device: torch.device
    dtype: torch.dtype
    ranks: tuple[ProcessGroup, ...]


@dataclass(slots=True)
class Gradients:
    """The distinct elements of some gradients, as far as this rank has them.

    Attributes:
        numel: elements of all gradients, those on other ranks included.
        groups: blocks of contiguous tensors that share no memory.
        write_backs: functions that copy changed elements back where the blocks are copies.
        has_pending_sums: whether a gradient is a sum over ranks that is yet to be done.
    """

    numel: int = 0
    groups: dict[Group, list[Block]] = field(default_factory=dict)
    write_backs: WriteBacks = field(default_factory=list)
    has_pending_sums: bool = False


def gather(grads: Iterable[Tensor], *, summed: bool = True) -> Gradients:
    """The distinct elements of `grads`.

    `summed` says whether pending sums over ranks are done first. A norm needs them; for scaling
    each rank's summand is right, and it can be written to.

    Raises:
        RuntimeError: memory that gradients of two dtypes share.
        NotImplementedError: a layout or a tensor subclass that is not known.
    """
    gathered = Gradients()
    plain: list[Tensor] = []
    special: dict[Group, list[Tensor]] = {}
    sparse: set[object] = set()
    for grad in grads:
        if (
            type(grad) in _PLAIN
            and grad.layout is torch.strided
            and grad.is_contiguous()
            and not grad.is_conj()
            and not grad.is_neg()
        ):
            plain.append(grad)  # nearly every gradient
            continue
        local, ranks, numel = grad, _NO_RANKS, grad.numel()
        if type(grad) not in _PLAIN:
            local, ranks = _local(grad, gathered, summed=summed)
        if local.layout is not torch.strided:
            key = _stored_values(local)
            if key in sparse:
                continue
            sparse.add(key)
            local = _values(local, gathered.write_backs)
            numel = local.numel()
        gathered.numel += numel
        group = Group(local.device, local.dtype, ranks)
        special.setdefault(group, []).append(_in_memory_order(local))
    groups = _grouped(plain)
    for group, tensors in special.items():
        groups.setdefault(group, []).extend(tensors)
    gathered.numel += sum([grad.numel() for grad in plain])
    for group, tensors in distinct(groups, gathered.write_backs).items():
        gathered.groups[group] = list(blocks(tensors))
    return gathered


def _grouped(tensors: list[Tensor]) -> dict[Group, list[Tensor]]:
    if not tensors:
        return {}
    grouped: Any = _group_tensors_by_device_and_dtype([tensors])  # type: ignore[list-item]
    return {
        Group(device, dtype, _NO_RANKS): members
        for (device, dtype), ([members], _) in grouped.items()
    }


def _local(
    grad: Tensor, gathered: Gradients, *, summed: bool
) -> tuple[Tensor, tuple[ProcessGroup, ...]]:
    """The plain tensor in a subclass, of a DTensor this rank's part, and the groups of its ranks.

    Notes a pending sum in `gathered`.
    """
    if is_dtensor(grad):
        dtensor: Any = grad
        if is_partial(dtensor):
            gathered.has_pending_sums = True
            dtensor = reduced(dtensor) if summed else dtensor
        return shard_of(dtensor)
    grad = waited(grad)
    if type(grad).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise NotImplementedError(f"gradients of type {type(grad).__name__} have no plain elements")
    return grad.as_subclass(Tensor), _NO_RANKS


def _stored_values(grad: Tensor) -> object:
    """A key that is equal for sparse tensors of the very same values, coalesced or not."""
    if grad.layout is not torch.sparse_coo:
        raise NotImplementedError(f"gradients of layout {grad.layout} are not supported")
    values = grad._values()
    return values.data_ptr(), values.shape, grad._indices().data_ptr()


def _values(grad: Tensor, write_backs: WriteBacks) -> Tensor:
    """The explicit values of a sparse COO gradient, each index once."""
    coalesced = grad
    if not grad.is_coalesced():
        coalesced = grad.coalesce()
        write_backs.append(partial(grad.copy_, coalesced))
    return coalesced._values()


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The tensor's memory as a contiguous tensor; a view with gaps or repetitions as it is.

    Conjugation and negation are taken off: they matter neither to norms nor to scaling.
    """
    if tensor.is_conj():
        tensor = tensor.conj()
    if tensor.is_neg():
        tensor = torch._neg_view(tensor)
    gapless = span(tensor.shape, tensor.stride()) == tensor.numel()
    if tensor.is_contiguous() or not (gapless and is_dense(tensor.shape, tensor.stride())):
        return tensor
    return tensor.as_strided((tensor.numel(),), (1,))
