"""Shards of boxes, over any number of files, measure, locate and clip like the whole tensors."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from cuttings import cuttings, part_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close
from shards import loaded, write_shards

import gradtool
from gradtool.core.shapes.boxes import Box

Cutting = tuple[tuple[int, ...], list[Box]]


@given(
    cut=st.lists(cuttings(), min_size=1, max_size=3),
    bad=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
    spare=st.integers(0, 2),
)
def test_they_measure_locate_and_clip_like_the_whole(
    cut: list[Cutting], bad: float, seed: int, spare: int, scratch: Path
) -> None:
    rng = np.random.default_rng(seed)
    wholes: dict[str, NDArray[Any]] = {}
    shards: list[dict[str, tuple[Box, NDArray[Any]]]] = [
        {} for _ in range(max(len(boxes) for _, boxes in cut) + spare)
    ]
    for number, (shape, boxes) in enumerate(cut):
        name = f"t.{number}"
        elements = rng.standard_normal(shape)
        wholes[name] = np.where(rng.random(shape) < bad, math.nan, elements).astype(np.float32)
        # torch knows boxes by their first index, and empty ones have none of their own.
        held = [box for box in boxes if box.numel] or [Box((0,) * len(shape), shape)]
        for shard, box in zip(rng.permutation(len(shards)), held, strict=False):
            shards[shard][name] = (box, part_of(wholes[name], box))
    directory = write_shards(Path(tempfile.mkdtemp(dir=scratch)) / "run", shards)
    whole = directory.with_suffix(".safetensors")
    safetensors.numpy.save_file(wholes, whole)

    found, expected = gradtool.measure(directory), gradtool.measure(whole)
    assert [tensor.name for tensor in found.in_order] == list(wholes)
    for one, other in zip(found.in_order, expected.in_order, strict=True):
        assert (one.spec.shape, one.first_nonfinite) == (other.spec.shape, other.first_nonfinite)
        assert (one.stats.nan, one.stats.zeros) == (other.stats.nan, other.stats.zeros)
        assert close(one.finite_norm, other.finite_norm)

    out, whole_out = directory.with_name("out"), whole.with_name("out.safetensors")
    options: dict[str, Any] = {"max_norm": 0.5, "nonfinite": "keep"}
    coef = gradtool.clip(directory, out, **options).clip_coef
    other_coef = gradtool.clip(whole, whole_out, **options).clip_coef
    assert coef is not None
    assert other_coef is not None
    assert close(coef, other_coef)
    arrays = loaded(out, {name: array.shape for name, array in wholes.items()})
    for name, array in wholes.items():
        wanted = (array.astype(np.float64) * coef).astype(np.float32)
        assert arrays[name].tobytes() == wanted.tobytes()
