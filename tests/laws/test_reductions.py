"""Whatever tensors are reduced to, each element is seen once, as what it is and where it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dumps import WINDOW, stored
from hypothesis import given
from hypothesis import strategies as st

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.engine.backend import BLOCK_ELEMENTS, Backend
from gradtool.engine.overlaps.sharing import find_overlaps, find_sharing
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import reduce_tasks
from gradtool.engine.reading.pairs.comparisons import ByteEquality
from gradtool.engine.reading.plan import plan
from gradtool.engine.reading.reductions import Elements
from gradtool.engine.reading.targets import NAMED
from gradtool.engine.schedule import Runner
from gradtool.formats import open_checkpoint

Seen = list[tuple[int, float]]


@dataclass(frozen=True)
class Places:
    """A reduction to what is there: each element with its position."""

    def of(self, elements: Elements, backend: Backend) -> list[Seen]:
        """The elements of each segment, in the order in which they are stored."""
        itemsize = elements.dtype.itemsize
        starts = backend.offsets(elements.counts, itemsize)
        found = []
        for start, count, first in zip(starts, elements.counts, elements.firsts, strict=False):
            values = elements.raw[start : start + count * itemsize].view("<f4")
            positions = np.arange(count) + first
            if elements.positions is not None:
                positions = elements.positions(np.arange(count))
            found.append(list(zip(positions.tolist(), values.tolist(), strict=True)))
        return found

    def merged(self, parts: Sequence[Seen]) -> Seen:
        """All of them."""
        return [place for part in parts for place in part]


def seen(checkpoint: Checkpoint, backend: Backend) -> list[Seen]:
    """What each tensor is reduced to, by position."""
    specs = checkpoint.tensors
    sharing = find_sharing(specs, find_overlaps(checkpoint))
    with ThreadPoolExecutor(2) as threads:
        runner = Runner(threads, WINDOW, backend, whole_progress(None))
        tasks = plan(specs, sharing, (), backend.limits)
        found, *_ = reduce_tasks(tasks, Places(), ByteEquality(), runner)
    at = [sharing.same_as.get(index, index) for index in range(len(specs))]
    return [sorted(found.get((index, NAMED), [])) for index in at]


def in_c_order(tensor: torch.Tensor) -> Seen:
    """What a tensor names, element by element; what is expanded is named once."""
    once = tensor[tuple(slice(None) if stride else slice(1) for stride in tensor.stride())]
    positions = torch.arange(tensor.numel()).reshape(tensor.shape)
    positions = positions[tuple(slice(size) for size in once.shape)]
    return list(zip(positions.reshape(-1).tolist(), once.reshape(-1).tolist(), strict=True))


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), min_size=1, max_size=9),
    parts=st.integers(1, 3),
)
def test_in_tensors_one_after_another(
    backend: Backend, shapes: list[tuple[int, ...]], parts: int, scratch: Path
) -> None:
    sizes = [int(np.prod(shape)) for shape in shapes]
    starts = np.cumsum([0, *sizes])
    arrays = [
        np.arange(start, start + size, dtype=np.float32).reshape(shape)
        for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]
    specs = stored(scratch, "F32", arrays, parts=parts)
    checkpoint = Checkpoint("by hand", "raw", (), tuple(specs))
    expected = [list(enumerate(array.reshape(-1).tolist())) for array in arrays]
    assert seen(checkpoint, backend) == expected


@given(numels=st.lists(st.sampled_from([1, 7, 200, 600]), max_size=20), seed=st.integers(0, 99))
def test_in_some_tensors_among_others(
    backend: Backend, numels: list[int], seed: int, scratch: Path
) -> None:
    """What lies between those chosen is read over, or left out."""
    chosen = np.random.default_rng(seed).random(len(numels)) < 0.5
    starts = np.cumsum([0, *numels])
    arrays = [
        np.arange(start, start + numel, dtype=np.float32)
        for start, numel in zip(starts, numels, strict=False)
    ]
    specs = stored(scratch, "F32", arrays)
    checkpoint = Checkpoint("by hand", "raw", (), tuple(itertools.compress(specs, chosen)))
    expected = [list(enumerate(array.tolist())) for array in itertools.compress(arrays, chosen)]
    assert seen(checkpoint, backend) == expected


def test_in_views_of_every_kind_and_in_streams(backend: Backend, tmp_path: Path) -> None:
    base = torch.arange(5000, dtype=torch.float32)
    views = {
        "whole": base,
        "turned": base.reshape(50, 100).T,
        "columns": base.reshape(50, 100)[:, 3:20],
        "expanded": base[:7, None].expand(7, 5),
        "overlapping itself": torch.as_strided(base, (30, 7), (3, 1)),
        "apart": torch.arange(64.0).reshape(8, 8).clone()[::2, 1::3],
        "of several blocks": torch.arange(BLOCK_ELEMENTS + 8.0).reshape(2, -1).T,
        "dense": torch.arange(60.0).reshape(3, 4, 5).permute(2, 0, 1),
    }
    torch.save(views, tmp_path / "views.pt")
    checkpoint = open_checkpoint(str(tmp_path / "views.pt"))
    assert seen(checkpoint, backend) == [in_c_order(view) for view in views.values()]
    arrays = {
        "long": np.arange(BLOCK_ELEMENTS + 17, dtype=np.float32),
        "fortran": np.asfortranarray(np.arange(60, dtype=np.float32).reshape(5, 12)),
    }
    assert contiguous_strides((5, 12)) != tuple(s // 4 for s in arrays["fortran"].strides)
    np.savez_compressed(tmp_path / "deflated.npz", **arrays)
    checkpoint = open_checkpoint(str(tmp_path / "deflated.npz"))
    expected = [list(enumerate(array.reshape(-1).tolist())) for array in arrays.values()]
    assert seen(checkpoint, backend) == expected
