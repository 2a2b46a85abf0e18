"""What torch says of two dumps is what NumPy says: every count and place, figures within 1e-12."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS, on_gpu
from comparing.relatives import numbers_like
from dumps import NUMPY_TYPES, write_safetensors
from numpy.typing import NDArray

import gradtool
from gradtool.core.comparing.difference import Difference
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.dtypes import DTYPES
from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.operands import Operand, Walk
from gradtool.engine.torch_backend.backend import TorchForeach

DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]
TOLERANCES: list[dict[str, Any]] = [
    {},
    {"rtol": 1e-3, "atol": 1e-6},
    {"ulps": 5, "equal_nan": True},
    {"equal_nan": True},
]
FIGURES = ("rel_l2", "cosine", "norm_ratio", "best_scale", "max_abs_diff")
COUNTS = ("identical", "same", "differing", "first_differing", "max_abs_diff_at", "opposite_signs")
TALLIES = ("samples", "zero_signs", "same_nan", "outside", "rounded_apart", "max_ulps")
FORWARD = Walk(lambda steps: steps.astype(np.int64), is_ascending=True)


def assert_same(found: Difference, known: Difference) -> None:
    assert (known.backend, found.backend) == ("numpy", "torch")
    for mine, theirs in zip(found.tensors, known.tensors, strict=True):
        for name in COUNTS:
            assert getattr(mine, name) == getattr(theirs, name), (mine.name, name)
        for name in TALLIES:
            # NaN is not itself.
            one, other = (repr(getattr(side.distance, name, None)) for side in (mine, theirs))
            assert one == other, (mine.name, name)
        for name in FIGURES:
            assert_near(getattr(mine, name), getattr(theirs, name))
        for one, other in zip(mine.stats or (), theirs.stats or (), strict=True):
            assert (one.nan, one.posinf, one.neginf, one.zeros) == (
                (other.nan, other.posinf, other.neginf, other.zeros)
            )
            assert_near(one.finite_norm, other.finite_norm)


def assert_near(found: float | None, known: float | None) -> None:
    if found is None or known is None or not math.isfinite(known):
        assert found == known
    else:
        assert found == pytest.approx(known, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("options", TOLERANCES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_dtypes(device: str, options: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = {name: numbers_like(name, 70_001, rng) for name in NUMPY_TYPES}
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for first, one in a.items():
        for second, other in a.items():
            if (first[0] == "C") != (second[0] == "C"):
                continue
            sides[0][f"{first}.{second}"] = (first, one)
            changed = perturbed(one, rng) if first == second else other
            sides[1][f"{first}.{second}"] = (second, changed)
        sides[0][f"{first}.same"] = sides[1][f"{first}.same"] = (first, one)
    paths = [write_safetensors(tmp_path / f"{n}.safetensors", side) for n, side in enumerate(sides)]
    known = gradtool.diff(*paths, backend="numpy", **options)
    assert_same(gradtool.diff(*paths, device=device, **options), known)


def perturbed(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Some of the elements with one bit flipped, signs among them."""
    raw = values.view(np.uint8).copy()
    places = rng.choice(len(raw), len(raw) // 100, replace=False)
    raw[places] ^= np.uint8(1) << rng.integers(0, 8, len(places), np.uint8)
    return raw.view(values.dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_layouts_and_loss_scales(device: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    matrix = rng.standard_normal((700, 501))
    other = matrix * 1.0001
    other[3, 5], other[600, 7], other[9, 9] = math.nan, math.inf, -matrix[9, 9]
    np.savez(tmp_path / "a.npz", w=np.asfortranarray(matrix), s=matrix[:2].astype(np.float32))
    turned = torch.from_numpy(np.asfortranarray(other).T.copy()).T
    torch.save({"w": turned, "s": torch.from_numpy(other[:2]).float()}, tmp_path / "b.pt")
    paths = (tmp_path / "a.npz", tmp_path / "b.pt")
    for options in ({}, {"loss_scale": 3.0, "rtol": 1e-5}):
        known = gradtool.diff(*paths, backend="numpy", **options)
        assert_same(gradtool.diff(*paths, device=device, **options), known)
    assert not known


@pytest.mark.parametrize(("memory", "threads"), [(40 << 20, 3), (13 << 20, 1), (1 << 30, 1)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=on_gpu)])
def test_no_bit_depends_on_the_memory_of_the_device(device: str, memory: int, threads: int) -> None:
    """Some groups of the smaller ones hold only bits that are equal."""
    rng = np.random.default_rng(5)
    a = (rng.standard_normal(700_000) * 10.0 ** rng.uniform(-30, 30, 700_000)).astype(np.float32)
    b = a.copy()
    b[300_000:400_000] *= np.float32(1.01)
    sides = [Operand(one.view(np.uint8), DTYPES["F32"]) for one in (a, b)]

    def found(backend: Backend) -> str:
        return repr(backend.distance(*sides, FORWARD, Tolerance(rtol=1e-3)))

    assert found(TorchForeach((device,), memory, threads)) == found(
        TorchForeach((device,), 256 << 20, 1)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_of_extreme_sizes(backend: Backend) -> None:
    """Squares beyond the range of float64, differences beyond it too, and subnormal numbers."""
    rng = np.random.default_rng(6)
    for size, factor in ((1e300, 1.5), (1.7e308, -1.0), (1e-300, 0.5), (1e-310, 3.0)):
        a = rng.uniform(0.5, 1.0, 5000) * size
        sides = [Operand(one.view(np.uint8), DTYPES["F64"]) for one in (a, a * factor)]
        found = backend.distance(*sides, FORWARD, Tolerance(ulps=7))
        known = NUMPY.distance(*sides, FORWARD, Tolerance(ulps=7))
        # Subnormal products have fewer digits.
        digits = 1e-12 if size > 1e-308 else 1e-9
        assert found.best_scale == pytest.approx(factor, rel=digits)
        assert found.rel_l2 == pytest.approx(abs(factor - 1.0), rel=digits)
        assert found.norm_ratio == pytest.approx(abs(factor), rel=digits)
        assert (found.largest, found.max_ulps) == (known.largest, known.max_ulps)
        assert found.outside == known.outside == 5000
