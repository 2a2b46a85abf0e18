"""What stands in memory and what it stands for: repeats, freed storages, names of parts."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradtool
from gradtool.numpy import clip_grad_norm
from gradtool.torch import clip_grad_norm_, dump_gradients, get_total_norm

ONE = np.ones(8, np.float32)
SHARED: dict[str, Callable[[], list[Any]]] = {
    "one array twice": lambda: [ONE, ONE],
    "an expanded array": lambda: [np.broadcast_to(np.float32(1), (16,))],
    "an expanded tensor": lambda: [torch.ones(1).expand(16)],
    "sliding windows": lambda: [np.lib.stride_tricks.sliding_window_view(np.ones(19), 4)[::4, :]],
    "parts that overlap": lambda: [np.ones(12)[:8], np.ones(12)[2:10]],
}


@pytest.mark.parametrize("shared", SHARED)
def test_arrays_are_values_whatever_memory_they_share(shared: str) -> None:
    clipped, norm = clip_grad_norm(SHARED[shared](), 1.0)
    assert norm == 4.0
    after = [float(value) for array in clipped for value in array.flatten()]
    assert math.sqrt(math.fsum(value**2 for value in after)) == pytest.approx(1.0, rel=1e-6)


class Parts(nn.Module):
    """Parts that are called what checkpoints call weights and optimizer state."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.optim = nn.Linear(2, 3), nn.Linear(3, 1)


def test_gradients_are_gradients_whatever_the_parts_of_a_model_are_called(tmp_path: Path) -> None:
    parts = Parts()
    parts.optim(parts.model(torch.ones(2))).sum().backward()
    live = gradtool.measure(parts)
    dump = dump_gradients(parts, tmp_path / "parts.safetensors")
    saved = gradtool.measure(dump)
    assert live.total is not None
    assert saved.total is not None
    assert live.total.norm == pytest.approx(saved.total.norm, rel=1e-12)
    assert gradtool.clip(dump, tmp_path / "clipped.safetensors", max_norm=1e-3).after is not None


def freed() -> Tensor:
    tensor = torch.ones(5)
    tensor.untyped_storage().resize_(0)
    return tensor


def shrunk() -> Tensor:
    tensor = torch.ones(1 << 20)
    tensor.untyped_storage().resize_(8)
    return tensor


def shrunk_integers() -> Tensor:
    tensor = torch.arange(1 << 20)
    tensor.untyped_storage().resize_(8)
    return tensor


@pytest.mark.parametrize("gone", [freed, shrunk])
def test_memory_that_is_gone_is_told_and_not_read(
    gone: Callable[[], Tensor], tmp_path: Path
) -> None:
    for call in (gradtool.measure, lambda pairs: clip_grad_norm(dict(pairs), 1.0)):
        with pytest.raises(gradtool.UsageError, match=r"'w'.*its memory was freed"):
            call([("w", gone())])
    with pytest.raises(gradtool.UsageError, match="'w': its memory was freed"):
        dump_gradients([("w", gone())], tmp_path / "gone.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_integers_whose_memory_is_gone_are_not_read_either() -> None:
    with pytest.raises(gradtool.UsageError, match="'w': its memory was freed"):
        clip_grad_norm({"w": shrunk_integers()}, 1.0)


def test_a_gradient_whose_memory_is_gone_is_an_error_for_the_drop_ins() -> None:
    parameter = nn.Parameter(torch.ones(5))
    parameter.grad = freed()
    with pytest.raises(RuntimeError, match="memory of a gradient was freed"):
        clip_grad_norm_([parameter], 1.0)
    with pytest.raises(RuntimeError, match="memory of a gradient was freed"):
        get_total_norm([freed()])


def test_any_mapping_is_a_branch() -> None:
    tree = UserDict({"a": np.array([3.0]), "b": [np.array([4.0])]})
    clipped, norm = clip_grad_norm(tree, 1.0)
    assert (type(clipped), norm) == (UserDict, 5.0)
    assert [tensor.name for tensor in gradtool.measure(tree).tensors] == ["a", "b.0"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (["a.pt", "b.pt", 3], "a path has to stand alone"),
        (nn.Linear(2, 2), "no parameter has a gradient"),
        (nn.Linear, "no array of numbers"),
    ],
)
def test_an_error_says_what_to_do(source: Any, words: str) -> None:
    with pytest.raises(gradtool.GradtoolError, match=words):
        gradtool.measure(source)
