"""Measuring gradients on a GPU: gradtool's torch backend beside its NumPy one, and torch.

    python -m benchmarks.gpu.run [--dir DIR] [--runs N] [--size-gb 2] [--device cuda|cpu]
                             [--parts device files engines memory]

needs gradtool's `test` extra and, unless told otherwise, a GPU. See README.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.files.run import default_directory, exact_norm, paths_of
from benchmarks.gpu import device as gpu_device
from benchmarks.gpu import engines as gpu_engines
from benchmarks.gpu import files as gpu_files
from benchmarks.gpu import transfers as gpu_transfers
from benchmarks.harness.timing import Group, show

PARTS = ("device", "files", "engines", "memory")
TYPES = ("float32", "bfloat16", "float16", "float64")


def device_name(device: str) -> str:
    """What the tables call it."""
    return torch.cuda.get_device_name() if device == "cuda" else "a CPU"


def describe(device: str) -> None:
    """Print what everything below was measured with."""
    print(
        f"torch {torch.__version__} on {device_name(device)}, {len(os.sched_getaffinity(0))} "
        f"cores; NumPy {np.__version__}; Python {platform.python_version()}"
    )
    if device == "cpu":
        print(
            "the device is a CPU: this shows that the benchmark runs, limits are not judged, "
            "and memory is left out"
        )


def on_files(options: argparse.Namespace) -> Iterator[str]:
    """Everything that is measured on dumps, the way there and back included; limits."""
    paths = paths_of(options.dir, options.size_gb, *TYPES, "small")
    device, runs, parts = options.device, options.runs, options.parts
    start: Group | None = None
    if "files" in parts or "engines" in parts:
        start = gpu_files.start_up(paths["small"], device)
        start.run(runs)
        show(start)
    if "files" in parts:
        gpu_transfers.show(paths["float32"], device, runs)
        for name in TYPES:
            group = gpu_files.inspecting(paths[name], name, device)
            group.run(runs)
            show(group)
    if "engines" in parts and start is not None:
        seconds = gpu_files.start_up_seconds(start)
        for name in TYPES:
            truth = exact_norm(paths[name])
            gpu_engines.show(paths[name], name, device, runs, seconds, truth)
    if "memory" in parts and device == "cuda":
        yield gpu_files.show_memory(paths["float32"], device)


def compare(options: argparse.Namespace) -> None:
    """Make the data, time everything, print tables and verdicts."""
    describe(options.device)
    limits: list[str] = []
    if "device" in options.parts:
        name = device_name(options.device)
        limits += gpu_device.compare(options.size_gb, options.device, name, options.runs)
    if {*options.parts} - {"device"}:
        limits += on_files(options)
    if limits:
        judged = "" if options.device == "cuda" else ", which are not for a CPU"
        print(f"\nlimits of the design{judged}", *limits, sep="\n")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = default_directory()
    parser.add_argument("--dir", type=Path, default=default, help=f"keeps the dumps ({default})")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each (5)")
    parser.add_argument("--size-gb", type=float, default=2, help="GiB of large tensors (2)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(cuda)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device: try --device cpu", file=sys.stderr)
        sys.exit(2)
    options.dir.mkdir(parents=True, exist_ok=True)
    compare(options)


if __name__ == "__main__":
    main()
