"""Finding tensors that share memory, so that each element is measured once and scaled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gradtool.core.shapes.strides import span

Key = TypeVar("Key")

WriteBacks = list[Callable[[], object]]
"""Functions to call once copies have changed: they write the elements back to the gradients."""


def distinct(
    groups: Mapping[Key, Sequence[Tensor]], write_backs: WriteBacks
) -> dict[Key, list[Tensor]]:
    """The elements of all tensors, each once, in contiguous tensors.

    Tensors that overlap others or themselves, or have gaps, are replaced by copies of the
    elements that they name together; functions that write these back are added to `write_backs`.

    Raises RuntimeError for memory that tensors of different groups share.
    """
    members = [tensor for tensors in groups.values() for tensor in tensors]
    overlapping = _linked(members)
    if not overlapping:
        return {key: list(tensors) for key, tensors in groups.items()}  # nearly always
    keys = [key for key, tensors in groups.items() for _ in tensors]
    replaced = {index for together in overlapping for index in together}
    kept: dict[Key, list[Tensor]] = {key: [] for key in groups}
    for index, tensor in enumerate(members):
        if index not in replaced:
            kept[keys[index]].append(tensor)
    for together in overlapping:
        key = keys[together[0]]
        if any(keys[index] != key for index in together):
            raise RuntimeError("gradients of different dtypes or meshes share memory")
        kept[key].append(_union([members[index] for index in together], write_backs))
    return kept


def _linked(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Positions of tensors that overlap, directly or by others, in a list for each such set.

    A tensor that overlaps no other but has gaps or repeats elements is in a list of its own.
    """
    contiguous = [tensor.is_contiguous() for tensor in tensors]
    starts = np.array([tensor.data_ptr() for tensor in tensors], np.int64)
    sizes = [
        tensor.nbytes if is_contiguous else _span_nbytes(tensor)
        for tensor, is_contiguous in zip(tensors, contiguous, strict=True)
    ]
    if not starts.all() and any(
        tensor.numel() and not tensor.is_meta
        for tensor, start in zip(tensors, starts.tolist(), strict=True)
        if not start
    ):
        raise RuntimeError("the memory of a gradient was freed")
    ends = np.where(starts, starts + sizes, 0)  # a tensor without an address has no memory
    order = np.argsort(starts, kind="stable")
    apart = starts[order][1:] >= np.maximum.accumulate(ends[order])[:-1]
    overlapping = []
    if not apart.all():
        parts = np.split(order, np.flatnonzero(apart) + 1)
        overlapping = sorted(sorted(part.tolist()) for part in parts if len(part) > 1)
    linked = {index for together in overlapping for index in together}
    alone = [
        [index]
        for index, is_contiguous in enumerate(contiguous)
        if not is_contiguous and index not in linked
    ]
    return overlapping + alone


def _span_nbytes(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    return span(tensor.shape, tensor.stride()) * tensor.itemsize


def _union(tensors: Sequence[Tensor], write_backs: WriteBacks) -> Tensor:
    """The elements that any of the tensors names: the tensor that names all, or a copy.

    For a copy the host waits for the device, which counts the elements.
    """
    storage, itemsize = tensors[0].untyped_storage(), tensors[0].itemsize
    start = min(tensor.data_ptr() for tensor in tensors)
    end = max(tensor.data_ptr() + _span_nbytes(tensor) for tensor in tensors)
    numel = (end - start) // itemsize
    for tensor in tensors:
        if tensor.is_contiguous() and tensor.numel() == numel:
            return tensor
    if any(tensor.untyped_storage().data_ptr() != storage.data_ptr() for tensor in tensors):
        raise RuntimeError("gradients share memory that is no one storage")
    first = min(tensor.storage_offset() for tensor in tensors)
    largest = max(tensors, key=lambda tensor: tensor.untyped_storage().nbytes())
    whole = largest.as_strided((numel,), (1,), first)
    named = torch.zeros(numel, dtype=torch.bool, device=whole.device)
    for tensor in tensors:
        offset = tensor.storage_offset() - first
        named.as_strided(tensor.shape, tensor.stride(), offset).fill_(True)
    elements = whole[named]
    write_backs.append(partial(whole.index_put_, (named,), elements))
    return elements
