"""From a file to its norm on a GPU: whole processes, what starting them costs, their memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.files import peers
from benchmarks.files.run import cat, exact_norm
from benchmarks.harness.tables import figure, limit, table
from benchmarks.harness.timing import Contender, Group, json_norm, last_number, measure, warm

TORCH = "gradtool inspect, torch"
NUMPY = "gradtool inspect, numpy"

MEMORY = "256MiB"
MEMORY_NBYTES = 256 << 20


def on_torch(device: str) -> tuple[str, ...]:
    """The options that have gradtool compute there."""
    return ("--backend", "torch", "--device", device)


def _inspects(path: Path, device: str) -> list[Contender]:
    with_torch = peers.inspect(path, 2, *on_torch(device))
    with_numpy = peers.inspect(path, 2, "--backend", "numpy")
    return [Contender(TORCH, with_torch, json_norm), Contender(NUMPY, with_numpy, json_norm)]


def start_up(path: Path, device: str) -> Group:
    """What it costs to have torch at all: a small file by either engine, and torch alone."""
    contenders = [
        *_inspects(path, device),
        Contender(f"import torch, start {device}", peers.script(peers.START_DEVICE, device)),
        Contender("import torch", peers.script(peers.START_TORCH)),
    ]
    return Group("start-up: inspect of a small file, and torch alone", path, contenders)


def start_up_seconds(group: Group) -> float:
    """What `inspect` takes longer with torch than with NumPy, for a file that takes no time."""
    return group[TORCH].seconds - group[NUMPY].seconds


def inspecting(path: Path, dtype: str, device: str) -> Group:
    """`inspect` of one large dump by either engine, beside a script that loads to the device."""
    script = peers.script(peers.TORCH, path, 2, device)
    contenders = [
        *_inspects(path, device),
        Contender(f"torch script, load to {device}", script, last_number),
        cat(path),
    ]
    title = f"{path.stat().st_size / 1e9:.2f} GB {dtype} safetensors, whole processes"
    return Group(title, path, contenders, exact_norm(path))


def show_memory(path: Path, device: str) -> str:
    """Print what `inspect` takes of both memories; the limit on the device's."""
    warm(path)
    asked = _row(f"--device-memory {MEMORY}", path, device, "--device-memory", MEMORY)
    rows = [asked, _row("a quarter of what is free", path, device)]
    heads = ["gradtool inspect", "allocated MB", "reserved MB", "host's peak MB", "s"]
    texts = [[label, *(figure(value, ".1f") for value in values)] for label, *values in rows]
    size = f"{path.stat().st_size / 1e9:.2f} GB"
    print(f"\npeak memory of the device and of the host, inspect of {size}\n{table(heads, texts)}")
    return limit(
        f"device memory allocated with --device-memory {MEMORY}",
        asked[1],
        MEMORY_NBYTES / 1e6,
        " MB",
        judged=device == "cuda",
    )


def _row(label: str, path: Path, device: str, *options: str) -> tuple[str, float, ...]:
    """Megabytes of the device that torch allocated and reserved, and of the host; seconds."""
    arguments = peers.inspect_arguments(path, 2, *on_torch(device), *options)
    contender = Contender(label, peers.script(peers.GRADTOOL_DEVICE_MEMORY, *arguments))
    measure(contender)
    if contender.failure is not None:
        print(f"{label} failed: {contender.failure}")
        return label, math.nan, math.nan, math.nan, math.nan
    allocated, reserved = _last_two(contender.samples[0].stdout.split())
    return label, allocated, reserved, contender.peak_bytes / 1e6, contender.seconds


def _last_two(words: Sequence[str]) -> tuple[float, float]:
    return float(words[-2]) / 1e6, float(words[-1]) / 1e6
