"""What torch computes for dumps on disk is what NumPy does: the same figures, the same bytes."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import on_gpu
from dumps import COMPONENTS, NUMPY_TYPES, write_safetensors
from numpy.typing import NDArray
from oracle import close

import gradtool
from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.dtypes import DTYPES
from gradtool.core.measurement import Measurement

SAMPLES = Path(__file__).resolve().parents[2] / "sample_ckpts"
READABLE = [
    name
    for name, known in json.loads((SAMPLES / "expected.json").read_text())["checkpoints"].items()
    if known["exit_code"] == 0
]
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]
ORDERS = [2.0, 1.0, 3.0, 0.5, 64.0, 300.0, -1.0, -2.0, math.inf, -math.inf, 0.0]
COUNTS = ("numel", "nan", "posinf", "neginf", "zeros", "subnormals", "first_nonfinite")
CLIPS: list[dict[str, Any]] = [
    {"max_norm": 1e-3, "total_norm": 0.7},
    {"max_norm": 0.3, "total_norm": 0.7, "loss_scale": 3.0},
    {"max_norm": 0.0},
    {"clip_value": 1e-3},
]
"""With coefficients that follow from what is given: of measured norms the last of 16 digits may
differ, and by it an element's last bit.
"""


def assert_same(found: Measurement, known: Measurement) -> None:
    """Every count and index, and every figure within the contract."""
    assert (known.backend, found.backend) == ("numpy", "torch")
    for one, other in zip(found.tensors, known.tensors, strict=True):
        assert one.spec == other.spec
        assert one.alias_of == other.alias_of
        assert one.first_nonfinite == other.first_nonfinite
        for count in COUNTS:
            assert getattr(one.stats, count) == getattr(other.stats, count), (one.name, count)
        sizes = 0.0 if one.spec.dtype.component is None else 1e-15
        for size in ("max_abs", "min_abs"):
            assert near(getattr(one.stats, size), getattr(other.stats, size), sizes)
        assert near(one.norm, other.norm)
        assert near(one.stats.finite_norm, other.stats.finite_norm)
    for mine, theirs in zip(found.sections, known.sections, strict=True):
        assert near(mine.stats.norm, theirs.stats.norm)
        assert mine.stats.zeros == theirs.stats.zeros


def near(found: float, known: float, relative: float = 1e-12) -> bool:
    return math.isnan(found) if math.isnan(known) else close(found, known, relative)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dumps of every dtype, layout and byte order that gradients come in."""
    directory = tmp_path_factory.mktemp("generated")
    for dtype in NUMPY_TYPES:
        rng = np.random.default_rng(len(dtype))
        arrays = {f"t.{n}": (dtype, elements(dtype, n, rng)) for n in (1, 0, 1023, 1025, 70_000)}
        write_safetensors(directory / f"{dtype}.safetensors", arrays)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((300, 700))
    matrix[(17, 3, 200), (5, 699, 0)] = math.inf, math.nan, -math.inf
    np.save(directory / "fortran.npy", np.asfortranarray(matrix))
    np.save(directory / "swapped.npy", matrix.astype(">f4"))
    np.save(directory / "swapped_complex.npy", matrix[:, :50].astype(">f8").view(">c16"))
    np.savez_compressed(directory / "deflated.npz", w=matrix, b=matrix[0].astype(np.float16))
    whole = torch.from_numpy(matrix).to(torch.bfloat16)
    views = {"whole": whole, "turned": whole.T, "column": whole[:, 3], "row": whole[100:200:7]}
    torch.save(views, directory / "views.pt")
    halves = torch.from_numpy(elements("F16", 6000, rng)).view(torch.complex32)
    torch.save({"w": halves, "b": halves[1:6]}, directory / "halves.pt")
    return directory


def elements(dtype: str, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Numbers of every size that the type has, some of them not finite."""
    part = COMPONENTS.get(dtype, dtype)
    parts = 1 if part == dtype else 2
    if DTYPES[part].itemsize == 1:
        return rng.integers(0, 256, count, np.uint8).view(NUMPY_TYPES[dtype])
    exponents = 0.9 * math.log10(DTYPES[part].max_finite)
    values = rng.standard_normal(count * parts) * 10.0 ** rng.uniform(
        -exponents, exponents, count * parts
    )
    values[rng.integers(0, max(1, len(values)), len(values) // 9)] = 0.0
    with np.errstate(over="ignore"):
        found: NDArray[Any] = values.astype(NUMPY_TYPES[part])
    if count > 1000:
        found[[5, 77, 900]] = math.nan, math.inf, -math.inf
    return found.view(NUMPY_TYPES[dtype])


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", READABLE)
def test_every_sample_has_the_same_figures(name: str, device: str, p: float) -> None:
    path = SAMPLES / name
    found = gradtool.measure(path, norm_type=p, backend="torch", device=device)
    assert_same(found, gradtool.measure(path, norm_type=p, backend="numpy"))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("device", DEVICES)
def test_every_dtype_and_layout_has_the_same_figures(
    device: str, p: float, generated: Path
) -> None:
    for path in sorted(generated.iterdir()):
        found = gradtool.measure(path, norm_type=p, device=device, verify=True)
        assert_same(found, gradtool.measure(path, norm_type=p, backend="numpy"))


@pytest.mark.parametrize("options", CLIPS, ids=str)
@pytest.mark.parametrize("nonfinite", ["zero", "keep"])
@pytest.mark.parametrize("device", DEVICES)
def test_clipping_writes_the_same_bytes(
    device: str, nonfinite: Any, options: dict[str, Any], generated: Path, tmp_path: Path
) -> None:
    for path in [*clippable(generated, options), *(SAMPLES / name for name in READABLE)]:
        outs = tmp_path / "numpy" / path.name, tmp_path / "torch" / path.name
        for out, backend in zip(outs, ({"backend": "numpy"}, {"device": device}), strict=True):
            out.parent.mkdir(exist_ok=True)
            clip(path, out, nonfinite=nonfinite, **options, **backend)
        assert contents(outs[0]) == contents(outs[1]), path.name
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("p", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("device", DEVICES)
def test_clipping_by_the_norm_measured_has_the_same_coefficients(
    device: str, p: float, generated: Path
) -> None:
    options = {"max_norm": 1e-3, "norm_type": p, "nonfinite": "zero", "dry_run": True}
    for path in [*clippable(generated, options), *(SAMPLES / name for name in READABLE)]:
        known = clip(path, **options, backend="numpy").plan.transforms
        found = clip(path, **options, device=device).plan.transforms
        assert found.keys() == known.keys()
        assert all(near(found[name].coef, known[name].coef) for name in known)


def clip(path: Path, *args: Any, **options: Any) -> ClipOutcome:
    """`gradtool.clip`, of gradients only where there is more."""
    section = {"section": "grads"} if path.name == "training.pt" else {}
    return gradtool.clip(path, *args, **section, **options)


def clippable(directory: Path, options: dict[str, Any]) -> list[Path]:
    """Complex numbers have no order to clip them by value."""
    is_complex = ("C64", "C128", "swapped_complex", "halves")
    by_value = "clip_value" in options
    return [p for p in directory.iterdir() if not (by_value and p.stem in is_complex)]


def contents(path: Path) -> dict[str, bytes]:
    """The files at `path`, one or many."""
    files = [Path(top, name) for top, _, names in os.walk(path) for name in names]
    return {file.name: file.read_bytes() for file in files or [path]}


@pytest.mark.parametrize("p", [2.0, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("device", DEVICES)
def test_neither_threads_nor_memory_change_a_bit(device: str, p: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    # Some powers of which need a scale, and tensors that fill several groups and share one.
    sizes = {"a": 2_000_003, "b": 5, "c": 70_000, "d": 65_536, "e": 3_000_000}
    tensors = {name: ("F64", elements("F64", size, rng)) for name, size in sizes.items()}
    tensors |= {f"plain.{i}": ("F64", rng.standard_normal(70_001)) for i in range(9)}
    tensors |= {f"f.{i}": ("F32", elements("F32", 1000, rng)) for i in range(3000)}
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    seen = set()
    for threads, memory in ((1, "64MiB"), (4, "64MiB"), (2, "100MB"), (3, 1 << 30), (5, None)):
        found = gradtool.measure(
            path, norm_type=p, device=device, device_memory=memory, threads=threads
        )
        seen.add(repr([tensor.stats for tensor in found.tensors]))
    assert len(seen) == 1
    assert_same(found, gradtool.measure(path, norm_type=p, backend="numpy"))


@pytest.mark.parametrize("device", DEVICES)
def test_what_lies_between_chosen_tensors_is_not_measured(device: str, tmp_path: Path) -> None:
    ones = np.ones(3_000_000, np.float32)  # left in the buffer that the others are read into
    tensors = {"a.first": ("F32", ones)}
    for i in range(200):
        # Two that lie as far apart in the file as in rows, but not at the same places.
        tensors[f"a.{i}.one"] = ("F32", ones[:1000] * 2)
        tensors[f"x.{i}.near"] = ("F32", ones[:48])
        tensors[f"a.{i}.two"] = ("F32", ones[:1000] * 3)
        tensors[f"x.{i}.far"] = ("F32", ones[:2000])
        tensors[f"a.{i}.alone"] = ("F32", ones[:500] * 5)
        tensors[f"x.{i}.last"] = ("F32", ones[:2000])
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    found = gradtool.measure(path, include="a.*", device=device, threads=1)
    assert len(found.tensors) == 601
    for tensor in found.tensors:
        _, array = tensors[tensor.name]
        assert tensor.stats.max_abs == array[0]
        assert tensor.stats.zeros == 0
        assert close(tensor.norm, float(array[0]) * math.sqrt(len(array)))
