"""`diff` of two dumps beside a script of torch and sft-cli, page-cached, in CPU seconds.

    python -m benchmarks.files.differences [--dir DIR] [--runs N] [--size-gb 1]

needs gradtool's `test` extra; sft-cli joins where `sft` is on the PATH. See README.md.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from benchmarks.files import peers
from benchmarks.files.run import default_directory
from benchmarks.harness.tables import limit
from benchmarks.harness.timing import Contender, Group, show

SIDES = ("a", "same", "other")
"""A dump, another of the same bits, and one of which every element differs."""

TENSOR_NUMEL = 4 << 20
SMALL_TENSORS = 100_000

TORCH = """
import sys, torch
a, b = map(torch.load, sys.argv[1:])
unlike = [name for name in a if not torch.equal(a[name], b[name])]
print(len(unlike), sum(not torch.allclose(a[name], b[name]) for name in unlike))
"""
"""What differs, and what of it is not close."""

SAME, OTHER = "gradtool diff, same bits", "gradtool diff, all different"


def folder_of(directory: Path, name: str, shapes: Iterable[int]) -> Path:
    """The three dumps, made if they are not there."""
    folder = directory / f"diff-{name}"
    if not folder.exists():
        rng = np.random.default_rng(0)
        tensors = {
            f"layers.{n}.w": rng.standard_normal(numel, np.float32) * np.float32(1e-3)
            for n, numel in enumerate(shapes)
        }
        folder.mkdir()
        for side in SIDES:
            if side == "other":
                tensors = {key: one * np.float32(1.0001) for key, one in tensors.items()}
            save_file(tensors, folder / f"{side}.safetensors")
            held = {key: torch.from_numpy(one) for key, one in tensors.items()}
            torch.save(held, folder / f"{side}.pt")
    return folder


def pair(folder: Path, title: str) -> Group:
    """`diff` of both pairs, and what a script of torch says of equality alone."""
    a, same, other = (folder / f"{side}.safetensors" for side in SIDES)
    contenders = [
        Contender(SAME, _diff(a, same)),
        Contender(OTHER, _diff(a, other)),
        Contender("torch.load, equal: same bits", peers.script(TORCH, *_saved(a, same))),
        Contender("and allclose: all different", peers.script(TORCH, *_saved(a, other))),
        Contender("cat both", ["sh", "-c", f"exec cat {_quoted(a, other)} > /dev/null"]),
        Contender("gradtool --version", peers.gradtool("--version")),
    ]
    if shutil.which("sft"):
        contenders += [
            Contender("sft diff --delta, same bits", _sft(a, same)),
            Contender("sft diff --delta, all different", _sft(a, other)),
        ]
    return Group(title, folder, contenders)


def _diff(a: Path, b: Path) -> list[str]:
    """The command, for which dumps that differ are no failure."""
    command = shlex.join(peers.gradtool("diff", str(a), str(b), "--no-progress"))
    return ["sh", "-c", f"{command} || test $? -eq 1"]


def _saved(*paths: Path) -> list[Path]:
    """The same dumps, as torch saves them."""
    return [path.with_suffix(".pt") for path in paths]


def _sft(a: Path, b: Path) -> list[str]:
    """The command of sft-cli, as `_diff`."""
    return ["sh", "-c", f"sft diff --delta --json {_quoted(a, b)} || test $? -eq 1"]


def _quoted(*paths: Path) -> str:
    return shlex.join(map(str, paths))


def limits(big: Group, many: Group) -> Iterator[str]:
    """What was set for two cores that nobody else uses, as CPU s: both together have two a s."""
    size = 2 * (big.path / "a.safetensors").stat().st_size / 1e9
    start = big["gradtool --version"].cpu_seconds
    for label, rate in ((SAME, 3.0), (OTHER, 1.5)):
        seconds = big[label].cpu_seconds - start
        yield limit(f"{label}: CPU s for {size:.2f} GB", seconds, 2 * size / rate, " s")
        yield limit(f"peak memory of {label}", big[label].peak_bytes / 1e6, 200, " MB")
    for label in (SAME, OTHER):
        seconds = many[label].cpu_seconds
        yield limit(f"{SMALL_TENSORS:,} tensors, {label}", seconds, 6, " s")


def compare(directory: Path, runs: int, size_gib: float) -> None:
    """Make the data, time everything, print tables and verdicts."""
    numel = int(size_gib * (1 << 28))
    shapes = [TENSOR_NUMEL] * (numel // TENSOR_NUMEL)
    big = pair(folder_of(directory, f"{size_gib:g}", shapes), f"2 x {size_gib:g} GiB of float32")
    small = folder_of(directory, "many", [1000] * SMALL_TENSORS)
    many = pair(small, f"2 x {SMALL_TENSORS:,} tensors of 1,000 float32 elements")
    for group in (big, many):
        group.run(runs)
        show(group)
    print("\nlimits of the design", *limits(big, many), sep="\n")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = default_directory()
    parser.add_argument("--dir", type=Path, default=default, help=f"keeps the data ({default})")
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (5)")
    parser.add_argument("--size-gb", type=float, default=1, help="GiB of each dump (1)")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    compare(options.dir, options.runs, options.size_gb)


if __name__ == "__main__":
    main()
