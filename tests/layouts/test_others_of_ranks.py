"""What ranks keep beside gradients, as a loss, which no norm counts, and what only some have."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtool
from gradtool.torch import dump_gradients

GRADS = {"w": torch.tensor([3.0, 4.0])}


def ranks(folder: Path, *others: dict[str, Any]) -> Path:
    """A file for each rank: the same gradients, and what it has beside them."""
    folder.mkdir(exist_ok=True)
    for rank, tree in enumerate(others):
        tensors = {name: torch.tensor(value) for name, value in tree.items()}
        torch.save({"grads": GRADS, **tensors}, folder / f"rank{rank}.pt")
    return folder


def listed(found: gradtool.Measurement) -> dict[str, float]:
    """The largest magnitude of each tensor that is `other`, in the order of the list."""
    others = (one for one in found.tensors if one.spec.section == "other")
    return {one.name: one.stats.max_abs for one in others}


def total(found: gradtool.Measurement) -> float:
    assert found.total is not None
    return found.total.norm


@settings(max_examples=40)
@given(losses=st.lists(st.sampled_from([0.5, 1.5, 2.5]), min_size=2, max_size=5))
def test_each_loss_that_is_not_that_of_the_first_rank_is_listed(
    losses: list[float], scratch: Path
) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    ranks(folder, *({"loss": loss, "lr": 0.25} for loss in losses))
    found = gradtool.measure(folder)
    own = {f"loss (rank {at})": loss for at, loss in enumerate(losses) if loss != losses[0]}
    assert list(listed(found).items()) == [("loss", losses[0]), *own.items(), ("lr", 0.25)]
    assert total(found) == 5.0
    assert found.replicas == 3 * (len(losses) - 1) - len(own)
    assert [one.tensors for one in found.sections] == [1, 2 + len(own)]
    said = [note for note in found.notes if "listed as" in note]
    assert len(said) == bool(own)
    for name in [*own][:3]:
        assert repr(name) in said[0]


@pytest.mark.parametrize("mode", ["auto", "shard"])
def test_those_of_other_shapes_and_types_are_listed_too(mode: Any, tmp_path: Path) -> None:
    folder = ranks(tmp_path / "run", {"loss": 0.5}, {"loss": [1.5, 2.5]}, {"loss": 0.5})
    torch.save({"grads": GRADS, "loss": torch.tensor(3.5).double()}, folder / "rank3.pt")
    found = gradtool.measure(folder, ranks=mode)
    assert listed(found) == {"loss": 0.5, "loss (rank 1)": 2.5, "loss (rank 3)": 3.5}
    assert total(found) == pytest.approx(5.0 * (2.0 if mode == "shard" else 1.0), rel=1e-15)
    assert any("'loss (rank 1)', 'loss (rank 3)'" in note for note in found.notes)


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        ("seen*", {"seen": [5.0, 0.0], "seen (rank 1)": [1.0, 2.0]}),
        ("seen (rank 1)", {"seen": [], "seen (rank 1)": [1.0, 2.0]}),
        ("seen", {"seen": [5.0, 0.0], "seen (rank 1)": []}),
    ],
)
def test_rows_of_what_a_rank_has_as_its_own_are_told_by_its_name(
    rows: str, known: dict[str, list[float]], tmp_path: Path
) -> None:
    own = {"seen": [[3.0, 4.0], [0.0, 0.0]]}, {"seen": [[1.0, 0.0], [0.0, 2.0]]}
    found = gradtool.measure(ranks(tmp_path / "run", *own), rows=rows)
    others = [one for one in found.tensors if one.spec.section == "other"]
    assert {one.name: [row.norm for row in one.rows] for one in others} == known


def test_it_is_no_question_for_any_command(tmp_path: Path) -> None:
    folder = ranks(tmp_path / "run", {"loss": 0.5}, {"loss": math.nan})
    (verdict,) = gradtool.check(folder).verdicts
    assert (verdict.path, verdict.failed) == (str(folder), False)
    assert any("'loss (rank 1)' (1 NaN)" in note for note in verdict.essential_notes)
    outcome = gradtool.clip(folder, tmp_path / "out", max_norm=1.0, eps=0.0)
    assert outcome.clip_coef == 0.2
    after = gradtool.measure(tmp_path / "out")
    assert listed(after)["loss"] == 0.5
    assert total(after) == pytest.approx(1.0, rel=1e-6)
    other = torch.load(tmp_path / "out" / "rank1.pt")["loss"]
    assert math.isnan(other.item())


def test_gradients_that_differ_stay_a_question(tmp_path: Path) -> None:
    folder = ranks(tmp_path / "run", {"loss": 0.5}, {"loss": 1.5})
    torch.save({"grads": {"w": torch.ones(2)}, "loss": torch.tensor(1.5)}, folder / "rank1.pt")
    with pytest.raises(gradtool.RanksQuestionError, match=r"'grads\.w'"):
        gradtool.measure(folder)


def test_said_to_be_copies_they_must_agree(tmp_path: Path) -> None:
    folder = ranks(tmp_path / "run", {"loss": 0.5}, {"loss": 1.5})
    said: list[dict[str, Any]] = [{"ranks": "replica"}, {"replicated": "loss"}]
    for options in said:
        with pytest.raises(gradtool.RanksDifferError, match="'loss'"):
            gradtool.measure(folder, **options)


def test_their_digests_are_made_as_those_of_others(tmp_path: Path) -> None:
    folder = ranks(tmp_path / "run", {"loss": 0.5}, {"loss": 1.5})
    digests = {one.name: one.digest for one in gradtool.measure(folder, digest=True).tensors}
    for rank, name in enumerate(("loss", "loss (rank 1)")):
        alone = gradtool.measure(folder / f"rank{rank}.pt", digest=True)
        assert digests[name] == next(one.digest for one in alone.tensors if one.name == "loss")


@pytest.mark.parametrize("mode", ["auto", "shard", "replica"])
def test_a_gradient_that_another_rank_has_is_not_missing(mode: Any, tmp_path: Path) -> None:
    """As with pipelines of which each rank has all the model, and runs its own stage."""
    expected = 0.0
    for rank in (0, 1):
        torch.manual_seed(0)
        layers = torch.nn.ModuleList(torch.nn.Linear(4, 4).double() for _ in range(5))
        hidden = torch.randn(2, 4, dtype=torch.float64)
        for layer in layers[2 * rank : 2 * rank + 2]:  # and the last one in neither
            hidden = layer(hidden)
        hidden.square().mean().backward()
        grads = [each.grad for each in layers.parameters() if each.grad is not None]
        expected += sum(math.fsum(x * x for x in grad.flatten().tolist()) for grad in grads)
        dump_gradients(layers, tmp_path / f"grads-rank{rank}.safetensors", step=1)
    found = gradtool.measure(tmp_path, ranks=mode)
    assert [one.name for one in found.skipped] == ["4.weight", "4.bias"]
    assert total(found) == pytest.approx(math.sqrt(expected), rel=1e-12)
    assert "8 gradients that only some ranks have" in found.notes
    findings = gradtool.check(tmp_path, ranks=mode).all_findings
    assert {one.tensor for each in findings for one in each.details} == {"4.weight", "4.bias"}
