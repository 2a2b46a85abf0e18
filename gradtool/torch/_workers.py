"""Computing on blocks, in torch's own threads as long as no other process takes their cores.

torch's threads meet at a barrier after each operation, which is fastest on cores of their own.
Where another process (a data loader, say) takes a core, all threads wait at each of thousands of
barriers until it gives that back. The remaining blocks are then left to workers: threads of ours,
in which torch computes serially, and which do not wait for each other. Blocks of small tensors
are always computed in the calling thread. Results are the same to the last bit.
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
"""Seconds for a block from which on it counts as stalled; 0.1 ms are usual."""

STALLS: Final = 3
"""Stalled blocks of a call before workers take over: these are slower on free cores, and a single
stall may be a coincidence.
"""

_MOST_WORKERS: Final = 8
_SHARE_NUMEL: Final = 1 << 22
"""Elements of the blocks that a worker takes at a time."""

_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = Lock()


def for_each_block(
    function: Callable[[BlockBuffers, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
    *,
    stalled_s: float = STALLED_S,
) -> list[Result]:
    """The results of `function` for all blocks, in their order, on as many cores as torch may use.

    Blocks of small tensors, which come last, are computed in the calling thread, which copies them.
    """
    buffers = BlockBuffers(device, dtype, blocks)
    # Inference mode belongs to a thread: workers would compute outside of it.
    threads = 1 if torch.is_inference_mode_enabled() else torch.get_num_threads()
    can_stall = device.type == "cpu" and threads > 1
    results: list[Result] = []
    stalls = 0
    for block in blocks:
        started = perf_counter()
        results.append(function(buffers, block))
        stalls += not block.addresses and perf_counter() - started >= stalled_s
        if can_stall and stalls == STALLS:
            break
    large = list(takewhile(lambda block: not block.addresses, blocks[len(results) :]))
    if large:
        compute = partial(_compute_share, function, device=device, dtype=dtype)
        for share_results in _by_workers(compute, large, threads):
            results.extend(share_results)
    results.extend(function(buffers, block) for block in blocks[len(results) :])
    return results


def _by_workers(
    compute: Callable[[Sequence[Block]], list[Result]], blocks: Sequence[Block], threads: int
) -> list[list[Result]]:
    """The results of `compute` for shares of the blocks; no worker is still busy at its end.

    Shares for which there is no worker are computed in the calling thread.
    """
    shares = list(batches(blocks, lambda block: block.numel, _SHARE_NUMEL))
    futures: list[Future[list[Result]]] = []
    try:
        with contextlib.suppress(RuntimeError):  # threads cannot be started, as at Python's exit
            pool = _pool(threads)
            futures.extend(pool.submit(compute, share) for share in shares)
        results = [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)
        raise
    return results + [compute(share) for share in shares[len(futures) :]]


def _compute_share(
    function: Callable[[BlockBuffers, Block], Result],
    blocks: Sequence[Block],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Result]:
    with torch.no_grad():  # a setting of each thread
        buffers = BlockBuffers(device, dtype, blocks)
        return [function(buffers, block) for block in blocks]


def _pool(threads: int) -> ThreadPoolExecutor:
    """The process's pool of that many workers, at most 8, which is started on first use."""
    workers = min(threads, _MOST_WORKERS)
    with _pools_lock:
        if workers not in _pools:
            _pools[workers] = _start_pool(workers, threads)
        return _pools[workers]


def _start_pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """A pool whose workers have all started, and torch set to `threads` threads as before."""
    pool = ThreadPoolExecutor(workers, "gradtool", _compute_serially)
    all_started = Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(all_started.wait)
        all_started.wait()
    except BaseException:
        all_started.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(threads)  # for threads to come; existing ones keep their setting
    return pool


def _compute_serially() -> None:
    """Set torch to one thread within this worker.

    The first call has torch apply the default of new threads, which would overwrite the setting.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


def _discard_pools() -> None:
    """In the child of a fork, where threads do not survive and the lock may have been held."""
    global _pools_lock  # noqa: PLW0603 - the child has no other thread yet
    _pools.clear()
    _pools_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_pools)
