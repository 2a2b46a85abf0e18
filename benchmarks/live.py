"""Clipping gradients in memory: gradtool beside torch and MLX, in one run.

    python benchmarks/live.py [--dir DIR] [--runs N] [--size-gb 2]

needs gradtool's `test` extra; MLX joins if it is installed, a GPU if there is one. See README.md.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from pathlib import Path

import live_dump
import live_gpu
import live_memory
import live_sets
import numpy as np
import peers
import torch
from bouts import Bout
from live_peers import GRADTOOL, TORCH, clip_calls
from live_sets import DTYPES, Live
from run import default_directory
from tables import limit

SLOWEST = {"float32": 2.0, "float16": 1.0}
"""gradtool.torch's time by torch's, at most."""


def clipping(name: str, dtype: str, live: Live, runs: int, *, mlx: bool) -> Iterator[str]:
    """The table of everybody's clip of the same gradients, and its limits."""
    title = f"clip of {len(live.grads):,} {name} tensors, {live.nbytes / 1e9:.2f} GB {dtype}"
    bout = Bout(title, clip_calls(live, mlx=mlx), live.nbytes, live.truth, live.bound)
    bout.run(runs)
    bout.show()
    if dtype in SLOWEST:
        yield limit(
            f"clip by torch's, {name}, {dtype}", bout.ratio(GRADTOOL, TORCH), SLOWEST[dtype]
        )
    yield limit(f"error of the norm, {name}, {dtype}", abs(bout[GRADTOOL].error), 1e-12)


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
    for name, make in (("large", lambda: live_sets.large(size_gib)), ("small", live_sets.small)):
        base = make()
        for dtype, kind in DTYPES.items():
            live = Live(base, kind)
            limits += clipping(name, dtype, live, runs, mlx=mlx)
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
