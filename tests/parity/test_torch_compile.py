"""`gradtool.torch` in functions that torch compiles: it breaks their graph, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import gradtool.torch as gt

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
"""torch tells of each break."""


def compiled(clip: Callable[..., torch.Tensor], *, fullgraph: bool) -> Callable[..., torch.Tensor]:
    """A function around the clip, compiled without a compiler: only its graph is looked for."""
    torch.compiler.reset()
    return torch.compile(
        lambda parameters: 2 * clip(parameters, 1.0), backend="eager", fullgraph=fullgraph
    )


def parameters() -> list[torch.Tensor]:
    made = [torch.zeros(2), torch.zeros(1)]
    made[0].grad, made[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    return made


def test_a_compiled_function_clips_as_it_would_by_itself() -> None:
    inside, outside = parameters(), parameters()
    assert compiled(gt.clip_grad_norm_, fullgraph=False)(inside) == 26.0
    assert gt.clip_grad_norm_(outside, 1.0) == 13.0
    for one, other in zip(inside, outside, strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_a_graph_in_one_piece_can_hold_torchs_clip_but_not_ours() -> None:
    theirs = compiled(torch.nn.utils.clip_grad_norm_, fullgraph=True)
    assert theirs(parameters()) == pytest.approx(26.0)
    ours, kept = compiled(gt.clip_grad_norm_, fullgraph=True), parameters()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        ours(kept)
    assert kept[0].grad.tolist() == [3.0, 4.0]  # type: ignore[union-attr]
