"""MLX's own published tests of `clip_grad_norm`, asked of `gradtool.numpy`.

They are in mlx's python/tests/test_optimizers.py (`test_clip_grad_norm`), and, for gradients in
shards, in python/tests/mlx_distributed_tests.py. Each runs on NumPy arrays, and on MLX arrays
where MLX is installed. Expected numbers are worked out by hand.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from gradtool.numpy import clip_grad_norm

HAS_MLX = importlib.util.find_spec("mlx") is not None
Tree = Any


def array(values: Any, library: str, dtype: str = "float32") -> Any:
    if library == "mlx":
        core = pytest.importorskip("mlx.core", reason="MLX has no wheel for every platform")
        return core.array(values, dtype=getattr(core, dtype))
    if library == "torch":
        return torch.tensor(values, dtype=getattr(torch, dtype))
    return np.array(values, dtype=ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def numbers(found: Any) -> list[float]:
    return [float(value) for value in found.flatten().tolist()]


def leaves(tree: Tree) -> list[Any]:
    """The arrays of a tree, in order."""
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    if isinstance(tree, (list, tuple)):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree]


def shape(tree: Tree) -> Tree:
    """The tree with a type in place of each array."""
    if isinstance(tree, dict):
        return {key: shape(branch) for key, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(shape(branch) for branch in tree)
    return (type(tree), tree.dtype, tuple(tree.shape))


def published(unit: float, library: str, dtype: str = "float32") -> Tree:
    """The published tree: 1, 2, 1 and 3 units in two branches, norm sqrt(15) units."""
    return {
        "first": [array([unit, 2 * unit], library, dtype), array([unit], library, dtype)],
        "second": array([3 * unit], library, dtype),
    }


every_library = pytest.mark.parametrize("library", ["numpy", "mlx", "torch"])


@every_library
def test_gradients_within_the_bound_keep_their_bits(library: str) -> None:
    """test_clip_grad_norm, first part: small gradients, equal to the last bit."""
    clipped, norm = clip_grad_norm(published(0.1, library), 10.0)
    assert shape(clipped) == shape(published(0.1, library))
    for after, before in zip(leaves(clipped), leaves(published(0.1, library)), strict=True):
        assert numbers(after) == numbers(before)
    values = [value for leaf in leaves(published(0.1, library)) for value in numbers(leaf)]
    assert type(norm) is float
    assert norm == pytest.approx(math.sqrt(math.fsum(v * v for v in values)), rel=1e-12)


@every_library
def test_clipped_gradients_have_the_bound_as_their_norm(library: str) -> None:
    """test_clip_grad_norm, second part: large gradients, in float32 instead of integers."""
    clipped, norm = clip_grad_norm(published(10.0, library), 1.0)
    assert norm == pytest.approx(math.sqrt(1500), rel=1e-12)
    values = [value for leaf in leaves(clipped) for value in numbers(leaf)]
    assert math.sqrt(math.fsum(v * v for v in values)) == pytest.approx(1.0, abs=5e-7)


@every_library
def test_every_gradient_is_scaled_by_one_factor(library: str) -> None:
    """test_clip_grad_norm, third part: each element is its old value times bound over norm."""
    clipped, norm = clip_grad_norm(published(10.0, library), 1.0)
    assert shape(clipped) == shape(published(10.0, library))
    for after, before in zip(leaves(clipped), leaves(published(10.0, library)), strict=True):
        true = [value * (1.0 / (norm + 1e-6)) for value in numbers(before)]
        assert numbers(after) == pytest.approx(true, rel=2**-24)


@every_library
@pytest.mark.parametrize("bound", [-1.0, -1e-30, -math.inf])
def test_a_negative_bound_is_refused_in_mlxs_words(library: str, bound: float) -> None:
    """test_clip_grad_norm, last part: ValueError for a bound below zero."""
    with pytest.raises(ValueError, match=r"^max_norm should be >=0, "):
        clip_grad_norm(published(0.1, library), bound)


@every_library
@pytest.mark.parametrize("members", [1, 2, 8])
def test_the_norm_is_that_of_all_shards_together(library: str, members: int) -> None:
    """test_clip_grad_norm_sharded: 17 threes on each member; here the shards are one tree."""
    shard = {"a": array([3.0] * 12, library), "b": array([3.0] * 5, library)}
    tree = [shard] * members
    unclipped, norm = clip_grad_norm([dict(shard) for shard in copies(tree, library)], 1e9)
    assert norm == pytest.approx(3 * math.sqrt(17 * members), rel=1e-12)
    assert {value for leaf in leaves(unclipped) for value in numbers(leaf)} == {3.0}
    clipped, _ = clip_grad_norm(copies(tree, library), 1.0)
    scaled = 3.0 / (norm + 1e-6)
    for leaf in leaves(clipped):
        assert numbers(leaf) == pytest.approx([scaled] * len(numbers(leaf)), rel=2**-23)


def copies(tree: list[dict[str, Any]], library: str) -> list[dict[str, Any]]:
    """The same numbers in arrays of their own, as members of a group would hold them."""
    return [{k: array(numbers(leaf), library) for k, leaf in shard.items()} for shard in tree]


@every_library
def test_a_step_from_the_documentation_comes_out_as_by_hand(library: str) -> None:
    """The example in MLX's docstring: (2, 3) and (1), clipped to a norm of 2."""
    tree = {"w1": array([2.0, 3.0], library), "w2": array([1.0], library)}
    clipped, norm = clip_grad_norm(tree, max_norm=2.0)
    assert norm == pytest.approx(math.sqrt(14), rel=1e-12)
    coef = 2 / (math.sqrt(14) + 1e-6)
    assert numbers(clipped["w1"]) == pytest.approx([2 * coef, 3 * coef], rel=2**-23)
    assert numbers(clipped["w2"]) == pytest.approx([coef], rel=2**-23)


@every_library
def test_the_gradients_handed_in_are_not_touched(library: str) -> None:
    """What mlx's immutable arrays give for nothing."""
    tree = published(10.0, library)
    branches, arrays = (tree, tree["first"]), leaves(tree)
    clip_grad_norm(tree, 1.0)
    assert [numbers(leaf) for leaf in arrays] == [[10.0, 20.0], [10.0], [30.0]]
    assert tree is branches[0]
    assert tree["first"] is branches[1]
    assert all(leaf is held for leaf, held in zip(leaves(tree), arrays, strict=True))


@every_library
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("bound", [1.0, 1e9])
def test_dtypes_are_kept_whether_clipped_or_not(library: str, dtype: str, bound: float) -> None:
    """MLX gives float32 for half gradients that met a float32 norm; gradtool keeps the dtype."""
    tree = {"w": array([3.0, 4.0], library, dtype)}
    clipped, norm = clip_grad_norm(tree, bound)
    assert shape(clipped) == shape(tree)
    assert norm == 5.0


@every_library
def test_tuples_nests_and_empty_branches_come_back_as_they_went_in(library: str) -> None:
    tree = {"a": (array([3.0], library), [{"b": array([4.0], library)}, ()]), "c": {}, "d": []}
    clipped, norm = clip_grad_norm(tree, 1.0)
    assert norm == 5.0
    assert shape(clipped) == shape(tree)


@pytest.mark.parametrize("tree", [{}, [], (), {"a": [], "b": ({},)}])
def test_a_tree_without_arrays_has_norm_zero(tree: Tree) -> None:
    assert clip_grad_norm(tree, 1.0) == (tree, 0.0)


@every_library
def test_a_lone_array_is_a_tree(library: str) -> None:
    clipped, norm = clip_grad_norm(array([3.0, 4.0], library), 10.0)
    assert norm == 5.0
    assert numbers(clipped) == [3.0, 4.0]


@pytest.mark.skipif(not HAS_MLX, reason="MLX has no wheel for every platform")
@pytest.mark.parametrize("bound", [0.0, 1e-3, 1.0, 38.0, 39.0, 1e9])
def test_mlx_itself_agrees_where_its_float32_is_enough(bound: float) -> None:
    optimizers = pytest.importorskip("mlx.optimizers", reason="MLX is not installed")
    theirs, their_norm = optimizers.clip_grad_norm(published(10.0, "mlx"), bound)
    ours, norm = clip_grad_norm(published(10.0, "mlx"), bound)
    assert norm == pytest.approx(their_norm.item(), rel=2**-22)
    for mine, other in zip(leaves(ours), leaves(theirs), strict=True):
        assert numbers(mine) == pytest.approx(numbers(other), rel=2**-21)


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@every_library
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("bound", [2.0, 1e9])
def test_integers_come_back_as_float32(library: str, dtype: str, bound: float) -> None:
    """The example in MLX's docstring as it stands there: arrays of integers."""
    tree = {"w1": array([2, 3], library, dtype), "w2": array([1], library, dtype)}
    clipped, norm = clip_grad_norm(tree, bound)
    assert norm == pytest.approx(math.sqrt(14), rel=1e-15)
    assert shape(clipped) == shape({"w1": array([2, 3], library), "w2": array([1], library)})
    coef = min(1.0, bound / (math.sqrt(14) + 1e-6))
    assert [numbers(leaf) for leaf in leaves(clipped)] == [
        pytest.approx([2 * coef, 3 * coef], rel=2**-23),
        pytest.approx([coef], rel=2**-23),
    ]
    assert numbers(tree["w1"]) == [2.0, 3.0], "what is in them stays as it is"


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_squares_of_integers_do_not_wrap_around(library: str) -> None:
    """In MLX, 200 as uint8 has norm 8."""
    tree = [array([200], library, "uint8"), array([2**31, -(2**31)], library, "int64")]
    assert clip_grad_norm(tree, 1.0)[1] == pytest.approx(math.sqrt(2**63 + 200**2), rel=1e-15)


@every_library
def test_a_nan_or_an_infinity_elsewhere_is_in_the_integers_too(library: str) -> None:
    for bad, after in ((math.nan, math.nan), (math.inf, 0.0)):
        clipped, _ = clip_grad_norm(
            {"n": array([1, 2], library, "int32"), "w": array([bad], library)}, 1.0
        )
        assert numbers(clipped["n"]) == pytest.approx([after, after], nan_ok=True)


@pytest.mark.skipif(not HAS_MLX, reason="MLX has no wheel for every platform")
@pytest.mark.parametrize("dtype", [*INTEGERS, "bool_"])
@pytest.mark.parametrize("values", [[1, 0, 1], [1], [], 1, [[1, 0], [0, 1]]], ids=str)
@pytest.mark.parametrize("bound", [0.0, 1.0, 1e9])
def test_mlx_itself_gives_the_same_for_integers(dtype: str, values: Any, bound: float) -> None:
    optimizers = pytest.importorskip("mlx.optimizers", reason="MLX is not installed")
    tree = {"n": array(values, "mlx", dtype), "w": array([2.0, 1.0], "mlx", "bfloat16")}
    theirs, their_norm = optimizers.clip_grad_norm(dict(tree), bound)
    ours, norm = clip_grad_norm(tree, bound)
    assert shape(ours) == shape(theirs)
    assert norm == pytest.approx(their_norm.item(), rel=2**-22)
    for mine, other in zip(leaves(ours), leaves(theirs), strict=True):
        assert numbers(mine) == pytest.approx(numbers(other), rel=2**-7)
