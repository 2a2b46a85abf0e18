"""The data of `trends.py`: runs of many steps, the rows of their dumps, and a recorded run.

    python -m benchmarks.files.runs DIRECTORY

makes what is not there yet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.numpy import save
from torch import nn

import gradtool
from benchmarks.files.dumps import make_run, normal
from gradtool.api.judging import judging_by
from gradtool.api.remembering import remembering
from gradtool.api.trending import Following
from gradtool.core.names import no_name
from gradtool.engine.progress import whole_progress
from gradtool.rules.settings import Settings
from gradtool.storage.rows.identity import SETTLED_NS
from gradtool.torch import Recorder

KNOWN_STEPS, KNOWN_TENSORS = 1_000, 300
LONG_STEPS, LONG_TENSORS = 10_000, 2_000
RECORDED_STEPS = 100
PARTS = ("q", "k", "v", "o", "up", "down", "norm1", "norm2", "bias1", "bias2")


def known_path(directory: Path) -> Path:
    """Where a run is whose dumps were all seen before; its store is called so, too."""
    return directory / "known"


def long_path(directory: Path) -> Path:
    """Where a long one is."""
    return directory / "long"


def store_of(folder: Path) -> Path:
    """The store with the rows of a run."""
    return folder.with_suffix(".sqlite")


def recorded_path(directory: Path) -> Path:
    """Where the store of a recorded run is."""
    return directory / "recorded.rows"


def make_steps(folder: Path, steps: int, tensors: int) -> None:
    """Dumps of tensors of one element, each a file of its own, and the rows of all."""
    if store_of(folder).exists():
        return
    folder.mkdir(exist_ok=True)
    shapes = {f"layers.{n // 10}.{PARTS[n % 10]}.weight": (1,) for n in range(tensors)}
    data = save(dict(normal(shapes, seed=3)))
    for step in range(steps):
        (folder / f"step-{step:05}.safetensors").write_bytes(data)
    time.sleep(SETTLED_NS / 1e9 + 0.5)  # of files that are newer no rows are kept
    partial = folder.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    keep_rows(folder, partial)
    partial.rename(store_of(folder))


def keep_rows(folder: Path, store: Path) -> None:
    """The rows that `trend` keeps of dumps of equal content, of which it measures the first."""
    judging = judging_by(Settings(), baseline=None, config=None, options={})
    paths = sorted(map(str, folder.iterdir()))
    measured = gradtool.measure(paths[0])
    with remembering(store, judging.request, judging.of_dumps_alone) as memory:
        following = Following(judging, memory, no_name, None, None, None)
        first = following.step(paths[0], whole_progress(None))
        for number, path in enumerate(paths[1:], 1):
            recalled = memory.recall(path)
            if recalled is None:
                raise RuntimeError(f"{path}: no rows are kept")
            recalled.measured(path, lambda path=path: replace(measured, path=path, files=(path,)))  # type: ignore[misc]
            recalled.keep_step(replace(first, verdict=replace(first.verdict, step=number)))
    if memory.notes:
        raise RuntimeError(*memory.notes)


class Small(nn.Module):
    """Layers of ten small parameters each."""

    def __init__(self) -> None:
        super().__init__()
        layers = range(LONG_TENSORS // len(PARTS))
        self.layers = nn.ModuleList(nn.ParameterDict(dict(_parameters())) for _ in layers)


def _parameters() -> Iterator[tuple[str, nn.Parameter]]:
    for name in PARTS:
        yield name, nn.Parameter(torch.zeros(4, 4))


def record(path: Path) -> None:
    """The rows of a recorded run."""
    if path.exists():
        return
    torch.manual_seed(4)
    model, partial = Small(), path.with_name("recording.rows")
    partial.unlink(missing_ok=True)
    recorder = Recorder(model, partial, dump_on="")
    for step in range(RECORDED_STEPS):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
        recorder.before_clipping(step=step)
    recorder.close()
    partial.rename(path)


def main() -> None:
    """Make all that is missing."""
    directory = Path(sys.argv[1])
    make_run(directory)
    make_steps(known_path(directory), KNOWN_STEPS, KNOWN_TENSORS)
    make_steps(long_path(directory), LONG_STEPS, LONG_TENSORS)
    record(recorded_path(directory))


if __name__ == "__main__":
    main()
