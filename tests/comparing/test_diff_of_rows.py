"""Tensors against rows of others: of projections that one of two programs has put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

import gradtool
from gradtool import UsageError

Arrays = dict[str, NDArray[Any]]
Save = Callable[[Path, Arrays], Path]

SIZES = {"q": 12, "k": 4, "v": 6}
"""Rows of the three projections."""

ENDS = {"q": "[0:12]", "k": "[12:16]", "v": "[16:22]"}
LAYERS = 3
ONTO = [f"model.*.{one}.weight=layers.*.qkv.weight{ENDS[one]}" for one in SIZES]
OFF = ["=".join(reversed(one.split("="))) for one in ONTO]


def apart(seed: int = 0) -> Arrays:
    """The projections, one by one."""
    random = np.random.default_rng(seed)
    return {
        f"model.{layer}.{one}.weight": random.normal(size=(rows, 5)).astype(np.float32)
        for layer in range(LAYERS)
        for one, rows in SIZES.items()
    }


def changed(arrays: Arrays) -> Arrays:
    """The same with a few kinds of differences."""
    found = {name: array.copy() for name, array in arrays.items()}
    found["model.0.v.weight"] *= -1
    found["model.1.k.weight"][2, 3] += 0.5
    found["model.2.q.weight"][11, 4] = np.nan
    return found


def together(arrays: Arrays) -> Arrays:
    """The projections of each layer in one array."""
    return {
        f"layers.{layer}.qkv.weight": np.concatenate(
            [arrays[f"model.{layer}.{one}.weight"] for one in SIZES]
        )
        for layer in range(LAYERS)
    }


def as_rows(arrays: Arrays) -> Arrays:
    """What NumPy cuts out of the arrays of each layer, named as rows are."""
    return {
        f"layers.{layer}.qkv.weight{end}": array[slice(*map(int, end[1:-1].split(":")))].copy()
        for layer, array in enumerate(together(arrays).values())
        for end in ENDS.values()
    }


def _safetensors(folder: Path, arrays: Arrays) -> Path:
    save_file(arrays, folder / "dump.safetensors")
    return folder / "dump.safetensors"


def _deflated(folder: Path, arrays: Arrays) -> Path:
    np.savez_compressed(folder / "dump.npz", **arrays)
    return folder / "dump.npz"


def _deflated_columns(folder: Path, arrays: Arrays) -> Path:
    turned: Arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    return _deflated(folder, turned)


def _views(folder: Path, arrays: Arrays) -> Path:
    """Every other column of wider tensors."""
    wide = {name: torch.from_numpy(np.repeat(array, 2, axis=1)) for name, array in arrays.items()}
    torch.save({name: tensor[:, ::2] for name, tensor in wide.items()}, folder / "dump.pt")
    return folder / "dump.pt"


LAYOUTS: dict[str, Save] = {
    "safetensors": _safetensors,
    "deflated": _deflated,
    "deflated columns": _deflated_columns,
    "views": _views,
}


def figures(difference: gradtool.Difference) -> str:
    """All that is told of tensors, as JSON: NaN equals itself there."""
    told = difference.to_dict()
    keys = ("same", "first_difference", "diagnosis", "sections", "tensors")
    return json.dumps({key: told[key] for key in (*keys, "only_in_a", "only_in_b")}, indent=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_figures_of_rows_are_those_of_what_numpy_cuts_out(layout: str, tmp_path: Path) -> None:
    """A file whose tensors are the rows, and are called so, is told in the very same digits."""
    one, other = apart(), changed(apart())
    fused = LAYOUTS[layout](tmp_path, together(other))
    (tmp_path / "cut").mkdir()
    cut = LAYOUTS[layout](tmp_path / "cut", as_rows(other))
    found = gradtool.diff(one, fused, name_map=ONTO)
    assert figures(found) == figures(gradtool.diff(one, cut, name_map=ONTO))
    assert [tensor.name for tensor in found.tensors if not tensor.same] == [
        "model.0.v.weight",
        "model.1.k.weight",
        "model.2.q.weight",
    ]
    back = gradtool.diff(fused, one, name_map=OFF)
    assert figures(back) == figures(gradtool.diff(cut, one, name_map=OFF))
    assert back.first_difference == "layers.0.qkv.weight[16:22]"
    assert back["layers.1.qkv.weight[12:16]"].first_differing == (2, 3)


def test_rows_of_both_dumps() -> None:
    """A map's OLD and NEW may both be rows: here v stands first in B."""
    a = together(apart())
    b = {name: np.concatenate([array[16:], array[:16]]) for name, array in a.items()}
    found = gradtool.diff(a, b, name_map=["*.qkv.weight[16:]=*.qkv.weight[:6]", "*[:16]=*[-16:]"])
    assert found.identical
    assert (found.tensors[1].name, found.tensors[1].b.name) == (
        "layers.0.qkv.weight[16:22]",
        "layers.0.qkv.weight[0:6]",
    )


def test_rows_that_no_map_names_are_told_and_so_are_tensors_without_rows() -> None:
    a, b = apart(), together(apart())
    del b["layers.2.qkv.weight"]
    found = gradtool.diff(a, b, name_map="model.*.k.weight=layers.*.qkv.weight[12:16]")
    assert [tensor.name for tensor in found.tensors] == ["model.0.k.weight", "model.1.k.weight"]
    assert all(tensor.identical for tensor in found.tensors)
    rest = [f"layers.{layer}.qkv.weight{end}" for layer in (0, 1) for end in ("[0:12]", "[16:22]")]
    assert [*found.only_in_b] == rest
    assert "model.2.k.weight" in found.only_in_a and len(found.only_in_a) == 7


def test_one_row_is_a_tensor_without_the_first_axis() -> None:
    """As NumPy has it; the number may be what a name has in the place of `*`."""
    stacked = np.random.default_rng(3).normal(size=(4, 5, 3)).astype(np.float32)
    experts = {f"experts.{number}.w1": stacked[number] for number in range(4)}
    assert gradtool.diff(experts, {"w1": stacked}, name_map="experts.*.w1=w1[*]").identical
    assert gradtool.diff({"w1": stacked}, experts, name_map="experts.*.w1=w1[*]").identical
    few = {name: experts[name] for name in ("experts.0.w1", "experts.3.w1")}
    found = gradtool.diff(few, {"w1": stacked}, name_map="experts.*.w1=w1[*]")
    assert found.only_in_b == ("w1[1:3]",)
    assert [tensor.b.name for tensor in found.tensors] == ["w1[0]", "w1[3]"]
    kept = gradtool.diff({"w1": stacked}, {"last": stacked[3:]}, name_map="w1[-1:]=last")
    assert kept.tensors[0].identical


def test_wrappers_of_the_tensor_that_has_the_rows_are_taken_off() -> None:
    a = apart()
    b = {f"module.{name}": array for name, array in together(a).items()}
    found = gradtool.diff(a, b, name_map=ONTO)
    assert found.identical
    assert found.tensors[0].b.name == "module.layers.0.qkv.weight[0:12]"
    stripped = {f"net.{name}": array for name, array in together(a).items()}
    assert gradtool.diff(a, stripped, name_map=ONTO, strip_prefix="net.").identical


def test_maps_before_it_are_in_force() -> None:
    a = {f"net.{name}": array for name, array in apart().items()}
    assert gradtool.diff(a, together(apart()), name_map=["net.*=*", *ONTO]).identical


def test_globs_of_names_fit_the_tensor_that_rows_are_of() -> None:
    a, b = together(apart()), changed(apart())
    bounds = {"*.qkv.weight": {"max_rel_l2": 9.0}, "*": {}}
    found = gradtool.diff(a, b, name_map=OFF, tolerances=bounds)
    assert [tensor.name for tensor in found.tensors if not tensor.same] == [
        "layers.2.qkv.weight[0:12]"  # of the NaN
    ]
    turned: Arrays = {name: array.T for name, array in apart().items()}
    assert gradtool.diff(a, turned, name_map=OFF, transpose="*.qkv.weight").identical


W = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.mark.parametrize(
    ("maps", "problem"),
    [
        (["x=w[0:5]"], r"no such rows in 'w', of shape \[4, 2\]"),
        (["x=w[-5:]"], r"no such rows in 'w', of shape \[4, 2\]"),
        (["x=w[4]"], r"no such rows in 'w', of shape \[4, 2\]"),
        (["x=w[2:2]"], r"no such rows in 'w', of shape \[4, 2\]"),
        (["x=w[3:1]"], r"no such rows in 'w', of shape \[4, 2\]"),
        (["x=s[0:1]"], r"no such rows in 's', of shape \[\]"),
        (["x=e[0:1]"], r"no such rows in 'e', of shape \[0, 2\]"),
        (["w[0:5]=x"], r"no such rows in 'w', of shape \[4, 2\]"),
        (["x=w[0:999999999999999999]"], r"no such rows in 'w'"),
        (["x=v[0:1]"], r"there is no tensor 'v' to take rows of; the nearest names are"),
        (["y[0:1]=x"], r"fits no name of either dump"),
        (["x=w[0:3]", "y=w[2:4]"], r"takes rows of 'w' twice: \[0:3\] and \[2:4\]"),
        (["x=w[1]", "y=w[1:2]"], r"takes rows of 'w' twice"),
        (["x=w[0:3]", "y=w[-4:-1]"], r"makes one name, 'w\[0:3\]', of 'x', 'y'"),
        (["w[0:3]=x", "w[:3]=y"], r"the rows \[0:3\] of 'w' are taken twice"),
        (["x=l[1:]"], r"makes rows of the name of a tensor: 'l\[0:1\]'"),
    ],
)
def test_rows_that_are_not_there_or_taken_twice_are_refused(maps: list[str], problem: str) -> None:
    a = {"x": W[:3], "y": W[:2]}
    scalar, empty = np.float32(1.0).reshape(()), W[:0]
    b = {"w": W, "s": scalar, "e": empty, "l": W, "l[0:1]": W}
    if "w[0:3]=x" in maps or maps[0].startswith("w[") or maps[0].startswith("y["):
        a, b = b, {"x": W[:3], "z": W[:2]}
    with pytest.raises(UsageError, match=problem):
        gradtool.diff(a, b, name_map=maps)


def test_a_tensor_that_is_called_like_rows_is_what_is_meant() -> None:
    b = {"w": W, "w[0:2]": W[2:]}
    found = gradtool.diff({"x": W[2:], "w": W}, b, name_map="x=w[0:2]")
    assert found.identical
    back = gradtool.diff(b, {"x": W[2:], "w": W}, name_map="w[0:2]=x")
    assert back.identical


def test_many_rows_of_a_long_name_are_refused() -> None:
    """The names of the rows would take far more memory than the dumps do."""
    name = "module." * 20_000 + "w"
    experts = {f"e.{number}": W[0] for number in range(1000)}
    stacked = {name: np.zeros((1000, 2), np.float32)}
    with pytest.raises(UsageError, match="takes too many rows"):
        gradtool.diff(experts, stacked, name_map="e.*=w[*]")
