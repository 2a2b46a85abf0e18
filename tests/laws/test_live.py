"""What lies in memory is measured as a file of it is."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close
from safetensors.torch import save_file
from torch import Tensor, nn

import gradtool
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.stats import TensorStats
from gradtool.torch import dump_gradients

HAS_MLX = importlib.util.find_spec("mlx") is not None
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0)
TORCH_TYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
NUMPY_TYPES = ["f2", ">f2", "f4", ">f4", "f8", ">f8", "c8", ">c8", "c16", "i4", "?"]
NORM_TYPES = [2.0, 1.0, math.inf, -math.inf, 0.0, 3.5, -1.0]
Tree = Any


def without_sum(stats: TensorStats | None) -> TensorStats | None:
    """Statistics without the sum, whose last bits depend on what was read along."""
    return stats and replace(stats, power_sum=0.0, scale=1.0, rest=())


def tensor_figures(tensor: TensorMeasurement) -> tuple[object, list[float | None]]:
    """All that is known of a tensor but where it lies; norms apart."""
    spec, sets = tensor.spec, (tensor.stats, tensor.unique, tensor.unique_in_section)
    exact = (
        (tensor.name, spec.section, spec.dtype, spec.shape, tensor.alias_of),
        tensor.first_nonfinite,
        [*map(without_sum, sets)],
    )
    norms = [tensor.norm, tensor.finite_norm, tensor.native_norm]
    return exact, norms + [stats and stats.finite_norm for stats in sets]


def summary_figures(summary: Summary | None) -> tuple[object, list[float | None]]:
    """The same of a set."""
    if summary is None:
        return None, []
    exact = replace(summary, native_norm=None, stats=without_sum(summary.stats))
    return exact, [summary.norm, summary.finite_norm, summary.native_norm]


def are_close(ours: list[float | None], theirs: list[float | None]) -> bool:
    """Whether they are the same within the contract; both NaN, or both nothing, too."""
    return all(
        a == b or repr(a) == repr(b) or (a is not None and b is not None and close(a, b))
        for a, b in zip(ours, theirs, strict=True)
    )


def assert_same(live: Measurement, saved: Measurement) -> None:
    """Field by field, whatever the order."""
    figures, by_name = [], attrgetter("name")
    for found in (live, saved):
        sets = [*map(summary_figures, [*sorted(found.sections, key=by_name), found.total])]
        figures.append([*map(tensor_figures, sorted(found.tensors, key=by_name)), *sets])
    ours, theirs = figures
    assert [exact for exact, _ in ours] == [exact for exact, _ in theirs]
    assert all(are_close(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    skipped, also_skipped = (sorted(found.skipped, key=str) for found in (live, saved))
    assert [replace(item, extents=(), stored=None) for item in also_skipped] == [
        replace(item, stored=None) for item in skipped
    ]
    assert (live.norm_type, live.loss_scale) == (saved.norm_type, saved.loss_scale)


shapes = st.sampled_from([(), (0,), (3, 0, 2), (1,), (7,), (3, 5), (2, 1, 4), (40,), (70_001,)])


@st.composite
def storages(draw: st.DrawFn, size: int, dtype: torch.dtype) -> Tensor:
    """So many elements, with some that are not finite among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.randn(size, generator=generator, dtype=torch.float64)
    values *= draw(st.sampled_from([1.0, 1.0, 1e-30, 1e30, 1e4]))
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=2)):
        if size:
            values[draw(st.integers(0, size - 1))] = value
    return values.to(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(shapes)
    return draw(storages(math.prod(shape), draw(st.sampled_from(TORCH_TYPES)))).reshape(shape)


@st.composite
def views(draw: st.DrawFn) -> list[Tensor]:
    """Tensors of one storage: transposed, strided, expanded, overlapping or the same."""
    storage = draw(storages(600, draw(st.sampled_from(TORCH_TYPES))))
    made = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        strides = [draw(st.sampled_from([0, 1, 2, 5, 10, 25])) for _ in shape]
        made.append(torch.as_strided(storage, shape, strides, draw(st.integers(0, 250))))
    return [*made, made[0], storage[:50].reshape(5, 10).T]


keys = st.sampled_from(["w", "b", "grads", "model", "optimizer", "größe", "layers", 3])


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    """Nested dicts, lists and tuples; the top is a dict, as in what is saved."""
    inner = st.recursive(
        leaves,
        lambda child: st.one_of(
            st.lists(child, min_size=1, max_size=3),
            st.tuples(child, st.none(), child),
            st.dictionaries(keys, child, min_size=1, max_size=3),
        ),
        max_leaves=6,
    )
    return st.dictionaries(keys, inner, min_size=1, max_size=4)


@settings(max_examples=150)
@given(tree=trees(st.one_of(tensors(), views())), p=st.sampled_from(NORM_TYPES))
def test_a_tree_is_what_torch_saves_of_it(tree: Tree, p: float, scratch: Path) -> None:
    path = scratch / "tree.pt"
    torch.save(tree, path)
    live, saved = gradtool.measure(tree, norm_type=p), gradtool.measure(path, norm_type=p)
    assert_same(live, saved)
    assert [t.name for t in live.tensors] == [t.name for t in saved.tensors]
    assert live.notes == saved.notes


def test_a_negation_that_is_still_to_be_done_is_done() -> None:
    negated = torch.tensor([complex(1.0, math.inf)]).conj().imag
    assert_same(gradtool.measure({"a": negated}), gradtool.measure({"a": negated.resolve_neg()}))


@given(tree=st.dictionaries(st.sampled_from(["a", "b.c", "é"]), tensors(), min_size=1))
def test_tensors_are_what_safetensors_saves_of_them(tree: dict[str, Tensor], scratch: Path) -> None:
    path = scratch / "tree.safetensors"
    save_file(tree, path)
    assert_same(gradtool.measure(tree), gradtool.measure(path))


@st.composite
def arrays(draw: st.DrawFn) -> NDArray[Any]:
    """Of any byte order and type, and not always in C order or without gaps."""
    shape, dtype = draw(shapes), draw(st.sampled_from(NUMPY_TYPES))
    whole = draw(storages(4 * math.prod(shape), torch.float64)).numpy()
    with np.errstate(all="ignore"):
        array = np.nan_to_num(whole) if dtype in ("i4", "?") else whole
        array = array.clip(-9, 9).astype(dtype) if dtype == "i4" else array.astype(dtype)
    how = draw(st.sampled_from(["plain", "strided", "transposed", "reversed", "fortran"]))
    if how == "strided":
        return array[::4].reshape(shape) if array.size < 4 else array.reshape(*shape, 4)[..., 1]
    array = array[: math.prod(shape)].reshape(shape)
    if how == "transposed":
        return array.T
    if how == "reversed" and shape:
        return array[::-1]
    return np.asfortranarray(array) if how == "fortran" else array


@given(tree=st.dictionaries(st.sampled_from(["a", "b", "é.c"]), arrays(), min_size=1))
def test_arrays_are_what_numpy_saves_of_them(tree: dict[str, Any], scratch: Path) -> None:
    tree["always"] = np.ones(3, "f4")
    path = scratch / "tree.npz"
    np.savez(path, **tree)
    assert_same(gradtool.measure(tree), gradtool.measure(path))


@given(tree=trees(arrays()))
def test_arrays_in_a_tree_are_what_torch_saves_of_them(tree: Tree, scratch: Path) -> None:
    tree["always"] = torch.ones(3)
    path = scratch / "arrays.pt"
    torch.save(tree, path)
    assert_same(gradtool.measure(tree), gradtool.measure(path))


def model(*, tied: bool) -> nn.Module:
    """Gradients of several types, one missing, and one that is frozen."""
    torch.manual_seed(0)
    made = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    for i, parameter in enumerate(made.parameters()):
        parameter.grad = torch.randn_like(parameter) * 10.0**i
    made[1].to(torch.bfloat16)
    made[2].to(torch.float64)
    made[2].bias.grad[1] = math.nan  # type: ignore[union-attr,index]
    made[3].weight.grad = None
    made[4].weight.grad = None
    made[4].weight.requires_grad_(requires_grad=False)
    if tied:
        made[3] = made[0]
    return made


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("p", NORM_TYPES)
def test_a_module_is_its_named_parameters_and_its_dump(
    p: float, *, tied: bool, tmp_path: Path
) -> None:
    given = model(tied=tied)
    live = gradtool.measure(given, norm_type=p)
    pairs = given.named_parameters(remove_duplicate=False)
    assert_same(gradtool.measure(pairs, norm_type=p), live)
    listed = list(given.named_parameters(remove_duplicate=False))
    assert_same(gradtool.measure(listed, norm_type=p), live)
    path = dump_gradients(given, tmp_path / "dump.safetensors")
    assert_same(gradtool.measure(path, norm_type=p), live)
    scaled = dump_gradients(given, tmp_path / "scaled.safetensors", loss_scale=3.0)
    assert_same(
        gradtool.measure(scaled, norm_type=p), gradtool.measure(given, norm_type=p, loss_scale=3.0)
    )


OPTIONS: list[dict[str, Any]] = [
    {"include": "*w*"},
    {"include": ["*.w"], "exclude": ["model.*", "*.b"]},
    {"section": "grads"},
    {"section": "model", "norm_type": "inf"},
    {"loss_scale": 1024.0},
    {"loss_scale": 3.0, "norm_type": 3.0, "threads": 1},
    {"threads": 3, "norm_type": -2},
    {"section": "nowhere"},
    {"threads": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_mean_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    tree = {
        "grads": {"w": torch.randn(900, 1000, generator=rng), "b": torch.ones(3)},
        "model": {"w": torch.randn(5, generator=rng), "b": torch.zeros(2)},
        "w": torch.full((4,), 7.0),
    }
    path = tmp_path / "tree.pt"
    torch.save(tree, path)

    def ends(source: object) -> Measurement | str:
        try:
            return gradtool.measure(source, **options)
        except gradtool.UsageError as error:
            return str(error).removeprefix(f"{path}: ").removeprefix("memory: ")

    live, saved = ends(tree), ends(path)
    if isinstance(live, Measurement) and isinstance(saved, Measurement):
        assert_same(live, saved)
    else:
        assert live == saved


SHAPED: dict[str, Callable[[Any], Any]] = {
    "plain": lambda array: array,
    "transposed": lambda array: array.T,
    "strided": lambda array: array[:, ::2],
    "number": lambda array: array[:1, :1].reshape(()),
    "none": lambda array: array[:0],
}


@pytest.mark.skipif(not HAS_MLX, reason="MLX has no wheel for every platform")
@pytest.mark.parametrize("shaped", SHAPED)
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "complex64"])
def test_arrays_of_mlx_are_arrays_of_numpy(name: str, shaped: str) -> None:
    core: Any = importlib.import_module("mlx.core")
    dtype = getattr(core, name)
    values = [[1.5, -2.0, math.inf, 0.0], [3.0, math.nan, -0.25, 1e-3]]
    numpy_type = ml_dtypes.bfloat16 if name == "bfloat16" else name
    with np.errstate(all="ignore"):
        theirs = SHAPED[shaped](np.array(values).astype(numpy_type))
    ours = SHAPED[shaped](core.array(values, dtype=dtype))
    tree = {"a": ours, "inner": [ours, core.array([1])], "grads": core.array([2.0], dtype=dtype)}
    again = {
        "a": theirs,
        "inner": [theirs, np.array([1], np.int32)],
        "grads": np.array([2.0]).astype(numpy_type),
    }
    assert_same(gradtool.measure(tree), gradtool.measure(again))
