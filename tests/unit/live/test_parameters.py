"""Which tensors have gradients, and which are gradients themselves."""

from __future__ import annotations

import torch

import gradtool


def test_whatever_has_a_gradient_is_measured_by_it_and_all_else_by_itself() -> None:
    weight = torch.ones(4, requires_grad=True)
    (weight * 3).sum().backward()
    given = torch.ones(4)
    given.grad = torch.full((4,), 5.0)
    fused = torch.ones(4)
    fused.main_grad = torch.full((4,), 7.0)  # type: ignore[attr-defined]
    waiting = torch.ones(4, requires_grad=True)
    tensors = {"weight": weight, "given": given, "fused": fused, "waiting": waiting}
    tensors |= {"gradient": torch.full((4,), 2.0), "computed": weight * 11}
    found = gradtool.measure(tensors.items())
    norms = {tensor.name: tensor.norm for tensor in found.tensors}
    assert norms == {"weight": 6, "given": 10, "fused": 14, "gradient": 4, "computed": 22}
    assert [(item.name, item.reason) for item in found.skipped] == [("waiting", "no gradient")]
