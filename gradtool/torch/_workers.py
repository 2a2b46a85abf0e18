"""Work on blocks, in torch's own threads for as long as those have the cores to themselves.

torch's threads meet at a barrier after each operation: on cores of their own that is fastest.
Where another process (a data loader, say) takes a core, each of thousands of barriers is one
until it gives that back. Then the rest is left to threads of ours, in which torch computes
serially, and which do not wait for each other. Small tensors are work for one thread, whatever
happens to the others. Results are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import takewhile
from threading import Barrier, Lock
from time import perf_counter
from typing import Final, TypeVar

import torch

from gradtool.engine.schedule import batches
from gradtool.torch._blocks import Block, BlockBuffers

Result = TypeVar("Result")

STALLED_S: Final = 2e-3
"""A block that takes so many seconds has waited; 0.1 ms is usual."""

STALLS: Final = 3
"""Blocks of a call that have to wait before the rest is left to ours, which are slower where the
cores are free: a machine hiccups now and then.
"""

_MOST_WORKERS: Final = 8
_SHARE_NUMEL: Final = 1 << 22
"""Elements of the blocks that a worker takes at a time."""

_pools: dict[int, ThreadPoolExecutor] = {}
_starting = Lock()


def each(
    function: Callable[[BlockBuffers, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
    *,
    stalled_s: float = STALLED_S,
) -> list[Result]:
    """`function` of each block, in their order, on as many cores as torch is given.

    Small tensors, which come last, are copied by the calling thread, and so computed there.
    """
    buffers = BlockBuffers(device, dtype, blocks)
    # Workers would compute outside of inference mode, which is a thread's own.
    threads = 1 if torch.is_inference_mode_enabled() else torch.get_num_threads()
    can_stall = device.type == "cpu" and threads > 1
    found: list[Result] = []
    stalls = 0
    for block in blocks:
        started = perf_counter()
        found.append(function(buffers, block))
        stalls += not block.addresses and perf_counter() - started >= stalled_s
        if can_stall and stalls == STALLS:
            break
    large = list(takewhile(lambda block: not block.addresses, blocks[len(found) :]))
    if large:
        share = partial(_share, function, device=device, dtype=dtype)
        for results in _by_workers(share, large, threads):
            found.extend(results)
    found.extend(function(buffers, block) for block in blocks[len(found) :])
    return found


def _by_workers(
    share: Callable[[Sequence[Block]], list[Result]], blocks: Sequence[Block], threads: int
) -> list[list[Result]]:
    """What `share` gives for shares of the blocks; nobody works on when this is left."""
    shares = list(batches(blocks, lambda block: block.numel, _SHARE_NUMEL))
    futures: list[Future[list[Result]]] = []
    try:
        with contextlib.suppress(RuntimeError):  # no threads to be had, as when Python is ending
            pool = _workers(threads)
            futures.extend(pool.submit(share, blocks) for blocks in shares)
        results = [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)
        raise
    return results + [share(blocks) for blocks in shares[len(futures) :]]


def _share(
    function: Callable[[BlockBuffers, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Result]:
    with torch.no_grad():  # which is a thread's own too
        buffers = BlockBuffers(device, dtype, blocks)
        return [function(buffers, block) for block in blocks]


def _workers(count: int) -> ThreadPoolExecutor:
    """The threads of this process, started when they are first needed, or needed in number."""
    workers = min(count, _MOST_WORKERS)
    with _starting:
        if workers not in _pools:
            _pools[workers] = _started(workers, count)
        return _pools[workers]


def _started(workers: int, count: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(workers, "gradtool", _compute_serially)
    all_there = Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(all_there.wait)
        all_there.wait()
    except BaseException:
        all_there.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(count)  # for threads to come; those that are keep their own
    return pool


def _compute_serially() -> None:
    """Of this thread alone, once it has been told what all threads are told when they start."""
    torch.get_num_threads()
    torch.set_num_threads(1)


def _forget() -> None:
    """Threads do not survive in the child of a fork, and a lock may have been held."""
    global _starting  # noqa: PLW0603 - nobody else is there yet
    _pools.clear()
    _starting = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
