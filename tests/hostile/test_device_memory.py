"""Memory of the device: what is taken of it, and what is done where there is not enough."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dumps import NUMPY_TYPES
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

import gradtool
from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DTYPES, DType
from gradtool.engine.torch_backend.backend import TorchForeach, fitting_numbers
from gradtool.engine.torch_backend.encodings import ROW
from gradtool.engine.torch_backend.groups import Group
from gradtool.engine.torch_backend.workers import ENOUGH_FITTED, DeviceWorker

MEMORY = 16 << 20
ONE_THREAD = TorchForeach(("cpu",), MEMORY, 1)
FITTING = fitting_numbers(MEMORY, 1, 1)
TRANSFORMS = [
    Transform(0.3),
    Transform(0.3, nonfinite="keep"),
    Transform(bound=0.3, nonfinite="zero"),
]


def peak_nbytes(work: Callable[[], object]) -> int:
    """The most bytes that torch held at a time, by the word of its own allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.fixture(params=[*NUMPY_TYPES, "C32"])
def block(request: pytest.FixtureRequest) -> tuple[DType, NDArray[Any]]:
    """Twice what fits, with all that makes work: NaN, Inf, subnormals, zeros."""
    dtype = DTYPES[request.param]
    numel = 2 * FITTING
    rng = np.random.default_rng(1)
    return dtype, rng.integers(0, 256, numel * dtype.itemsize, np.uint8)


@pytest.mark.parametrize("p", [2.0, 3.0, -3.0])
def test_statistics_stay_within_the_memory_they_are_given(
    p: float, block: tuple[DType, NDArray[Any]]
) -> None:
    dtype, raw = block
    numel = len(raw) // dtype.itemsize
    for counts in ([numel], [ROW] * (numel // ROW)):
        peak = peak_nbytes(lambda counts=counts: ONE_THREAD.stats(raw, dtype, counts, p))
        assert 0 < peak <= MEMORY
        # A bound of which half is enough would be no measure of it.
        assert peak > MEMORY / 6


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_transforms_stay_within_the_memory_they_are_given(
    transform: Transform, block: tuple[DType, NDArray[Any]]
) -> None:
    dtype, raw = block
    peak = peak_nbytes(lambda: ONE_THREAD.apply(raw.copy(), dtype, transform, big_endian=True))
    # fp8 is looked up, in a table of what becomes of each code.
    assert (MEMORY / 6 if dtype.itemsize > 1 else 0) < peak <= MEMORY


SCARCE = """
import resource, sys
import numpy as np
from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DTYPES
from gradtool.engine.torch_backend import backend as torch_foreach
from gradtool.engine.numpy_backend.backend import NUMPY

backend = torch_foreach.TorchForeach(("cpu",), 1 << 40, 1)
rng = np.random.default_rng(0)
raw = rng.standard_normal(4 << 20, np.float32).view(np.uint8)
raw[12_000_000:12_000_004] = 255  # NaN
room = raw.copy()
counts = [3 << 20, 1000, 24, (1 << 20) - 1024]
tensors = [1 << 20, 1 << 20, 1 << 20, 1 << 20]
backend.stats(raw[:1 << 20], DTYPES["F32"], [1 << 18], 2.0)  # loads what is loaded once
backend.apply(room[:1 << 20], DTYPES["F32"], Transform(1.0))
room[:] = raw

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
try:
    found = backend.stats(raw, DTYPES["F32"], tensors, 2.0)
    backend.apply(room, DTYPES["F32"], Transform(0.1, nonfinite="keep"))
finally:
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
known = NUMPY.stats(raw, DTYPES["F32"], tensors, 2.0)
for one, other in zip(found, known, strict=True):
    assert abs(one.finite_norm - other.finite_norm) <= 1e-12 * other.finite_norm
    assert (one.numel, one.nan, one.max_abs) == (other.numel, other.nan, other.max_abs)
    assert one.first_nonfinite == other.first_nonfinite
assert [one.nan for one in found] == [0, 0, 1, 0]
NUMPY.apply(raw, DTYPES["F32"], Transform(0.1, nonfinite="keep"))
assert np.array_equal(room, raw)
(worker,) = torch_foreach._workers.by_devices.values()
print("largest group", worker._most_numel)
"""


def scarce(nbytes: int) -> str:
    """What is said with so many bytes of memory beside what the process has."""
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, str(nbytes)],
        env={"PYTHONPATH": str(Path(gradtool.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


linux_only = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="how much memory there is is read from /proc"
)


@linux_only
def test_where_memory_runs_out_groups_are_halved_and_figures_the_same() -> None:
    assert scarce(1 << 30) == f"largest group {8 << 20}"
    said = scarce(40 << 20)
    assert said.startswith("largest group")
    assert ROW < int(said.split()[-1]) < 4 << 20


def test_where_there_is_not_enough_for_a_row_one_line_says_so() -> None:
    tried = []

    def ask_for_a_petabyte(group: Group) -> None:
        tried.append(group.numel)
        torch.empty(1 << 50, dtype=torch.uint8)

    whole = Group.of([5 * ROW, 3], DTYPES["F32"])
    with pytest.raises(gradtool.DeviceError, match=r"cpu has no memory left.*`backend='numpy'`"):
        DeviceWorker(torch.device("cpu")).in_groups(whole, whole.numel, ask_for_a_petabyte)
    assert tried[0] == 6 * ROW
    assert tried[-1] == ROW


def test_groups_grow_again_once_many_have_fitted() -> None:
    worker, whole, tried = DeviceWorker(torch.device("cpu")), Group.of([8 * ROW], DTYPES["F32"]), []

    def fail_once(group: Group) -> None:
        tried.append(group.numel // ROW)
        if len(tried) == 1:
            torch.empty(1 << 50, dtype=torch.uint8)

    for _ in range(ENOUGH_FITTED // 2 + 1):
        worker.in_groups(whole, whole.numel, fail_once)
    assert tried == [8, *[4] * ENOUGH_FITTED, 8]


def test_another_error_of_the_device_is_not_taken_for_a_lack_of_memory() -> None:
    def mistaken(_: Group) -> None:
        torch.zeros(3).view(2, 2)

    with pytest.raises(RuntimeError, match="shape"):
        DeviceWorker(torch.device("cpu")).in_groups(Group.of([9], DTYPES["F32"]), ROW, mistaken)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("p", [2.0, 3.0])
def test_a_gpu_keeps_to_its_budget_whatever_the_dumps_size(p: float, tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal(100_000_000, np.float32)
    np.save(tmp_path / "x.npy", array)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradtool.measure(
        tmp_path / "x.npy", device="cuda", device_memory="128MiB", norm_type=p, threads=4
    )
    assert 0 < torch.cuda.max_memory_allocated() - before <= 128 << 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_that_others_fill_is_shared_by_halving(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal(50_000_000, np.float32)
    np.save(tmp_path / "x.npy", array)
    torch.cuda.init()
    total = torch.cuda.get_device_properties(0).total_memory
    fraction = (torch.cuda.memory_reserved() + (160 << 20)) / total
    torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        found = gradtool.measure(tmp_path / "x.npy", device="cuda", device_memory="64GiB")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    known = gradtool.measure(tmp_path / "x.npy", backend="numpy")
    assert found.total is not None
    assert known.total is not None
    assert math.isclose(found.total.stats.norm, known.total.stats.norm, rel_tol=1e-12)


@pytest.mark.parametrize("counts", [[1], [ROW], [ROW + 1], [5 * ROW + 3], [1, 2, 3], [7 * ROW, 1]])
def test_halves_are_all_there_is_and_begin_with_rows(counts: list[int]) -> None:
    waiting, found = [Group.of(counts, DTYPES["F32"])], []
    while waiting:
        group = waiting.pop()
        if group.numel > ROW:
            waiting += reversed(group.halves())
        else:
            found += group.spans
    assert all(span.first % ROW == span.start % ROW == 0 for span in found)
    for index, count in enumerate(counts):
        spans = [span for span in found if span.segment == index]
        ends = [span.first + span.numel for span in spans]
        assert [span.first for span in spans] == [0, *ends[:-1]]
        assert ends[-1] == count
