"""What clip takes for gradients, and what it does not do unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradtool


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refused(
    path: Path, match: str, error: type[Exception] = gradtool.UsageError, **how: Any
) -> None:
    before = path.read_bytes()
    out = path.with_name("out")
    with pytest.raises(error, match=match):
        gradtool.clip(path, out, **{"max_norm": 0.1, **how})
    assert sorted(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", ["loss", "net", "policy"])
@pytest.mark.parametrize("how", [{"section": "grads"}, {"section": "gradients"}, {}])
def test_what_is_not_known_to_be_gradients_is_not_clipped_beside_them(
    other: str, how: dict[str, str], tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pt", {"gradients": {"w": torch.ones(3)}, other: torch.tensor(2.5)})
    outcome = gradtool.clip(path, tmp_path / "out", max_norm=0.1, eps=0, **how)
    assert outcome.norm_before == pytest.approx(3**0.5, rel=1e-15)
    assert torch.load(tmp_path / "out")[other] == 2.5
    assert gradtool.measure(path).total == gradtool.measure(path, section="grads").total
    by_name = gradtool.clip(path, tmp_path / "named", max_norm=0.1, eps=0, section="other")
    assert by_name.norm_before == 2.5
    assert torch.load(tmp_path / "named")[other] == pytest.approx(0.1)


@pytest.mark.parametrize("key", ["model", "optimizer"])
def test_weights_and_moments_are_clipped_only_when_chosen_by_name(key: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {key: {"w": torch.ones(4)}})
    refused(path, "no gradients.*`section` or `include`")
    refused(path, "no gradients", exclude="*.b")
    assert gradtool.clip(path, tmp_path / "a", max_norm=1, eps=0, section=key).norm_after == 1.0
    assert gradtool.clip(path, tmp_path / "b", max_norm=1, eps=0, include="*").norm_after == 1.0


def test_the_state_of_an_optimizer_is_no_gradient(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    refused(saved(tmp_path / "x.pt", optimizer.state_dict()), "holds optimizer state")


@pytest.mark.parametrize("typo", [{"exlude": "a"}, {"nonfinit": "zero"}, {"foo": 1}])
def test_an_option_that_does_not_exist_is_an_error(typo: dict[str, Any], tmp_path: Path) -> None:
    refused(saved(tmp_path / "x.pt", {"a": torch.ones(3)}), "unexpected keyword", TypeError, **typo)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": "3"},
        {"threads": 0},
        {"include": 3},
        {"include": b"a*"},
        {"raw_dtype": 3},
        {"raw_dtype": torch.bfloat16},
        {"max_norm": [1]},
    ],
)
def test_an_option_of_another_type_is_a_usage_error(wrong: dict[str, Any], tmp_path: Path) -> None:
    refused(saved(tmp_path / "x.pt", {"a": torch.ones(3)}), "must be|no known dtype", **wrong)


def test_filters_may_come_from_a_generator(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(4) for name in "abc"}, path)
    outcome = gradtool.clip(
        path, tmp_path / "out", max_norm=1, eps=0, exclude=(name for name in ["a"])
    )
    assert outcome.norm_after == pytest.approx(1.0, rel=1e-7)


def test_a_sparse_tensor_that_is_left_out_is_not_changed_through_another(tmp_path: Path) -> None:
    values = torch.randn(4)
    indices = torch.tensor([[0, 1, 1, 2]])
    sparse = torch.sparse_coo_tensor(indices, values, (5,), check_invariants=True)
    path = saved(tmp_path / "x.pt", {"v": values, "s": sparse})
    refused(path, "'s': is sparse and not coalesced", gradtool.UnsupportedFormatError)
    refused(path, "'s' and 'v' share stored elements", exclude="s*")


@pytest.mark.parametrize(
    ("name", "out"), [("x.pt", "o\0ut"), ("x.pt", "loop"), ("\0", "out")], ids=["nul", "loop", "in"]
)
def test_paths_that_cannot_be_are_errors_of_ours(name: str, out: str, tmp_path: Path) -> None:
    saved(tmp_path / "x.pt", {"a": torch.ones(3)})
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    with pytest.raises((gradtool.InputError, gradtool.UsageError)):
        gradtool.clip(f"{tmp_path}/{name}", f"{tmp_path}/{out}", max_norm=1)


def test_a_directory_called_like_an_index_is_a_directory(tmp_path: Path) -> None:
    run = tmp_path / "ck.index.json"
    run.mkdir()
    save_file({"w": torch.ones(4)}, run / "g.safetensors")
    save_file({"w": torch.ones(9)}, tmp_path / "g.safetensors")
    outcome = gradtool.clip(run, tmp_path / "out", max_norm=1, eps=0)
    assert outcome.norm_after == 1.0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["g.safetensors"]


def test_zeros_that_nobody_asked_for_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, w=np.array([3, 4], np.float16))
    assert gradtool.clip(path, tmp_path / "a", max_norm=1e-9).notes == (
        "every element is 0 now: what was asked for is too small for them",
    )
    assert gradtool.clip(path, tmp_path / "b", max_norm=0).notes == ()


def test_a_factor_that_float64_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, w=np.array([1e300, 1e300]))
    refused(path, "too far from", gradtool.NormRangeError, max_norm=1e-22)
    np.savez(path, w=np.array([1e308]))
    refused(path, "larger than any float64", gradtool.NormRangeError, eps=1e308)


def test_clamping_to_what_rounds_to_the_largest_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"w": torch.tensor([0.1, 0.05]).bfloat16()})
    outcome = gradtool.clip(path, tmp_path / "out", clip_value=0.1)
    assert outcome.tensors_changed == 0
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", [".gradtool-notes.tmp", ".gradtool-0123456789abcdef.tmp"])
def test_a_directory_that_is_no_workspace_keeps_what_it_holds(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": torch.ones(3)})
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("precious")
    gradtool.clip(path, tmp_path / "out", max_norm=1)
    assert (tmp_path / name / "thesis.txt").read_text() == "precious"
