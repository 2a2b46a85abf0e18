"""gradtool beside its peers, in one run on the same page-cached files.

    python -m benchmarks.files.run [--dir DIR] [--runs N] [--size-gb 2]

needs gradtool's `test` extra; MLX joins if it is installed. See README.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.files import peers
from benchmarks.harness.tables import limit
from benchmarks.harness.timing import (
    Contender,
    Group,
    json_norm,
    json_norm_before,
    last_number,
    show,
)

CLIP_RUNS = 7
"""Turns of the commands that write, at least: disks are less even than processors."""


def default_directory() -> Path:
    """Where dumps stay from one run to the next."""
    return Path(tempfile.gettempdir()) / "gradtool-bench"


def paths_of(directory: Path, size_gib: float, *names: str) -> dict[str, Path]:
    """The dumps, those of `names` if any, made if they are not there, by what is in them."""
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks.files.dumps", directory, str(size_gib), *names],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = (line.split("\t") for line in listed.stdout.splitlines())
    return {name: Path(path) for name, path in lines}


def exact_norm(path: Path, p: float = 2) -> float:
    """The exact p-norm, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.harness.exact", str(path), str(p)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def large(path: Path, dtype: str, *, mlx: bool) -> Group:
    """`inspect` of one large dump."""
    contenders = [
        Contender("gradtool inspect", peers.inspect(path), json_norm),
        Contender("torch script", peers.script(peers.TORCH, path, 2), last_number),
        cat(path),
    ]
    if mlx:
        contenders.append(Contender("mlx script", peers.script(peers.MLX, path), last_number))
    size = path.stat().st_size
    title = f"{size / 1e9:.2f} GB {dtype} safetensors"
    return Group(title, path, contenders, exact_norm(path))


def cat(path: Path) -> Contender:
    """Reading alone."""
    command = f"exec cat {shlex.quote(str(path))} > /dev/null"
    return Contender("cat > /dev/null", ["sh", "-c", command])


def many(path: Path, name: str, source: str) -> Group:
    """`inspect` of 100,000 small tensors."""
    contenders = [
        Contender("gradtool inspect", peers.inspect(path), json_norm),
        Contender("torch script", peers.script(source, path, 2), last_number),
    ]
    title = f"100,000 tensors of 1,000 float32 elements, {name}"
    return Group(title, path, contenders, exact_norm(path))


def clipping(path: Path) -> Group:
    """`clip` of one large dump to a new file, with the data on the disk at the end."""
    outs = {name: path.with_name(f"clipped-by-{name}") for name in ("gradtool", "torch", "cp")}
    torch_clip = peers.script(peers.TORCH_CLIP_FILE, path, outs["torch"])
    commands = {
        "gradtool": peers.then_sync(peers.clip(path, outs["gradtool"]), outs["gradtool"]),
        "torch": peers.then_sync(torch_clip, outs["torch"]),
        "cp": peers.then_sync(["cp", str(path), str(outs["cp"])], outs["cp"]),
    }
    norms = {"gradtool": json_norm_before, "torch": last_number, "cp": None}
    labels = {
        "gradtool": "gradtool clip, sync",
        "torch": "torch script, sync",
        "cp": "cp, sync",
    }
    contenders = [
        Contender(labels[name], command, norms[name], writes=outs[name])
        for name, command in commands.items()
    ]
    contenders.append(Contender("gradtool inspect", peers.inspect(path), json_norm))
    title = f"clip of {path.stat().st_size / 1e9:.2f} GB float32 safetensors to a new file"
    return Group(title, path, contenders, exact_norm(path))


def checking(directory: Path) -> Group:
    """`check` of the thousand dumps of a run."""
    files = f"{shlex.quote(str(directory))}/*"
    contenders = [
        Contender("gradtool check", peers.gradtool("check", f"{directory}/*", "--isolated", "-q")),
        Contender("cat > /dev/null", ["sh", "-c", f"exec cat {files} > /dev/null"]),
    ]
    dumps = len(os.listdir(directory))
    return Group(f"check of {dumps:,} dumps of 1 MB in one process", directory, contenders)


def start_up(path: Path) -> Group:
    """What nothing costs."""
    contenders = [
        Contender("gradtool --version", peers.gradtool("--version")),
        Contender("gradtool --help", peers.gradtool("--help")),
        Contender("gradtool inspect small", peers.inspect(path)),
        Contender(f"python -c '{peers.START}'", peers.script(peers.START)),
    ]
    return Group("start-up", path, contenders)


def large_limits(groups: dict[str, Group]) -> Iterable[str]:
    """The limits on large dumps."""
    base = groups["float32"]
    ours, cat = base["gradtool inspect"], base["cat > /dev/null"]
    ratio = base.ratio("gradtool inspect", "torch script")
    yield limit("inspect by torch script", ratio, 0.25)
    yield limit("inspect, against 2 x cat + 0.3 s", ours.seconds, 2 * cat.seconds + 0.3, " s")
    for name, group in groups.items():
        one = group["gradtool inspect"]
        yield limit(f"peak memory of inspect, {name}", one.peak_bytes / 1e6, 200, " MB")
        if group is not base:
            per_element = one.seconds / ours.seconds
            yield limit(f"{name} by float32, per element", per_element, 2)
        yield limit(f"error of the norm, {name}", abs(one.error_against(group.exact)), 1e-12)


def clip_limits(group: Group) -> Iterable[str]:
    """The limits on clipping."""
    ours, _, copy, inspect = group.contenders
    bound = inspect.seconds + 1.3 * copy.seconds
    yield limit("clip, against inspect + 1.3 x (cp and sync)", ours.seconds, bound, " s")
    ratio = group.ratio("gradtool clip, sync", "torch script, sync")
    yield limit("clip by torch script, both synced", ratio, 0.6)
    yield limit("peak memory of clip", ours.peak_bytes / 1e6, 200, " MB")


def small_limits(start: Group, tensors: dict[str, Group]) -> Iterable[str]:
    """The limits on start-up and on many tensors."""
    version, usage, small, bare = (one.seconds for one in start.contenders)
    yield limit("--version beyond bare imports", version - bare, 0.08, " s")
    yield limit("--help beyond bare imports", usage - bare, 0.08, " s")
    yield limit("inspect of a small file by bare imports", small / bare, 2)
    for name, bound in (("safetensors", 3), ("torch zip", 6)):
        seconds = tensors[name]["gradtool inspect"].seconds
        yield limit(f"100,000 tensors, {name}", seconds, bound, " s")


def compare(directory: Path, runs: int, size_gib: float) -> None:
    """Make the data, time everything, print tables and verdicts."""
    paths = paths_of(directory, size_gib)
    mlx = peers.has_mlx()
    if not mlx:
        print("MLX does not start here: left out")
    big = {name: large(paths[name], name, mlx=mlx) for name in ("float32", "float16", "bfloat16")}
    tensors = {
        "safetensors": many(paths["many"], "safetensors", peers.TORCH),
        "torch zip": many(paths["many_torch"], "torch zip", peers.TORCH_ZIP),
    }
    start = start_up(paths["small"])
    clip, check = clipping(paths["float32"]), checking(paths["run"])
    for group in (start, *tensors.values(), check, *big.values(), clip):
        group.run(max(runs, CLIP_RUNS) if group is clip else runs)
        show(group)
    limits = [*small_limits(start, tensors), *large_limits(big), *clip_limits(clip)]
    limits.append(limit("check of the run", check["gradtool check"].seconds, 20, " s"))
    print("\nlimits of the design", *limits, sep="\n")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = default_directory()
    parser.add_argument("--dir", type=Path, default=default, help=f"keeps the dumps ({default})")
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (5)")
    parser.add_argument("--size-gb", type=float, default=2, help="GiB of the float32 dump (2)")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    compare(options.dir, options.runs, options.size_gb)


if __name__ == "__main__":
    main()
