"""The exact norm of a dump, by nothing that gradtool uses.

    python -m benchmarks.harness.exact FILE P

prints the p-norm for p = 1 or 2 and keeps it in `FILE.norms.json`. Elements become float64,
whose squares of float32 and narrower are exact; rows of 64 of them are added pairwise (less
than 1.3e-15 relative error, all being positive) and the row sums by `math.fsum`, exactly.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

ROW = 64
BLOCK = 1 << 20


def tensors_of(path: Path) -> Iterator[torch.Tensor]:
    """Each tensor of a safetensors file or a torch zip."""
    if path.suffix == ".pt":
        yield from torch.load(path, mmap=True).values()
        return
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            yield file.get_tensor(name)


def row_sums(values: npt.NDArray[np.float64]) -> Iterator[float]:
    """Sums of `values` by rows of 64, the last row shorter."""
    whole = len(values) // ROW * ROW
    yield from values[:whole].reshape(-1, ROW).sum(axis=1).tolist()
    yield math.fsum(values[whole:].tolist())


def powers(tensors: Iterable[torch.Tensor], p: float) -> Iterator[float]:
    """Sums of |g|^p over short rows, which together cover every element."""
    for tensor in tensors:
        flat = tensor.flatten()
        for start in range(0, len(flat), BLOCK):
            block = flat[start : start + BLOCK].double().numpy()
            yield from row_sums(np.square(block) if p == 2 else np.abs(block))


def norm(tensors: Iterable[torch.Tensor], p: float) -> float:
    """The p-norm of all of them together, p being 1 or 2."""
    if p not in (1, 2):
        raise SystemExit("exact norms are for p = 1 and 2")
    total = math.fsum(powers(tensors, p))
    return math.sqrt(total) if p == 2 else total


def cached_norm(path: Path, p: float) -> float:
    """The p-norm, computed once for each file."""
    cache = path.with_name(path.name + ".norms.json")
    known: dict[str, float] = json.loads(cache.read_text()) if cache.exists() else {}
    key = f"{p:g}"
    if key not in known:
        known[key] = norm(tensors_of(path), p)
        cache.write_text(json.dumps(known))
    return known[key]


if __name__ == "__main__":
    print(repr(cached_norm(Path(sys.argv[1]), float(sys.argv[2]))))
