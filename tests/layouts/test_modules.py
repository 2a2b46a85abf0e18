"""One bare tensor in each file: the modules of one model, or the steps of a run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gradtool

MANY, FEW = np.float32([3.0, 0.0, 4.0]), np.float32([12.0])


def save(path: Path, array: np.ndarray) -> None:  # type: ignore[type-arg]
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        torch.save(torch.from_numpy(array), path)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
@pytest.mark.parametrize(
    "arrays",
    [
        {"conv1": MANY, "conv2": FEW, "fc": FEW},
        {"conv1": MANY, "conv2": MANY, "fc": FEW},
        {"conv1": MANY, "conv2": FEW},
        {"conv1": MANY, "conv2": FEW, "fc1": FEW, "fc2": FEW},
        {"0.weight": MANY, "1.weight": MANY, "0.bias": FEW, "1.bias": FEW},
    ],
)
def test_modules_are_one_checkpoint_and_that_is_said(
    tmp_path: Path,
    suffix: str,
    arrays: dict[str, np.ndarray],  # type: ignore[type-arg]
) -> None:
    for name, array in arrays.items():
        save(tmp_path / f"{name}{suffix}", array)
    found = gradtool.measure(tmp_path)
    assert sorted(one.name for one in found.tensors) == sorted(arrays)
    assert found.total is not None
    squares = math.fsum(float(x) ** 2 for array in arrays.values() for x in array)
    assert found.total.norm == pytest.approx(math.sqrt(squares), rel=1e-15)
    (note,) = found.essential_notes
    assert "modules" in note
    assert next(iter(arrays)) in note
    (verdict,) = gradtool.check(tmp_path).verdicts
    assert note in verdict.essential_notes


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
@pytest.mark.parametrize(
    "arrays",
    [
        {"grads_0001": MANY, "grads_0002": MANY},
        {"grads_0001": MANY, "grads_0002": FEW},  # as many as were unfrozen
        {"conv1": MANY, "conv2": MANY},
        {"grads_1": MANY, "grads_2": MANY, "mean": MANY},
        {"x_0001": MANY, "x_0002": MANY, "y_0001": MANY, "y_0002": MANY},
        {"1": MANY, "2": MANY},
        {"w_step1": MANY, "w_step2": FEW, "b_step1": FEW},
    ],
)
def test_steps_are_never_added_up(
    tmp_path: Path,
    suffix: str,
    arrays: dict[str, np.ndarray],  # type: ignore[type-arg]
) -> None:
    for name, array in arrays.items():
        save(tmp_path / f"{name}{suffix}", array)
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path)
    assert len(caught.value.found) == len(arrays)
    assert len(gradtool.check(tmp_path).verdicts) == len(arrays)


def test_tensors_that_are_called_as_their_files_are_said_to_be(tmp_path: Path) -> None:
    for name in ("weight", "bias"):
        np.save(tmp_path / f"{name}.npy", MANY)
    (note,) = gradtool.measure(tmp_path).notes
    assert "bias.npy, weight.npy" in note


def test_a_broken_file_among_modules_is_an_error(tmp_path: Path) -> None:
    for name, array in {"conv1": MANY, "conv2": FEW, "fc": FEW}.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "conv2.npy").write_bytes((tmp_path / "conv2.npy").read_bytes()[:-1])
    assert [one.failed for one in gradtool.check(tmp_path).verdicts].count(True) == 1
