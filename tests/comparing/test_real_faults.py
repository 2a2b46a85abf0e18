"""What training loops and converters of checkpoints do, and what the diagnosis says of it."""

from __future__ import annotations

import pytest
import torch

import gradtool
from comparing.planted import Grads, gradients

GRADS = gradients()
HEADS = 4
PERMUTED = [1, 0, 3, 2]


def told(difference: gradtool.Difference) -> list[str]:
    """The names of the rules that say something."""
    return [one.name for one in difference.diagnosis]


def with_heads(grads: Grads, *kinds: str) -> Grads:
    """The same with heads in another order in tensors whose names have one of these in them."""
    return {
        name: one.unflatten(0, (HEADS, -1))[PERMUTED].flatten(0, 1)
        if any(kind in name for kind in kinds)
        else one
        for name, one in grads.items()
    }


def test_heads_in_another_order_are_one_sentence_on_weights_and_biases() -> None:
    kinds = ("q_proj", "k_proj", "v_proj")
    found = gradtool.diff(GRADS, with_heads(GRADS, *kinds))
    assert told(found) == ["moved-rows"]
    (one,) = found.diagnosis
    assert set(one.tensors) == {name for name in GRADS if any(kind in name for kind in kinds)}
    assert "row 0 of A is row 8 of B" in one.text and "{weight,bias}" in one.text


def test_elements_of_a_vector_in_other_places_are_called_elements() -> None:
    name = "layers.1.ln_1.weight"
    turned = GRADS[name].flip(0)
    (one,) = gradtool.diff(GRADS, {**GRADS, name: turned}).diagnosis
    assert (one.name, one.tensors) == ("moved-rows", (name,))
    assert "permuted elements: 32 of 32" in one.text and "element 0 of A is element 31" in one.text


def test_a_vector_of_few_numbers_is_not_called_permuted() -> None:
    a = torch.tensor([0.0, 0.0, 1.0, 0.0, 2.0])
    found = gradtool.diff({"b": a, "w": torch.ones(9, 9)}, {"b": a.roll(1), "w": torch.ones(9, 9)})
    assert "moved-rows" not in told(found) and not found


@pytest.mark.parametrize("batch", [0, 1])
def test_autocast_is_rounding_noise_of_all_that_differs_and_another_batch_is_none(
    batch: int,
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        other = gradients(batch=batch)
    found = gradtool.diff(GRADS, other)
    if batch:
        assert "rounding" not in told(found)
        return
    assert set(told(found)) == {"rounding"}
    texts = [one.text for one in found.diagnosis]
    assert all(text.startswith("rounding noise of BF16") for text in texts)
    assert not any("by more" in text for text in texts)
    named = {name for one in found.diagnosis for name in one.tensors}
    assert {name for name in GRADS if "k_proj.bias" not in name} <= named


def test_a_loss_that_differs_is_no_flipped_bit() -> None:
    a = {**GRADS, "loss": torch.tensor(2.5)}
    for loss in (2.25, 3.5):
        found = gradtool.diff(a, {**GRADS, "loss": torch.tensor(loss)})
        assert told(found) == ["only-here"]


def test_a_tied_name_that_one_dump_alone_has_is_told_as_that() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    model.head(model.embed(torch.arange(4))).square().sum().backward()
    grads = {name: one.grad for name, one in model.named_parameters()}
    assert list(grads) == ["embed.weight"]
    found = gradtool.diff(model, grads)
    assert not found and found.only_in_a == ("head.weight",)
    assert any("tied in A, and compared once: 'head.weight'" in note for note in found.notes)
    assert gradtool.diff(model, grads, exclude="head.weight").identical


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_numbers_of_few_digits_in_other_lines_are_not_called_permuted(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        a, b = (torch.randn(2, 16, 16, generator=generator).sign().to(dtype)).unbind()
        assert {"moved-rows", "moved-columns"}.isdisjoint(told(gradtool.diff({"w": a}, {"w": b})))
