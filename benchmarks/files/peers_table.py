"""What the peers answer, beside the truth: drift over many elements, overflow, underflow.

    python -m benchmarks.files.peers_table [--dir DIR] [--size-gb 2]

uses the dumps of `run.py`, making them if need be. Every figure comes from a program run on a
file; an answer that a program cannot give is a dash.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from benchmarks.files import peers
from benchmarks.files.run import default_directory, exact_norm, paths_of
from benchmarks.harness.tables import table
from benchmarks.harness.timing import json_norm, last_number

Arrays = dict[str, npt.NDArray[np.generic]]


def extremes() -> dict[str, tuple[Arrays, float]]:
    """Gradients whose every element is finite, and their norm by arithmetic."""
    ones = {f"w{n}": np.ones(1, bfloat16) for n in range(1000)}
    return {
        "float16 [6e4, 6e4]": ({"w": np.full(2, 6e4, np.float16)}, 6e4 * math.sqrt(2)),
        "float16, 1e6 x 100": ({"w": np.full(10**6, 100, np.float16)}, 1e5),
        "float32, 4 x 1e20": ({"w": np.full(4, 1e20, np.float32)}, 2 * float(np.float32(1e20))),
        "float64, 4 x 1e200": ({"w": np.full(4, 1e200)}, 2e200),
        "float32, 4 x 1e-23": ({"w": np.full(4, 1e-23, np.float32)}, 2 * float(np.float32(1e-23))),
        "bfloat16, 1000 tensors of [1]": (dict(ones), math.sqrt(1000)),
    }


def output_of(command: Sequence[str]) -> str | None:
    """What the command prints, or None where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def torch_norm(path: Path, p: float) -> float:
    """What a torch script prints."""
    printed = output_of(peers.script(peers.TORCH, path, p))
    return math.nan if printed is None else last_number(printed)


def mlx_norm(path: Path, p: float) -> float:
    """What an MLX script prints; MLX knows p = 2 only."""
    printed = output_of(peers.script(peers.MLX, path)) if p == 2 else None
    return math.nan if printed is None else last_number(printed)


def gradtool_norm(path: Path, p: float) -> float:
    """What gradtool prints."""
    printed = output_of(peers.inspect(path, p))
    return math.nan if printed is None else json_norm(printed)


WHO = {"torch": torch_norm, "mlx": mlx_norm, "gradtool": gradtool_norm}


def answer(value: float, exact: float) -> str:
    """A norm and its relative error."""
    if math.isnan(value):
        return "-"
    error = value / exact - 1
    return f"{value:.9g} ({error:+.1e})" if math.isfinite(value) else f"{value}"


def drift_table(directory: Path, size_gib: float) -> str:
    """Sums over half a billion elements."""
    paths = paths_of(directory, size_gib)
    cases = [
        (f"{name}, p = {p}", paths[name], p)
        for name, p in (("float32", 2), ("bfloat16", 2), ("float16", 2), ("float16", 1))
    ]
    rows = []
    for title, path, p in cases:
        exact = exact_norm(path, p)
        answers = [answer(norm(path, p), exact) for norm in WHO.values()]
        rows.append([title, f"{exact:.12g}", *answers])
    return table(["gradients", "truth", *WHO], rows)


def extremes_table(scratch: Path) -> str:
    """Overflow and underflow, and what torch's clip to 1 makes of the largest element."""
    path = scratch / "extreme.safetensors"
    rows = []
    for title, (arrays, exact) in extremes().items():
        save_file(arrays, path)
        answers = [answer(norm(path, 2), exact) for norm in WHO.values()]
        clipped = output_of(peers.script(peers.TORCH_CLIP, path, 1)) or "-"
        rows.append([title, f"{exact:.9g}", *answers, clipped.strip()])
    return table(["gradients", "truth", *WHO, "max |g| after torch's clip to 1"], rows)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dir", type=Path, default=default_directory())
    parser.add_argument("--size-gb", type=float, default=2)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        print(extremes_table(Path(scratch)), end="\n\n")
    print(drift_table(options.dir, options.size_gb))


if __name__ == "__main__":
    main()
