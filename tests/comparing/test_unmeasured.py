"""`gradtool.diff` of what is no gradient, or cannot be measured: nothing of it is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gradtool
from tests.command_line import run

W = torch.tensor([3.0, 4.0, -1.0])
EYE = torch.eye(4)
TURNED = EYE[[1, 0, 2, 3]]

Source = Any


def sources(tensors: dict[str, torch.Tensor], path: Path) -> list[Source]:
    """The tensors in memory, and saved."""
    torch.save(tensors, path)
    return [tensors, path]


def differences(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], folder: Path) -> Any:
    """Both compared, in memory and saved."""
    both = zip(sources(a, folder / "a.pt"), sources(b, folder / "b.pt"), strict=True)
    return [gradtool.diff(one, other) for one, other in both]


def test_an_integer_that_one_dump_alone_has_is_a_difference(tmp_path: Path) -> None:
    ids = {"ids": torch.arange(3)}
    for found in differences({"w": W, **ids}, {"w": W}, tmp_path):
        assert not found.same and not found.identical
        assert (found.only_in_a, found.only_in_b) == (("ids",), ())
    for found in differences({"w": W}, {"w": W, **ids}, tmp_path):
        assert (found.only_in_a, found.only_in_b) == ((), ("ids",))


def test_integers_pair_by_maps_as_gradients_do() -> None:
    a = {"net.w": W, "net.ids": torch.arange(3)}
    b = {"w": W, "ids": torch.arange(3)}
    assert gradtool.diff(a, b, name_map="net.*=*").identical
    assert gradtool.diff({"net.w": W}, {"w": W}, name_map="net.*=*").identical


@pytest.mark.filterwarnings("ignore:Sparse C")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_the_same_values_in_other_places_of_a_sparse_tensor_differ(
    layout: str, tmp_path: Path
) -> None:
    one, other = getattr(EYE, layout)(), getattr(TURNED, layout)()
    assert all(found.identical for found in differences({"w": one}, {"w": one}, tmp_path))
    for found in differences({"w": one}, {"w": other}, tmp_path):
        assert not found.same
        assert [pair.identical for pair in found.tensors] == [True]
        assert any(not pair.identical for pair in found.others)


@pytest.mark.filterwarnings("ignore:Sparse C")
def test_two_sparse_layouts_are_not_the_same_for_equal_values(tmp_path: Path) -> None:
    for found in differences({"w": EYE.to_sparse()}, {"w": TURNED.to_sparse_csr()}, tmp_path):
        assert not found.same
        assert found.only_in_a == ("w.indices",)
        assert any("'w' is sparse in A" in note for note in found.notes)


def test_a_sparse_tensor_against_a_dense_one_is_told_as_that(tmp_path: Path) -> None:
    for found in differences({"w": EYE}, {"w": EYE.to_sparse()}, tmp_path):
        assert not found.same
        assert "'w' is sparse in B, and in A dense" in " ".join(found.notes)


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_what_cannot_be_compared_is_not_told_to_be_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path, scale in zip(paths, (0.1, 0.2), strict=True):
        values = torch.quantize_per_tensor(torch.ones(4), scale, 0, torch.qint8)
        torch.save({"w": W, "q": values}, path)
    found = gradtool.diff(*paths)
    assert not found.same
    assert not found.identical
    assert [item.name for item in found.not_compared] == ["q"]
    assert found.to_dict()["not_compared"] == ["q"]
    assert gradtool.diff(*paths, exclude="q").identical
    shown = run("check", str(paths[0]), "--against", str(paths[1]), "--select", "GT411")
    assert shown.returncode == 1
    assert "'q' (torch.qint8: quantized)" in shown.stdout
    for style in ("table", "markdown", "github", "junit", "html"):
        shown = run("diff", *map(str, paths), "-f", style)
        assert shown.returncode == 1
        assert "1 tensor not compared" in shown.stdout
        assert "quantized" in shown.stdout


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_of_copies_of_a_file_all_is_the_same(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"w": W, "q": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, path)
    copy.write_bytes(path.read_bytes())
    found = gradtool.diff(path, copy)
    assert found.identical
    assert not found.not_compared


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_a_side_without_a_file_is_not_told_to_be_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        values = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
        torch.save({"w": W, "q": values}, path)
    assert not gradtool.diff(paths[0], {"w": W})
