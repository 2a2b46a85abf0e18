"""Dumps whose clipped form is known without gradtool: every gradient is halved.

Clipping by `HALVE` means a coefficient of exactly 0.5, whatever the gradients are.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dumps import write_safetensors
from numpy.typing import NDArray

HALVE = ("--total-norm", "2", "--max-norm", "1", "--eps", "0", "-q", "--threads", "2")
QUARTER = ("--total-norm", "4", "--max-norm", "1", "--eps", "0", "-q", "--threads", "2")
OPTIONS: dict[str, Any] = {"total_norm": 2.0, "max_norm": 1.0, "eps": 0.0}
"""`HALVE`, for the function."""

FILE = ""
"""The name under which a single file's content is kept."""


@dataclass(frozen=True)
class Halved:
    """What a dump holds by relative path, and what once or twice clipped ones do."""

    old: dict[str, bytes]
    new: dict[str, bytes]
    quarter: dict[str, bytes]
    eighth: dict[str, bytes]

    def write(self, path: Path) -> Path:
        """The unclipped dump at `path`."""
        if FILE in self.old:
            path.write_bytes(self.old[FILE])
            return path
        for name, content in self.old.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path

    def state(self, path: Path) -> str:
        """What lies at `path`: nothing, one of the four contents, or a torn one."""
        found = content(path)
        if found is None:
            return "absent"
        for name in ("old", "new", "quarter", "eighth"):
            if found == getattr(self, name):
                return name
        return "torn"


def content(path: Path) -> dict[str, bytes] | None:
    """Every file at or below `path`; None where nothing is."""
    if not os.path.lexists(path):
        return None
    if not path.is_dir():
        return {FILE: path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if not p.is_dir()}


def workspaces(directory: Path) -> list[str]:
    """Names of what runs have left in a directory."""
    return sorted(name for name in os.listdir(directory) if name.startswith(".gradtool-"))


def remove(path: Path) -> None:
    """Have nothing at `path`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def gradients(elements: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(elements).astype(np.float32)


def halved_file(elements: int, copied_nbytes: int) -> Halved:
    """A safetensors file of gradients, and of bytes that are no gradients and stay."""
    tensors = gradients(elements)
    kept = np.random.default_rng(1).integers(0, 127, copied_nbytes, np.int8)

    def made(factor: float) -> dict[str, bytes]:
        scaled = tensors * np.float32(factor)
        return {FILE: _safetensors({"w": ("F32", scaled), "counts": ("I8", kept)})}

    return Halved(*map(made, (1.0, 0.5, 0.25, 0.125)))


def halved_directory(elements: int, rest_nbytes: int) -> Halved:
    """Two shards, their index, and files that stay, one of them in a directory within."""
    shards = {f"grads-0000{i}-of-00002.safetensors": gradients(elements, i) for i in (1, 2)}
    index = {"metadata": {}, "weight_map": {f"w{i}": name for i, name in enumerate(shards)}}
    rest = {
        "grads.safetensors.index.json": json.dumps(index).encode(),
        "config.json": b"{}",
        "logs/events.log": np.random.default_rng(3).bytes(rest_nbytes),
    }

    def made(factor: float) -> dict[str, bytes]:
        scaled = {
            name: _safetensors({f"w{i}": ("F32", values * np.float32(factor))})
            for i, (name, values) in enumerate(shards.items())
        }
        return {**scaled, **rest}

    return Halved(*map(made, (1.0, 0.5, 0.25, 0.125)))


def deflated_npz(elements: int, factor: float = 1.0) -> bytes:
    """What `numpy.savez_compressed` writes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, w=gradients(elements) * np.float32(factor))
    return stream.getvalue()


def same_arrays(one: bytes, other: bytes) -> bool:
    """Whether two npz files are sound and hold the same, however deflated."""
    with zipfile.ZipFile(io.BytesIO(one)) as a, zipfile.ZipFile(io.BytesIO(other)) as b:
        return a.namelist() == b.namelist() and all(a.read(n) == b.read(n) for n in a.namelist())


def _safetensors(tensors: dict[str, tuple[str, NDArray[Any]]]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_safetensors(Path(folder) / "made", tensors).read_bytes()
