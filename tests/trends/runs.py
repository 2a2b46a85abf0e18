"""Runs on disk for tests, their norms known by `math.fsum`, and trends as plain values."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from dumps import write_safetensors

from gradtool.core.trends.trend import Trend

Tensors = Mapping[str, Any]

LONG_AGO_NS = 1_600_000_000_000_000_000


def write_step(path: Path, tensors: Tensors) -> Path:
    """A dump of float64 tensors."""
    arrays = {name: ("F64", np.asarray(value, np.float64)) for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_safetensors(path, arrays)


def write_run(folder: Path, steps: Mapping[int, Tensors]) -> Path:
    """A directory of steps."""
    for number, tensors in steps.items():
        write_step(folder / f"step_{number}.safetensors", tensors)
    return folder


def true_norm(tensors: Tensors) -> float:
    """The L2 norm, each product and each sum exact until the one rounding."""
    values = [float(value) for tensor in tensors.values() for value in np.ravel(tensor)]
    return math.sqrt(math.fsum(value * value for value in values))


def plain(trend: Trend) -> Any:
    """All that a trend says but how long it took and what it noted of the store."""
    fields = asdict(trend)
    del fields["elapsed_s"], fields["notes"], fields["policy"]
    for run in fields["runs"]:
        for step in run["steps"]:
            del step["verdict"]["elapsed_s"]
    return repr(fields)  # NaN is equal to itself there


def measured_files(monkeypatch: Any) -> list[str]:
    """The paths of the files that are opened to be read from now on, each time again."""
    opened: list[str] = []
    really = os.open

    def noting(path: Any, *args: Any, **options: Any) -> int:
        if isinstance(path, str) and path.endswith(".safetensors"):
            opened.append(os.path.basename(path))
        return really(path, *args, **options)

    monkeypatch.setattr(os, "open", noting)
    return opened
