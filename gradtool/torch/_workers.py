"""Work on blocks, in torch's own threads for as long as those have the cores to themselves.

torch's threads meet at a barrier after each operation: on cores of their own that is fastest.
Where another process (a data loader, say) takes a core, each of thousands of barriers is one
until it gives that back. Then the rest is left to threads of ours, in which torch computes
serially, and which do not wait for each other. Results are the same to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from time import perf_counter
from typing import Final, TypeVar

import torch

from gradtool.torch._blocks import Bench, Block

Result = TypeVar("Result")

STALLED_S: Final = 2e-3
"""A block that takes so many seconds has waited; 0.1 ms is usual, and a tensor's copy 1 us."""

_COPY_S: Final = 1e-6
_MOST_WORKERS: Final = 8
_SHARE_NUMEL: Final = 1 << 22
"""Elements of the blocks that a worker takes at a time."""

_pool: list[ThreadPoolExecutor] = []
_starting = Lock()


def each(
    function: Callable[[Bench, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
    *,
    stalled_s: float = STALLED_S,
) -> list[Result]:
    """`function` of each block, in their order, on as many cores as torch is given."""
    bench = Bench(device, dtype, blocks)
    # Workers would compute outside of inference mode, which is a thread's own.
    threads = 1 if torch.is_inference_mode_enabled() else torch.get_num_threads()
    can_stall = device.type == "cpu" and threads > 1
    found: list[Result] = []
    for block in blocks:
        started = perf_counter()
        found.append(function(bench, block))
        taken = perf_counter() - started - _COPY_S * len(block.addresses)
        if can_stall and taken >= stalled_s:
            break
    rest = blocks[len(found) :]
    if rest:
        pool = _workers(threads)
        shares = [pool.submit(_share, function, share, device, dtype) for share in _shares(rest)]
        found.extend(result for share in shares for result in share.result())
    return found


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
    with torch.no_grad():  # which is a thread's own too
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
