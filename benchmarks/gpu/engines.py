"""Both engines in one process in which torch runs already, and the size at which they meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradtool
from benchmarks.harness.bouts import Bout, Call
from benchmarks.harness.timing import warm

TORCH = "measure(backend='torch')"
NUMPY = "measure(backend='numpy')"


def show(path: Path, dtype: str, device: str, runs: int, start_up: float, truth: float) -> None:
    """Print the table of one dump, and from how many gigabytes on torch is done first."""
    warm(path)
    calls = [
        _call(TORCH, lambda: gradtool.measure(path, backend="torch", device=device)),
        _call(NUMPY, lambda: gradtool.measure(path, backend="numpy")),
    ]
    nbytes = path.stat().st_size
    title = f"{nbytes / 1e9:.2f} GB {dtype} safetensors, one process, {device} started"
    bout = Bout(title, calls, nbytes, truth, first="torch")
    bout.run(runs)
    bout.show()
    torch, numpy = (bout[label].seconds / (nbytes / 1e9) for label in (TORCH, NUMPY))
    print(
        f"start-up with torch takes {start_up:.2f} s more; a GB then takes {torch:.4f} s, "
        f"without {numpy:.4f} s: {break_even(start_up, torch, numpy)}"
    )


def break_even(start_up: float, torch: float, numpy: float) -> str:
    """The size from which on torch is done first, of seconds to start and seconds for a GB."""
    if math.isnan(start_up):
        return "break-even not measured"
    gain = numpy - torch
    return f"break-even at {start_up / gain:.1f} GB" if gain > 0 else "break-even never"


def _call(label: str, measure: Callable[[], Any]) -> Call:
    return Call(label, lambda: None, lambda _: (None, measure().total.norm))
