"""In boxes over any number of files, in every form torch writes, tensors are like whole ones."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.distributed.checkpoint as dcp
from cuttings import cuttings, part_of
from distcp import Item, loaded_blobs, write_distcp
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close
from shards import loaded, write_shards

import gradtool
from gradtool.core.shapes.boxes import Box

Cutting = tuple[tuple[int, ...], list[Box]]


Wholes = dict[str, NDArray[Any]]
Ranks = list[list[Item]]


def write_hf(directory: Path, wholes: Wholes, ranks: Ranks) -> None:
    held = [{name: (box, part_of(wholes[name], box)) for name, box in items} for items in ranks]
    write_shards(directory, held)


def write_items(directory: Path, wholes: Wholes, ranks: Ranks) -> None:
    write_distcp(directory, {n: torch.tensor(array) for n, array in wholes.items()}, ranks)


def write_blobs(directory: Path, wholes: Wholes, ranks: Ranks) -> None:
    tensors = {n: torch.tensor(array) for n, array in wholes.items()}
    write_distcp(directory, tensors, [items for items in ranks if items], in_blobs=True)


def load_items(directory: Path, wholes: Wholes) -> Wholes:
    shapes = {name: array.shape for name, array in wholes.items()}
    return loaded(directory, shapes, dcp.FileSystemReader(directory))


FORMS = {
    "hf": (write_hf, lambda d, wholes: loaded(d, {n: a.shape for n, a in wholes.items()})),
    "items": (write_items, load_items),
    "blobs": (write_blobs, lambda d, _: loaded_blobs(d)),
}


@pytest.mark.parametrize("form", FORMS)
@given(
    cut=st.lists(cuttings(), min_size=1, max_size=3),
    bad=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
    spare=st.integers(0, 2),
)
def test_they_measure_locate_and_clip_like_the_whole(
    form: str, cut: list[Cutting], bad: float, seed: int, spare: int, scratch: Path
) -> None:
    write, load = FORMS[form]
    rng = np.random.default_rng(seed)
    wholes: Wholes = {}
    ranks: Ranks = [[] for _ in range(max(len(boxes) for _, boxes in cut) + spare)]
    for number, (shape, boxes) in enumerate(cut):
        name = f"t.{number}"
        elements = rng.standard_normal(shape)
        wholes[name] = np.where(rng.random(shape) < bad, math.nan, elements).astype(np.float32)
        # torch knows boxes by their first index, and empty ones have none of their own.
        held = [box for box in boxes if box.numel] or [Box((0,) * len(shape), shape)]
        for rank, box in zip(rng.permutation(len(ranks)), held, strict=False):
            ranks[rank].append(Item(name, box))
    directory = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    write(directory, wholes, ranks)
    whole = directory.with_suffix(".safetensors")
    safetensors.numpy.save_file(wholes, whole)

    found, expected = gradtool.measure(directory, verify=True), gradtool.measure(whole)
    assert [tensor.name for tensor in found.in_order] == list(wholes)
    for one, other in zip(found.in_order, expected.in_order, strict=True):
        assert (one.spec.shape, one.first_nonfinite) == (other.spec.shape, other.first_nonfinite)
        assert (one.stats.nan, one.stats.zeros) == (other.stats.nan, other.stats.zeros)
        assert close(one.finite_norm, other.finite_norm)
    again = gradtool.measure(directory)
    assert [tensor.stats for tensor in again.tensors] == [tensor.stats for tensor in found.tensors]

    out, whole_out = directory.with_name("out"), whole.with_name("out.safetensors")
    options: dict[str, Any] = {"max_norm": 0.5, "nonfinite": "keep"}
    coef = gradtool.clip(directory, out, **options).clip_coef
    other_coef = gradtool.clip(whole, whole_out, **options).clip_coef
    assert coef is not None
    assert other_coef is not None
    assert close(coef, other_coef)
    arrays = load(out, wholes)
    for name, array in wholes.items():
        wanted = (array.astype(np.float64) * coef).astype(np.float32)
        assert arrays[name].tobytes() == wanted.tobytes()
    gradtool.measure(out, verify=True)
