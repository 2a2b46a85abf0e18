"""Copies of tensors are compared with what they are copies of, and are clipped alike."""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuttings import SHAPES, boxes_of
from dumps import WINDOW, stored
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.clip.plan import ClipRequest, plan_clip
from gradtool.core.measurement import Measurement
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import Chunk, Replica, TensorSpec
from gradtool.engine.backend import TASK_BYTES, Backend
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.overlaps.sharing import find_overlaps
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import measure
from gradtool.engine.schedule import Runner
from gradtool.engine.writing.rewrite import plan_rewrite, rewrite_file
from gradtool.request import MeasureRequest, chosen
from gradtool.storage.sink import create_sink


def measured(
    checkpoint: Checkpoint, backend: Backend = NUMPY, threads: int = 2, **options: Any
) -> Measurement:
    """The measurement of a catalogue made by hand."""
    with ThreadPoolExecutor(threads) as executor:
        runner = Runner(executor, WINDOW, backend, whole_progress(None))
        return measure(checkpoint, runner, **options)


def saved(array: NDArray[Any], name: str, folder: Path, *, turned: bool = False) -> TensorSpec:
    """The array in a file of its own, in C order or in Fortran's."""
    flat = np.ascontiguousarray(array.T) if turned else array
    (spec,) = stored(folder, "F64", [flat])
    strides = contiguous_strides(array.shape[::-1])[::-1] if turned else None
    return replace(spec, name=name, shape=array.shape, strides=strides)


def spoilt(array: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[Any]:
    """The array with NaN in `count` of its places."""
    flat = array.reshape(-1).copy()
    flat[rng.choice(flat.size, min(count, flat.size), replace=False)] = math.nan
    return flat.reshape(array.shape)


@given(
    shape=SHAPES,
    data=st.data(),
    spoils=st.lists(st.sampled_from([0, 0, 1, 3]), min_size=1, max_size=4),
    turned=st.booleans(),
    is_cut=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_copy_that_differs_is_named_counted_and_measured(
    backend: Backend,
    shape: tuple[int, ...],
    data: st.DataObject,
    spoils: list[int],
    turned: bool,
    is_cut: bool,
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(shape)
    spec = saved(array, "w", scratch, turned=turned)
    boxes = data.draw(boxes_of(shape))
    whole = Box((0,) * len(shape), shape)
    if is_cut:
        parts = [array[tuple(map(slice, box.offsets, box.ends))] for box in boxes]
        chunks = [Chunk(b, saved(p, "w", scratch)) for b, p in zip(boxes, parts, strict=True)]
        spec = replace(spec, strides=None, extents=(), chunks=tuple(chunks))
    replicas, expected = [], []
    for rank, spoil in enumerate(spoils, 1):
        box = data.draw(st.sampled_from([None, *boxes]))
        place = tuple(map(slice, (box or whole).offsets, (box or whole).ends))
        copy = spoilt(array[place], spoil, rng)
        stored_copy = saved(copy, "w", scratch, turned=turned)
        replicas.append(Replica(f"rank {rank}", stored_copy, box))
        seen = array.copy()
        seen[place] = copy
        bad = np.argwhere(np.isnan(seen))
        if len(bad):
            first = tuple(map(int, bad[0]))
            expected.append((f"rank {rank}", first, len(bad), len(bad), copy.size))
    checkpoint = Checkpoint("by hand", "raw", (), (spec,), replicas=tuple(replicas))
    found = measured(checkpoint, backend)
    assert [
        (d.rank, d.first, d.differing, d.stats.nan, d.stats.numel) for d in found.disagreements
    ] == expected
    assert {d.name for d in found.disagreements} <= {"w"}
    assert found.replicas == len(replicas) - len(expected)
    # What is counted is the original alone.
    alone = measured(replace(checkpoint, replicas=()), backend)
    assert found.total == alone.total
    assert found.tensors == alone.tensors


def test_the_bytes_are_compared_and_not_the_numbers(tmp_path: Path) -> None:
    zeros, bits = np.array([0.0, 1.0, math.nan]), np.array([0.0, 1.0, math.nan])
    zeros[0] = -0.0
    bits.view("u8")[2] ^= 1
    spec = saved(np.array([0.0, 1.0, math.nan]), "w", tmp_path)
    copies = [np.array([0.0, 1.0, math.nan]), zeros, bits]
    replicas = tuple(
        Replica(f"rank {rank}", saved(copy, "w", tmp_path)) for rank, copy in enumerate(copies, 1)
    )
    found = measured(Checkpoint("by hand", "raw", (), (spec,), replicas=replicas))
    assert found.replicas == 1
    assert [(d.rank, d.first) for d in found.disagreements] == [("rank 2", (0,)), ("rank 3", (2,))]


def test_long_tensors_are_compared_in_many_tasks_by_threads_or_processes(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    array = rng.standard_normal((3, TASK_BYTES // 8 + 11))
    assert array.nbytes > 3 * TASK_BYTES
    late = array.copy()
    late[2, -1] += 1
    late[1, 5] += 1
    spec = saved(array, "w", tmp_path)
    # In C order, and in the other, which has to be put together of rows.
    copies = [saved(late, "w", tmp_path, turned=turned) for turned in (False, True)]
    replicas = tuple(Replica(f"rank {rank}", copy) for rank, copy in enumerate(copies, 1))
    checkpoint = Checkpoint("by hand", "raw", (), (spec,), replicas=replicas)
    found = measured(checkpoint)
    assert [(d.first, d.differing) for d in found.disagreements] == [((1, 5), 2)] * 2
    with ProcessPoolExecutor(2) as executor:
        runner = Runner(executor, WINDOW, NUMPY, whole_progress(None))
        again = measure(checkpoint, runner)
    assert replace(again, elapsed_s=0.0) == replace(found, elapsed_s=0.0)
    assert replace(measured(checkpoint, threads=1), elapsed_s=0.0) == replace(found, elapsed_s=0.0)


def test_replicas_are_chosen_along_with_their_tensors(tmp_path: Path) -> None:
    specs = [saved(np.ones(3), name, tmp_path) for name in ("a", "b")]
    replicas = tuple(Replica("rank 1", spec) for spec in specs)
    checkpoint = Checkpoint("by hand", "raw", (), tuple(specs), replicas=replicas)
    part = chosen(checkpoint, MeasureRequest(include="b"))
    assert [replica.name for replica in part.replicas] == ["b"]


def test_a_copy_of_another_shape_is_none(tmp_path: Path) -> None:
    spec, other = saved(np.ones((2, 3)), "w", tmp_path), saved(np.ones((3, 2)), "w", tmp_path)
    checkpoint = Checkpoint("by hand", "raw", (), (spec,), replicas=(Replica("rank 1", other),))
    with pytest.raises(ValueError, match="'w': a copy of the shape"):
        measured(checkpoint)


@pytest.mark.parametrize("tied_on", [(), (0, 1), (1,)])
def test_clipping_scales_copies_alike(tied_on: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {"a": rng.standard_normal((40, 30)), "b": rng.standard_normal(50)}
    ranks = []
    for rank in range(2):
        specs = [saved(array, name, tmp_path) for name, array in arrays.items()]
        # A third tensor is a view of the first one, or has elements of its own.
        view = replace(specs[0], name="c", shape=(30, 40), strides=(1, 30))
        ranks.append([*specs, view if rank in tied_on else saved(arrays["a"].T, "c", tmp_path)])
    originals, copies = ranks
    files = tuple(extent.file for spec in (*originals, *copies) for extent in spec.extents)
    checkpoint = Checkpoint(
        *("by hand", "raw", tuple(dict.fromkeys(files)), tuple(originals)),
        replicas=tuple(Replica("rank 1", copy) for copy in copies),
    )
    before = measured(checkpoint)
    assert before.replicas == len(copies)
    plan = plan_clip(before, ClipRequest(max_norm=0.5))
    rewrite = plan_rewrite(checkpoint, plan, find_overlaps(checkpoint))
    assert rewrite.changed == checkpoint.files
    out = tmp_path / "out"
    out.mkdir()
    folder = os.open(out, os.O_RDONLY)
    names = {}
    with ThreadPoolExecutor(2) as executor:
        runner = Runner(executor, WINDOW, NUMPY, whole_progress(None))
        for file in checkpoint.files:
            names[file] = os.path.basename(file.path)
            with create_sink(names[file], dir_fd=folder) as sink:
                rewrite_file(rewrite, file, sink, runner)
    os.close(folder)
    assert plan.clip_coef is not None
    for spec in (*originals, *copies):
        written = np.fromfile(out / names[spec.extents[0].file])
        is_view = spec.name == "c" and spec.strides is not None
        expected = arrays["a"] if is_view else {**arrays, "c": arrays["a"].T}[spec.name]
        assert (written == (expected * plan.clip_coef).reshape(-1)).all()
