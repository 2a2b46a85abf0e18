"""`inspect` and `clip` against the known answers of sample_ckpts/expected.json."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from environment import PLAIN
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

SAMPLES = Path(__file__).resolve().parents[2] / "sample_ckpts"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SAMPLES / "expected.json").read_text())[
    "checkpoints"
]
READABLE = [name for name, known in EXPECTED.items() if known["exit_code"] == 0]
REFUSED = [name for name, known in EXPECTED.items() if known["exit_code"] != 0]
ENGINES = {"numpy": ["--backend", "numpy"], "torch": ["--backend", "torch", "--device", "cpu"]}
NORM_TYPES = ["0", "0.5", "1", "2", "3", "inf", "-inf"]
SUMMED = ["tensors", "numel", "nan", "posinf", "neginf", "zeros", "subnormals"]
CLIPS = [
    pytest.param(name, known, id=" ".join([name, *known["options"][2:]]))
    for name, sample in EXPECTED.items()
    for known in sample["clip"]
]
CLIP_COUNTS = ["tensors", "tensors_changed", "nonfinite_replaced"]
CLIP_FIGURES = ["clip_coef", "norm_before", "norm_after", "finite_norm_before", "finite_norm_after"]
PER_TENSOR = ["section", "dtype", "shape", *SUMMED[1:]]


def gradtool(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradtool", *args]
    return subprocess.run(
        command, cwd=SAMPLES.parent, env=PLAIN, capture_output=True, encoding="utf-8", check=False
    )


def inspect(names: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    paths = [f"{SAMPLES.name}/{name}" for name in names]
    return gradtool("inspect", *paths, "-f", "json", *options)


@cache
def reports(engine: str, p: str) -> dict[str, dict[str, Any]]:
    """The report of every readable sample, by path: one process for each engine and norm type."""
    done = inspect(READABLE, "-p", p, "--quiet", "--no-progress", *ENGINES[engine])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["reports"]
    assert {report["backend"] for report in found} == {engine}
    return {report["path"].removeprefix(f"{SAMPLES.name}/"): report for report in found}


def number(value: float | str) -> float:
    return float(value)


def assert_close(got: float | str, expected: float | str) -> None:
    if math.isnan(number(expected)):
        assert math.isnan(number(got))
    else:
        assert number(got) == pytest.approx(number(expected), rel=1e-12, abs=0)


def assert_set(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Totals of p = 2 over a dump or a section."""
    for field in SUMMED:
        assert got[field] == expected[field], field
    assert_close(got["norm"], expected["norms"]["2"])
    for field in ("finite_norm", "native_norm", "max_abs"):
        assert_close(got[field], expected[field])
    assert got["native_dtype"] == expected["native_dtype"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", READABLE)
def test_totals(name: str, engine: str) -> None:
    report, known = reports(engine, "2")[name], EXPECTED[name]
    assert report["format"] == known["format"]
    if known["total"] is None:
        assert report["total"] is None
    else:
        assert_set(report["total"], known["total"])


@pytest.mark.parametrize("name", [name for name in READABLE if EXPECTED[name]["sections"]])
@pytest.mark.parametrize("engine", ENGINES)
def test_sections(name: str, engine: str) -> None:
    sections = {section["name"]: section for section in reports(engine, "2")[name]["sections"]}
    for known in EXPECTED[name]["sections"]:
        assert sections[known["name"]]["kind"] == known["kind"]
        assert_set(sections[known["name"]], known)
    other = sections.pop("other")
    assert (other["kind"], other["norm"], other["finite_norm"]) == (None, None, None)
    assert sections.keys() == {known["name"] for known in EXPECTED[name]["sections"]}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", READABLE)
def test_every_tensor(name: str, engine: str) -> None:
    report, known = reports(engine, "2")[name], EXPECTED[name]
    if [tensor["name"] for tensor in known["tensors"]] == [None]:
        pairs = list(zip(report["tensors"], known["tensors"], strict=True))
    else:
        by_name = {tensor["name"]: tensor for tensor in report["tensors"]}
        assert sorted(by_name) == sorted(tensor["name"] for tensor in known["tensors"])
        pairs = [(by_name[tensor["name"]], tensor) for tensor in known["tensors"]]
    for got, expected in pairs:
        for field in (*PER_TENSOR, "first_nonfinite", "alias_of"):
            assert got[field] == expected[field], (expected["name"], field)
        for field in ("norm", "finite_norm", "native_norm", "max_abs"):
            assert_close(got[field], expected[field])
    skipped = {entry["name"]: entry["dtype"] for entry in report["skipped"]}
    assert skipped == {entry["name"]: entry["dtype"] for entry in known["skipped"]}


@pytest.mark.parametrize("p", NORM_TYPES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", READABLE)
def test_norm_types(name: str, p: str, engine: str) -> None:
    report, known = reports(engine, p)[name], EXPECTED[name]
    if known["total"] is not None:
        assert_close(report["total"]["norm"], known["total"]["norms"][p])
    sections = {section["name"]: section for section in report["sections"]}
    for section in known["sections"]:
        assert_close(sections[section["name"]]["norm"], section["norms"][p])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    done = inspect([name])
    assert done.returncode == EXPECTED[name]["exit_code"]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert name in done.stderr


@cache
def contents() -> dict[Path, bytes]:
    """The samples as the first test finds them."""
    return files_in(SAMPLES)


def files_in(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize(("name", "known"), CLIPS)
def test_clip(name: str, known: dict[str, Any], tmp_path: Path) -> None:
    before, output = contents(), tmp_path / "clipped" / Path(name).name
    output.parent.mkdir()
    options = [*known["options"], "-o", str(output), "-f", "json"]
    done = gradtool("clip", f"{SAMPLES.name}/{name}", *options)
    assert files_in(SAMPLES) == before
    assert done.returncode == known["exit_code"]
    if known["exit_code"] != 0:
        assert done.stdout == ""
        assert name in done.stderr
        assert "Traceback" not in done.stderr
        assert list(output.parent.iterdir()) == []
        return
    assert done.stderr == ""
    report = json.loads(done.stdout)
    for field in CLIP_FIGURES:
        assert_close(report[field], known[field])
    for field in CLIP_COUNTS:
        assert report[field] == known[field], field
    assert report["written"]
    assert list(output.parent.iterdir()) == [output]
    source = SAMPLES / name
    if EXPECTED[name]["format"] == "sharded":
        source = source if source.is_dir() else source.parent
        assert_same_but_for_shards(source, output)
    if report["clip_coef"] == 1.0:
        assert output.read_bytes() == source.read_bytes()
    assert_clipped(source, output, report, "grads." if "--section" in options else "")


def assert_same_but_for_shards(source: Path, output: Path) -> None:
    """Compare two directories' names of files, and their indexes."""
    before, after = files_in(source), files_in(output)
    assert sorted(before) == sorted(after)
    (index,) = (path for path in before if path.suffix == ".json")
    assert after[index] == before[index]


def assert_clipped(source: Path, output: Path, report: dict[str, Any], prefix: str) -> None:
    """Compare what the library that wrote the sample loads from both, bit by bit."""
    found, saved = load(output), load(source)
    assert [*found] == [*saved]
    for name, tensor in saved.items():
        changes = name.startswith(prefix) and tensor.is_floating_point()
        expected = clipped(tensor, report) if changes else tensor
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].stride() == tensor.stride()
        assert torch.equal(bits(found[name]), bits(expected)), name
    for name, alias in aliases(saved):
        assert found[name].data_ptr() == found[alias].data_ptr()


def aliases(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Names that share their elements."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        if (one := first.setdefault(tensor.data_ptr(), name)) != name:
            yield one, name


def load(path: Path) -> dict[str, Tensor]:
    """What the library that wrote it finds in a dump."""
    if path.is_dir():
        (index,) = path.glob("*.index.json")
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        shards = {file: load(path / file) for file in weight_map.values()}
        return {name: shards[file][name] for name, file in weight_map.items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npy":
        return {"": torch.from_numpy(np.load(path))}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    return dict(flattened(torch.load(path, weights_only=True)))


def flattened(value: object, *keys: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested checkpoint, under its keys."""
    if isinstance(value, Tensor):
        yield ".".join(keys), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flattened(item, *keys, str(key))


# Bits of the significand, the hidden one included, and the smallest normal exponent.
ROUNDING = {torch.float32: (24, -126), torch.float16: (11, -14), torch.bfloat16: (8, -126)}


def clipped(tensor: Tensor, report: dict[str, Any]) -> Tensor:
    """The transform in float64, rounded once, to nearest even."""
    values: NDArray[np.float64] = tensor.double().numpy()
    results = values * report["clip_coef"]
    if tensor.dtype != torch.float64:
        digits, lowest = ROUNDING[tensor.dtype]
        exponents = np.maximum(np.frexp(results)[1] - 1, lowest)
        quanta = np.ldexp(1.0, exponents - digits + 1)
        results = np.rint(results / quanta) * quanta
    expected = torch.from_numpy(results).to(tensor.dtype)
    assert torch.equal(expected.double().nan_to_num(), torch.from_numpy(results).nan_to_num())
    left = torch.zeros_like(tensor) if report["nonfinite"] == "zero" else tensor
    return torch.where(tensor.isfinite(), expected, left)


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in which NaN equals itself and 0 is not -0."""
    return tensor.contiguous().flatten().view(torch.uint8)


def test_expected_lists_every_file() -> None:
    ours = {"README.md", "expected.json", "charmodel.py", "make.py", "oracle.py"}
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    listed = {file for known in EXPECTED.values() for file in known["files"]}
    assert {path.relative_to(SAMPLES).as_posix() for path in files} == listed | ours
    assert sum(path.stat().st_size for path in files) <= 10_000_000
