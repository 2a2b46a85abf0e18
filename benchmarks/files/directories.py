"""Checkpoints that are directories, beside the same tensors in one file.

    python -m benchmarks.files.directories [--dir DIR] [--runs N] [--size-gb 2]

needs gradtool's `test` extra. See README.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.files import peers
from benchmarks.files.checkpoints import (
    FEW,
    MANY,
    SHARDED_TENSORS,
    SHARDS,
    large_dcp_path,
    shards_path,
    small_dcp_path,
)
from benchmarks.files.dumps import large_paths
from benchmarks.files.run import cat, default_directory, exact_norm, paths_of
from benchmarks.harness.tables import limit
from benchmarks.harness.timing import Contender, Group, files_at, json_norm, show

CATALOGUE_SECONDS = {FEW: 1.2, MANY: 4.5}
"""The most that a catalogue of so many chunks may take, in CPU s."""

ITEM_MICROSECONDS = 60
"""The most that opening and measuring an item of a DCP directory may take, in CPU time."""

# The process that takes the time has started already: what is imported is not counted.
CATALOGUE = """
import sys, time
from gradtool.request import MeasureRequest, opened
request = MeasureRequest()
start = time.process_time()
opened(sys.argv[1], request)
print(time.process_time() - start)
"""


def large(directory: Path, size_gib: float) -> Group:
    """`inspect` of the large dump in four ranks, and in one file."""
    file = large_paths(directory, size_gib, ["float32"])["float32"]
    ranks = large_dcp_path(directory, size_gib)
    contenders = [
        Contender("DCP of 4 ranks", peers.inspect(ranks), json_norm),
        Contender("one safetensors file", peers.inspect(file), json_norm),
        Contender("DCP, --digest", peers.inspect(ranks, 2, "--digest"), json_norm),
        cat(file),
    ]
    title = f"{file.stat().st_size / 1e9:.2f} GB float32, inspect"
    return Group(title, ranks, contenders, exact_norm(file))


def chunks(directory: Path, count: int) -> Group:
    """`inspect` of small tensors in so many chunks."""
    path = small_dcp_path(directory, count)
    ours = Contender(f"inspect, {count:,} chunks", peers.inspect(path), json_norm)
    return Group(f"DCP of {count // 4:,} tensors of 16 elements", path, [ours], _norm_of(count))


def _norm_of(count: int) -> float:
    """The norm of `of_small_tensors`: each holds 0 to 15."""
    return float((count // 4 * sum(n * n for n in range(16))) ** 0.5)


def shards(directory: Path) -> Group:
    """`inspect` of many tensors in many shards."""
    path = shards_path(directory)
    title = f"{SHARDED_TENSORS:,} tensors of 1,000 float32 elements in {SHARDS} shards"
    return Group(title, path, [Contender("gradtool inspect", peers.inspect(path), json_norm)])


def catalogue_seconds(path: Path, runs: int) -> float:
    """Median CPU seconds of cataloguing a directory, in processes of their own."""
    command = peers.script(CATALOGUE, path)
    return statistics.median(
        float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for _ in range(runs)
    )


def limits(
    big: Group, small: dict[int, Group], many: Group, catalogues: dict[int, float], start: Group
) -> Iterable[str]:
    """What was set, and whether it was reached; all in CPU s, which neighbours change least."""
    ratio = big.cpu_ratio("DCP of 4 ranks", "one safetensors file")
    yield limit("DCP of 4 ranks by one safetensors file", ratio, 1.1)
    size = sum(file.stat().st_size for file in files_at(big.path))
    digests = big["DCP, --digest"].cpu_seconds - big["DCP of 4 ranks"].cpu_seconds
    yield limit("--digest, for each GB", digests / (size / 1e9), 0.6, " s")
    (base,) = start.contenders
    for count, catalogue in catalogues.items():
        (ours,) = small[count].contenders
        yield limit(f"catalogue of {count:,} chunks", catalogue, CATALOGUE_SECONDS[count], " s")
        items = (ours.cpu_seconds - base.cpu_seconds - catalogue) / count
        yield limit(f"opening an item, of {count:,}", items * 1e6, ITEM_MICROSECONDS, " us")
    (ours,) = many.contenders
    yield limit(f"{SHARDED_TENSORS:,} tensors in {SHARDS} shards", ours.cpu_seconds, 3, " s")


def compare(directory: Path, runs: int, size_gib: float) -> None:
    """Make the data, time everything, print tables and verdicts."""
    making = [sys.executable, "-m", "benchmarks.files.checkpoints", str(directory), str(size_gib)]
    subprocess.run(making, check=True)
    path = paths_of(directory, size_gib, "small")["small"]
    start = Group("start-up", path, [Contender("inspect of a small file", peers.inspect(path))])
    big, many = large(directory, size_gib), shards(directory)
    small = {count: chunks(directory, count) for count in CATALOGUE_SECONDS}
    for group in (start, big, *small.values(), many):
        group.run(runs)
        show(group)
    catalogues = {
        count: catalogue_seconds(small_dcp_path(directory, count), runs) for count in small
    }
    print("\nlimits of the design, CPU seconds")
    print(*limits(big, small, many, catalogues, start), sep="\n")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = default_directory()
    parser.add_argument("--dir", type=Path, default=default, help=f"keeps the data ({default})")
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (5)")
    parser.add_argument("--size-gb", type=float, default=2, help="GiB of the large dump (2)")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    compare(options.dir, options.runs, options.size_gb)


if __name__ == "__main__":
    main()
