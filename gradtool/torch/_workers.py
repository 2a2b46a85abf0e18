"""Threads of our own in which torch computes serially.

torch's own threads meet at a barrier after every operation. Over thousands of operations on
cache-sized pieces, each waits for the slowest; and where another process (a data loader, say)
takes one of the cores, that is until it gives it back. Threads that each take the next piece
do not wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Final, TypeVar

import torch

from gradtool.torch._blocks import Bench, Block

Result = TypeVar("Result")

_MOST_WORKERS: Final = 8
"""More would wait for Python's lock, which each holds for a tenth of its time."""

_SHARE_NUMEL: Final = 1 << 22
"""Elements of the blocks that a worker takes at a time."""

_FEW_NUMEL: Final = 1 << 20
"""Up to so many it is not worth waking anyone."""

_pool: list[ThreadPoolExecutor] = []
_starting = Lock()


def each(
    function: Callable[[Bench, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Result]:
    """`function` of each block, in their order, on as many cores as torch is given."""
    if not _is_worth_it(blocks, device):
        return _share(function, blocks, device, dtype)
    pool = _workers(torch.get_num_threads())
    found = [pool.submit(_share, function, share, device, dtype) for share in _shares(blocks)]
    return [result for future in found for result in future.result()]


def _is_worth_it(blocks: Sequence[Block], device: torch.device) -> bool:
    """Not where work is the device's, or Python's: small tensors take turns at its lock."""
    return (
        device.type == "cpu"
        and torch.get_num_threads() > 1
        and not torch.is_inference_mode_enabled()
        and sum(block.numel for block in blocks if not block.addresses) > _FEW_NUMEL
    )


def _shares(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    share: list[Block] = []
    numel = 0
    for block in blocks:
        share.append(block)
        numel += block.numel
        if numel >= _SHARE_NUMEL:
            yield share
            share, numel = [], 0
    if share:
        yield share


def _share(
    function: Callable[[Bench, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Result]:
    with torch.no_grad():  # each thread has a mode of its own
        bench = Bench(device, dtype, blocks)
        return [function(bench, block) for block in blocks]


def _workers(count: int) -> ThreadPoolExecutor:
    """The threads of this process, started when they are first needed."""
    with _starting:
        if not _pool:
            workers = min(count, _MOST_WORKERS)
            pool = ThreadPoolExecutor(workers, "gradtool", _compute_serially)
            started = Barrier(workers + 1)
            for _ in range(workers):
                pool.submit(started.wait)
            started.wait()
            torch.set_num_threads(count)  # for threads to come; those that are keep their own
            _pool.append(pool)
        return _pool[0]


def _compute_serially() -> None:
    """Of this thread alone, once it has been told what all threads are told when they start."""
    torch.get_num_threads()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    # Threads do not survive in the child of a fork.
    os.register_at_fork(after_in_child=_pool.clear)
