"""What limits the way from a file to a GPU: reading into memory, and copying from there."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.gpu.groups import backend_of
from benchmarks.harness.bouts import Bout, Call
from benchmarks.harness.timing import warm


class _Worker:
    """What one thread needs: memory of the host, pinned for a GPU, and as much on the device."""

    def __init__(self, nbytes: int, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._room = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._on_gpu)
        self._target = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self._stream = torch.cuda.Stream() if self._on_gpu else None

    def read(self, descriptor: int, offset: int, nbytes: int) -> None:
        """Fill the host's memory."""
        buffer = self._room.numpy().data[:nbytes]
        done = 0
        while done < nbytes:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise SystemExit("a dump shrank while it was read")
            done += count

    def send(self, nbytes: int) -> None:
        """Copy it to the device, and wait for that."""
        with torch.cuda.stream(self._stream):
            self._target[:nbytes].copy_(self._room[:nbytes], non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()


class _Road:
    """A file in pieces of one task each, and workers that take them in turns."""

    def __init__(self, path: Path, device: str) -> None:
        backend, self.threads = backend_of(device)
        self.nbytes = path.stat().st_size
        self._step = backend.limits.task_nbytes
        self._workers = [_Worker(self._step, device) for _ in range(self.threads)]
        self._descriptor = os.open(path, os.O_RDONLY)
        self._pool = ThreadPoolExecutor(self.threads)

    def close(self) -> None:
        """Give threads and file back."""
        self._pool.shutdown()
        os.close(self._descriptor)

    def call(self, label: str, threads: int, *, read: bool, send: bool) -> Call:
        """All pieces read, or sent from what was read last, or both, by so many threads."""
        workers = self._workers[:threads]

        def one(worker: _Worker, offsets: Sequence[int]) -> None:
            for offset in offsets:
                nbytes = min(self._step, self.nbytes - offset)
                if read:
                    worker.read(self._descriptor, offset, nbytes)
                if send:
                    worker.send(nbytes)

        offsets = range(0, self.nbytes, self._step)
        shares = [offsets[first::threads] for first in range(threads)]

        def every(_: None) -> tuple[None, None]:
            list(self._pool.map(one, workers, shares))
            return None, None

        return Call(f"{label}, {threads} thread{'s' * (threads > 1)}", lambda: None, every)


def show(path: Path, device: str, runs: int) -> None:
    """Print the table."""
    warm(path)
    memory = "pinned memory" if device == "cuda" else "memory"
    road = _Road(path, device)
    calls = [
        road.call(f"pread into {memory} and copy to {device}", road.threads, read=True, send=True),
        road.call(f"pread into {memory}", road.threads, read=True, send=False),
        road.call(f"{memory} to {device}", road.threads, read=False, send=True),
        road.call(f"{memory} to {device}", 1, read=False, send=True),
    ]
    title = f"the way to the device, {road.nbytes / 1e9:.2f} GB, one process, no arithmetic"
    bout = Bout(title, calls, road.nbytes, math.nan, first="both")
    bout.run(runs)
    bout.show()
    road.close()
