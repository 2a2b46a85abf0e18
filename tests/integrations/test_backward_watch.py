"""The end of a backward pass is told when all gradients are there, whoever sums them up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from environment import PLAIN
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradtool
from gradtool.torch._backward import BackwardWatch

sys.path.insert(0, str(Path(__file__).parent))
from two_ranks import STEP, expected_norm


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = model.named_parameters()
    return {name: each.grad.clone() for name, each in found if each.grad is not None}


def watched(model: nn.Module) -> tuple[BackwardWatch, list[dict[str, Tensor]]]:
    """What the gradients were each time that the watch called."""
    seen: list[dict[str, Tensor]] = []
    return BackwardWatch(model.parameters(), lambda: seen.append(gradients(model))), seen


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_each_pass_is_told_once_with_all_its_gradients() -> None:
    model = net()
    watch, seen = watched(model)
    for number in (1, 2):
        model(torch.randn(3, 4)).sum().backward()
        assert len(seen) == number
        assert_same(seen[-1], gradients(model))
    watch.stop()
    model(torch.randn(3, 4)).sum().backward()
    assert len(seen) == 2


def test_one_gradient_of_many_is_enough() -> None:
    model = net()
    model[4].requires_grad_(False)
    _, seen = watched(model)
    model[2](torch.randn(3, 4)).sum().backward()
    (found,) = seen
    assert found.keys() == {"2.weight", "2.bias"}


def test_a_pass_that_raises_does_not_silence_the_next() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, inputs: Tensor) -> Tensor:
            return inputs.clone()

        @staticmethod
        def backward(_context: Any, *_grads: Tensor) -> None:
            raise KeyError("broken")

    model = net()
    _, seen = watched(model)
    hidden = model[:2](torch.randn(3, 4))
    with pytest.raises(KeyError):
        model[2:](Broken.apply(hidden)).sum().backward()
    assert seen == []
    model(torch.randn(3, 4)).sum().backward()
    assert_same(seen[-1], gradients(model))


def test_of_passes_in_a_pass_the_last_to_be_told_has_all() -> None:
    model = net()
    _, seen = watched(model)
    inputs = torch.randn(3, 4, requires_grad=True)
    hidden = checkpoint(model[:2], inputs, use_reentrant=True)
    hidden = checkpoint(model[2:4], hidden, use_reentrant=True)
    model[4](hidden).sum().backward()
    assert len(seen) > 1
    assert_same(seen[-1], gradients(model))


def test_what_it_calls_may_raise_out_of_backward() -> None:
    def fails() -> None:
        raise gradtool.UsageError("no")

    model = net()
    BackwardWatch(model.parameters(), fails)
    with pytest.raises(gradtool.UsageError):
        model(torch.randn(3, 4)).sum().backward()


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_ranks_have_summed_up_by_then(wrapper: str, tmp_path: Path) -> None:
    script = Path(__file__).parent / "two_ranks.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), wrapper, str(tmp_path / "grads")],
        env={**PLAIN, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback},
        check=True,
        timeout=120,
        capture_output=True,
    )
    names = sorted(path.name for path in (tmp_path / "grads").iterdir())
    assert names == [f"grads_step{STEP:06d}-rank{rank}.safetensors" for rank in range(2)]
    found = gradtool.measure(str(tmp_path / "grads"))
    assert found.total.norm == pytest.approx(expected_norm(), rel=1e-12)
    assert found.step == STEP
