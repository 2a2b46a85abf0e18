"""The data: a dump like GPT-2 large's in several types, and two of very many small tensors.

    python -m benchmarks.files.dumps DIRECTORY SIZE_GIB [NAME...]

makes what is not there yet and prints what is where, a name and a path to a line: those of the
names, by default all but the large dump in float64.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

WIDTH, VOCABULARY, CONTEXT = 1280, 50257, 1024
RUN_DUMPS = 1000
SMALL_TENSORS, SMALL_ELEMENTS = 100_000, 1_000
LARGE = ("float32", "float16", "bfloat16")
DEFAULTS = (*LARGE, "many", "many_torch", "small", "run")

Arrays = dict[str, npt.NDArray[np.float32]]

BLOCK = {
    "ln_1.weight": (WIDTH,),
    "ln_1.bias": (WIDTH,),
    "attn.c_attn.weight": (WIDTH, 3 * WIDTH),
    "attn.c_attn.bias": (3 * WIDTH,),
    "attn.c_proj.weight": (WIDTH, WIDTH),
    "attn.c_proj.bias": (WIDTH,),
    "ln_2.weight": (WIDTH,),
    "ln_2.bias": (WIDTH,),
    "mlp.c_fc.weight": (WIDTH, 4 * WIDTH),
    "mlp.c_fc.bias": (4 * WIDTH,),
    "mlp.c_proj.weight": (4 * WIDTH, WIDTH),
    "mlp.c_proj.bias": (WIDTH,),
}


def large_shapes(size_gib: float) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model whose float32 dump is about `size_gib` large."""
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (VOCABULARY, WIDTH),
        "wpe.weight": (CONTEXT, WIDTH),
        "ln_f.weight": (WIDTH,),
        "ln_f.bias": (WIDTH,),
    }
    rest = size_gib * 2**30 / 4 - sum(map(np.prod, shapes.values()))
    layers = max(1, round(rest / sum(map(np.prod, BLOCK.values()))))
    for layer in range(layers):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in BLOCK.items()}
    return shapes


def normal(shapes: dict[str, tuple[int, ...]], seed: int) -> Arrays:
    """Normal values, each tensor with its own scale around 1e-3."""
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in shapes.items():
        scale = np.float32(1e-3 * random.lognormal(sigma=0.5))
        arrays[name] = random.standard_normal(shape, dtype=np.float32) * scale
    return arrays


def save_safetensors(arrays: dict[str, npt.NDArray[np.generic]], path: Path) -> None:
    """Write with safetensors' own writer, under another name until complete."""
    partial = path.with_suffix(".partial")
    save_file(arrays, partial)
    os.replace(partial, path)


def make_large(directory: Path, size_gib: float, types: Iterable[str] = LARGE) -> None:
    """Copies of the same numbers in each of the types."""
    paths = large_paths(directory, size_gib, types)
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if not missing:
        return
    arrays = normal(large_shapes(size_gib), seed=0)
    for name, path in missing.items():
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        converted = {key: array.astype(dtype, copy=False) for key, array in arrays.items()}
        save_safetensors(converted, path)


def make_many(directory: Path) -> None:
    """100,000 tensors of 1,000 elements."""
    paths = many_paths(directory)
    if all(path.exists() for path in paths.values()):
        return
    shapes = {f"layers.{n // 10}.w{n % 10}": (SMALL_ELEMENTS,) for n in range(SMALL_TENSORS)}
    arrays = normal(shapes, seed=1)
    save_safetensors(dict(arrays), paths["many"])
    partial = paths["many_torch"].with_suffix(".partial")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, partial)
    os.replace(partial, paths["many_torch"])


def make_small(directory: Path) -> None:
    """A file that costs nothing but the start."""
    shapes = {f"layers.{n}.weight": (32, 32) for n in range(10)}
    save_safetensors(dict(normal(shapes, seed=2)), small_path(directory))


def make_run(directory: Path) -> None:
    """A thousand dumps of 1 MB, as a run leaves them: 16 layers of four matrices."""
    place = run_path(directory)
    if (place / f"step-{RUN_DUMPS - 1:04}.safetensors").exists():
        return
    place.mkdir(exist_ok=True)
    names = [f"layers.{layer}.{part}.weight" for layer in range(16) for part in "qkvo"]
    for step in range(RUN_DUMPS):
        arrays = normal(dict.fromkeys(names, (64, 64)), seed=step)
        save_safetensors(dict(arrays), place / f"step-{step:04}.safetensors")


def large_paths(directory: Path, size_gib: float, types: Iterable[str] = LARGE) -> dict[str, Path]:
    """Where the large dumps are, by type; their size is that of the one in float32."""
    return {name: directory / f"large_{size_gib:g}gib_{name}.safetensors" for name in types}


def many_paths(directory: Path) -> dict[str, Path]:
    """Where the dumps of many tensors are, in safetensors and in a torch zip."""
    return {"many": directory / "many.safetensors", "many_torch": directory / "many.pt"}


def small_path(directory: Path) -> Path:
    """Where the small dump is."""
    return directory / "small.safetensors"


def run_path(directory: Path) -> Path:
    """Where the dumps of a run are."""
    return directory / "run"


def main() -> None:
    """Make what is missing and print what is where, a name and a path to a line."""
    directory, size_gib = Path(sys.argv[1]), float(sys.argv[2])
    names = sys.argv[3:] or DEFAULTS
    types = [name for name in names if name in (*LARGE, "float64")]
    paths = large_paths(directory, size_gib, types) | many_paths(directory)
    paths |= {"small": small_path(directory), "run": run_path(directory)}
    make_large(directory, size_gib, types)
    if not many_paths(directory).keys().isdisjoint(names):
        make_many(directory)
    if "small" in names:
        make_small(directory)
    if "run" in names:
        make_run(directory)
    for name in names:
        print(name, paths[name], sep="\t")


if __name__ == "__main__":
    main()
