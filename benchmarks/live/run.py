"""Clipping gradients in memory: gradtool beside torch and MLX, in one run.

    python -m benchmarks.live.run [--dir DIR] [--runs N] [--size-gb 2]

needs gradtool's `test` extra; MLX joins if it is installed, a GPU if there is one. See README.md.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.files import peers
from benchmarks.files.run import default_directory
from benchmarks.harness.bouts import Bout, cpu_clock
from benchmarks.harness.tables import limit
from benchmarks.live import dump as live_dump
from benchmarks.live import memory as live_memory
from benchmarks.live import on_gpu as live_gpu
from benchmarks.live import sets as live_sets
from benchmarks.live.peers import GRADTOOL, TORCH, clip_calls, torch_calls
from benchmarks.live.sets import DTYPES, Live

MOST_CPU = {"tiny": 1.2, "large": 1.0}
"""gradtool.torch's CPU time by torch's, at most, in float32."""


def clipping(name: str, dtype: str, live: Live, runs: int, *, mlx: bool) -> Iterator[str]:
    """The table of everybody's clip of the same gradients, and its limit."""
    title = f"clip of {len(live.grads):,} {name} tensors, {live.nbytes / 1e9:.2f} GB {dtype}"
    bout = Bout(title, clip_calls(live, mlx=mlx), live.nbytes, live.truth, live.bound)
    bout.run(runs)
    bout.show()
    yield limit(f"error of the norm, {name}, {dtype}", abs(bout[GRADTOOL].error), 1e-12)


def processors(name: str, live: Live, runs: int) -> Iterator[str]:
    """The tables of CPU time, with one thread and with two, and their limits."""
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        title = f"CPU time of the clip of {name} tensors, float32, torch's threads: {threads}"
        bout = Bout(title, torch_calls(live), live.nbytes, live.truth, live.bound, clock=cpu_clock)
        bout.run(runs)
        bout.show()
        what = f"CPU time by torch's, {name}, torch's threads: {threads}"
        yield limit(what, bout.ratio(GRADTOOL, TORCH), MOST_CPU[name])
    torch.set_num_threads(before)


def compare(directory: Path, runs: int, size_gib: float) -> None:
    """Make the gradients, time everything, print tables and verdicts."""
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"NumPy {np.__version__}; Python {platform.python_version()}"
    )
    mlx = peers.has_mlx()
    if not mlx:
        print("MLX does not start here: left out")
    if not torch.cuda.is_available():
        print("no GPU here: its part was not run")
    live_memory.show(size_gib)
    limits: list[str] = []
    sets = {"large": partial(live_sets.large, size_gib), "small": live_sets.small}
    for name, make in {**sets, "tiny": live_sets.tiny}.items():
        base = make()
        for dtype, kind in DTYPES.items():
            live = Live(base, kind)
            limits += clipping(name, dtype, live, runs, mlx=mlx)
            if name in MOST_CPU and dtype == "float32":
                limits += processors(name, live, runs)
            if (name, dtype) == ("large", "float32"):
                limits += live_dump.dumping(live, directory, runs)
        if torch.cuda.is_available():
            live_gpu.compare(name, base, runs)
    print("\nlimits of the design", *limits, sep="\n")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = default_directory()
    parser.add_argument("--dir", type=Path, default=default, help=f"for written files ({default})")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each call (7)")
    parser.add_argument("--size-gb", type=float, default=2, help="GiB of large float32 tensors (2)")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    compare(options.dir, options.runs, options.size_gb)


if __name__ == "__main__":
    main()
