"""`gradtool.torch.dump_gradients` beside `safetensors.torch.save_file`.

Both until they return, and until the file is on the disk: gradtool's returns no sooner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.harness import exact
from benchmarks.harness.bouts import Bout, Call
from benchmarks.harness.tables import limit
from benchmarks.live.sets import Live
from gradtool.torch import dump_gradients

GRADTOOL = "gradtool.torch.dump_gradients"
SAVE_FILE = "safetensors.torch.save_file"


def dumping(live: Live, directory: Path, runs: int) -> Iterator[str]:
    """Both ways of writing the gradients, in two tables; the limits; no file left behind."""
    path = directory / "dumped-live.safetensors"
    live.restore()
    what = f"dump of {live.nbytes / 1e9:.2f} GB float32 gradients"
    try:
        for end, after in (("as it returns", lambda _: None), ("then fsync", _sync)):
            bout = _bout(f"{what}, {end}", live, path, after)
            bout.run(runs)
            bout.show()
            yield limit(f"dump by save_file's, {end}", bout.ratio(GRADTOOL, SAVE_FILE), 1.3)
    finally:
        path.unlink(missing_ok=True)


def _bout(title: str, live: Live, path: Path, after: Callable[[Path], None]) -> Bout:
    parameters = list(live.parameters.items())

    def prepare() -> Path:
        path.unlink(missing_ok=True)
        os.sync()
        return path

    def ours(target: Path) -> tuple[Path, None]:
        dump_gradients(parameters, target)
        after(target)
        return target, None

    def theirs(target: Path) -> tuple[Path, None]:
        save_file(live.grads, target)
        after(target)
        return target, None

    calls = [
        Call(GRADTOOL, prepare, ours, exact.tensors_of),
        Call(SAVE_FILE, prepare, theirs, exact.tensors_of),
    ]
    return Bout(title, calls, live.nbytes, live.truth, live.truth, "file's norm")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
